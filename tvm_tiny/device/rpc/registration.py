# SPDX-License-Identifier: Apache-2.0
"""model_functions.c: the table of packed functions by which an RPC client finds compiled models in a firmware image."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_tiny.device.artifact import Artifact, Tensor
from tvm_tiny.errors import InputError

# DLPack's type code and bits.
_DTYPES = {
    "int8": (0, 8),
    "uint8": (1, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "float32": (2, 32),
    "bool": (6, 8),
}
_MAX_ARGS = 16  # TINY_RPC_MAX_ARGS


def emit_functions_c(artifacts: Sequence[Artifact]) -> str:
    """C text that registers `tvmgen_<name>_run(inputs..., outputs...)` of each model, its tensors in the model's order.

    Each wrapper checks number, dtype and shape of its tensors before the model sees an address.

    Raises
    ------
    InputError
        Two models have the same name, or one has more tensors than a call can carry.
    """
    names = [artifact.name for artifact in artifacts]
    if len(set(names)) != len(names):
        raise InputError(f"two models of one image have the same name: {', '.join(sorted(names))}", remedy="compile one under another name")
    for artifact in artifacts:
        count = len(artifact.inputs) + len(artifact.outputs)
        if count > _MAX_ARGS:
            raise InputError(
                f"{artifact.name} has {count} inputs and outputs; a call over RPC carries {_MAX_ARGS}", remedy="use the standalone app"
            )
    includes = "".join(f'#include "tvmgen_{name}.h"\n' for name in names)
    rows = "".join(f'    {{"tvmgen_{name}_run", call_{name}, NULL}},\n' for name in names)
    return (
        "/* Generated from metadata.json: the functions an RPC client finds in this image. */\n"
        f'#include "tiny_rpc.h"\n{includes}\n'
        + "\n".join(_wrapper(artifact) for artifact in artifacts)
        + f"\nconst tiny_rpc_function_t tiny_rpc_functions[] = {{\n{rows}}};\n"
        + f"const uint32_t tiny_rpc_num_functions = {len(names)}u;\n"
    )


def _wrapper(artifact: Artifact) -> str:
    function = f"tvmgen_{artifact.name}_run"
    tensors = [*artifact.inputs, *artifact.outputs]
    shapes = "".join(f"  static const int32_t shape_{i}[] = {{{_extents(t)}}};\n" for i, t in enumerate(tensors))
    specs = "".join(f"      {_spec(i, t)},\n" for i, t in enumerate(tensors))
    inputs = ", ".join(f".{t.c_name} = data[{i}]" for i, t in enumerate(artifact.inputs))
    outputs = ", ".join(f".{t.c_name} = data[{i}]" for i, t in enumerate(artifact.outputs, len(artifact.inputs)))
    return (
        f"static int32_t call_{artifact.name}(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {{\n"
        f"{shapes}  static const tiny_rpc_tensor_spec_t specs[] = {{\n{specs}  }};\n"
        f"  void *data[{len(tensors)}];\n"
        "  (void)self, (void)result;\n"
        f'  if (tiny_rpc_check_tensors("{function}", specs, {len(tensors)}, args, num_args, data) != 0) return -1;\n'
        f"  struct tvmgen_{artifact.name}_inputs inputs = {{{inputs}}};\n"
        f"  struct tvmgen_{artifact.name}_outputs outputs = {{{outputs}}};\n"
        f"  const int32_t status = {function}(&inputs, &outputs);\n"
        f'  return status == 0 ? 0 : tiny_rpc_fail("RuntimeError: {function} failed in layer %d", status - 1);\n'
        "}\n"
    )


def _extents(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape)) or "0"


def _spec(index: int, tensor: Tensor) -> str:
    code, bits = _DTYPES[tensor.dtype]
    return f'{{"{tensor.c_name}", {{{code}, {bits}, 1}}, {len(tensor.shape)}, 1, shape_{index}}}'
