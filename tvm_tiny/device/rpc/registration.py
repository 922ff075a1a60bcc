# SPDX-License-Identifier: Apache-2.0
"""model_functions.c: the table of packed functions by which an RPC client finds compiled models in a firmware image."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_tiny.device.artifact import Artifact, Tensor
from tvm_tiny.device.model_glue import fetch_function, input_field
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


def emit_functions_c(artifacts: Sequence[Artifact], *, run_code: bool = False) -> str:
    """C text that registers the functions of each model, tensors in the model's order.

    `tvmgen_<name>_run(inputs..., outputs...)`
        One inference.
    `tvmgen_<name>_layer_<i>(inputs..., outputs...)`
        Layer i alone, on the layer's own tensors; layers of more tensors than a call carries have none.
    `tvmgen_<name>_layer_ticks()`
        Bytes: a u32 a layer, how long each ran in the last inference, in ticks of the device's counter (zeros without one).

    Each wrapper checks number, dtype and shape of its tensors before the model sees an address.

    With `run_code`, `tiny_rpc.place_of_code` and `tiny_rpc.run_code` besides (rpc_code.h).

    Raises
    ------
    InputError
        Two models have the same name, or one has more tensors than a call can carry.
    """
    names = [artifact.name for artifact in artifacts]
    if len(set(names)) != len(names):
        raise InputError(f"two models of one image have the same name: {', '.join(sorted(names))}", remedy="compile one under another name")
    for artifact in artifacts:
        count = len(artifact.inputs) + max(len(artifact.outputs), 1)
        if count > _MAX_ARGS:
            raise InputError(
                f"{artifact.name} has {count} inputs and outputs; a call over RPC carries {_MAX_ARGS}", remedy="use the standalone app"
            )
    includes = "".join(f'#include "tvmgen_{name}.h"\n' for name in names)
    includes += "".join(f'#include "tvmgen_{a.name}_layers.h"\n' for a in artifacts if _callable_layers(a))
    rows = [row for artifact in artifacts for row in _rows(artifact)]
    if run_code:
        includes += '#include "rpc_code.h"\n'
        rows.append("    TINY_RPC_CODE_FUNCTIONS,\n")
    return (
        "/* Generated from metadata.json: the functions an RPC client finds in this image. */\n"
        f'#include "rpc_layers.h"\n{includes}\n'
        + "\n".join(part for artifact in artifacts for part in (_tables(artifact), _run(artifact), _layers(artifact)) if part)
        + f"\nconst tiny_rpc_function_t tiny_rpc_functions[] = {{\n{''.join(rows)}}};\n"
        + "const uint32_t tiny_rpc_num_functions = sizeof(tiny_rpc_functions) / sizeof(tiny_rpc_functions[0]);\n"
    )


def _callable_layers(artifact: Artifact) -> list[int]:
    """Indices of the layers that have a function of their own which a call can carry."""
    tensors = ((i, artifact.layer_tensors(i)) for i in range(len(artifact.layers)))
    return [i for i, (inputs, outputs) in tensors if outputs and len(inputs) + len(outputs) <= _MAX_ARGS]


def _rows(artifact: Artifact) -> list[str]:
    name = artifact.name
    rows = [f'    {{"tvmgen_{name}_run", call_{name}, NULL}},\n']
    if artifact.layers:
        rows.append(f'    {{"tvmgen_{name}_layer_ticks", ticks_of_{name}, NULL}},\n')
    layers = enumerate(_callable_layers(artifact))
    return rows + [f'    {{"tvmgen_{name}_layer_{i}", layer_of_{name}, (void *){row}}},\n' for row, i in layers]


def _tables(artifact: Artifact) -> str:
    ticks = f"static uint32_t ticks_{artifact.name}[{max(len(artifact.layers), 1)}];\n"
    return _specs(artifact.name, [*artifact.inputs, *artifact.outputs]) + ticks


def _specs(label: str, tensors: Sequence[Tensor]) -> str:
    shapes = "".join(f"static const int32_t shape_{label}_{i}[] = {{{_extents(t)}}};\n" for i, t in enumerate(tensors))
    specs = "".join(f"    {_spec(f'shape_{label}_{i}', t)},\n" for i, t in enumerate(tensors))
    return f"{shapes}static const tiny_rpc_tensor_spec_t specs_{label}[] = {{\n{specs}}};\n"


_ARGUMENTS = "(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result)"


def _run(artifact: Artifact) -> str:
    name, tensors = artifact.name, [*artifact.inputs, *artifact.outputs]
    fetch = f"fetch_{name}"
    functions = "".join(fetch_function(t, fetch) for t in artifact.inputs if t.fetched)
    inputs = ", ".join(input_field(t, f"data[{i}]", fetch) for i, t in enumerate(artifact.inputs))
    outputs = ", ".join(f".{t.c_name} = data[{i}]" for i, t in enumerate(artifact.outputs, len(artifact.inputs)))
    return (
        f"{functions}static int32_t run_{name}(void **data) {{\n"
        f"  struct tvmgen_{name}_inputs inputs = {{{inputs}}};\n"
        f"  struct tvmgen_{name}_outputs outputs = {{{outputs}}};\n"
        f"  const int32_t status = tvmgen_{name}_run(&inputs, &outputs);\n"
        f'  return status == 0 ? 0 : tiny_rpc_fail("RuntimeError: tvmgen_{name}_run failed in layer %d", status - 1);\n'
        "}\n\n"
        f"static int32_t call_{name}{_ARGUMENTS} {{\n"
        f"  void *data[{len(tensors)}];\n"
        "  (void)self, (void)result;\n"
        f'  if (tiny_rpc_check_tensors("tvmgen_{name}_run", specs_{name}, {len(tensors)}, args, num_args, data) != 0) return -1;\n'
        f"  tiny_rpc_layers_watch(ticks_{name}, {len(artifact.layers)}u);\n"
        f"  return run_{name}(data);\n"
        "}\n"
    )


def _layers(artifact: Artifact) -> str:
    name, layers = artifact.name, _callable_layers(artifact)
    if not artifact.layers:
        return ""
    ticks = (
        f"static int32_t ticks_of_{name}{_ARGUMENTS} {{\n"
        f"  static tiny_rpc_bytes_t bytes = {{(const char *)ticks_{name}, sizeof(ticks_{name})}};\n"
        "  (void)self, (void)args, (void)num_args;\n"
        "  result->type_index = TINY_RPC_BYTE_ARRAY;\n"
        "  result->v.bytes = &bytes;\n"
        "  return 0;\n"
        "}\n"
    )
    if not layers:
        return ticks
    rows = "".join(
        f'    {{"tvmgen_{name}_layer_{i}", specs_{name}_layer_{i}, {_count(artifact, i)}, {i}u, layer_{name}_{i}}},\n' for i in layers
    )
    return (
        "".join(_layer(artifact, i) for i in layers)
        + f"static const tiny_rpc_layer_t layers_{name}[] = {{\n{rows}}};\n\n"
        + f"static int32_t layer_of_{name}{_ARGUMENTS} {{\n"
        + "  (void)result;\n"
        + f"  return tiny_rpc_layer_call(&layers_{name}[(uintptr_t)self], args, num_args);\n"
        + f"}}\n\n{ticks}"
    )


def _count(artifact: Artifact, index: int) -> int:
    inputs, outputs = artifact.layer_tensors(index)
    return len(inputs) + len(outputs)


def _layer(artifact: Artifact, index: int) -> str:
    """Tensors of a layer, and the call of its function on their addresses."""
    name, (inputs, outputs) = artifact.name, artifact.layer_tensors(index)
    arguments = "".join(f"data[{i}], " for i in range(len(inputs) + len(outputs)))
    call = f"tvmgen_{name}_layer_{index}({arguments}tvmgen_{name}_workspace_address())"
    return f"{_specs(f'{name}_layer_{index}', [*inputs, *outputs])}static void layer_{name}_{index}(void **data) {{ {call}; }}\n\n"


def _extents(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape)) or "0"


def _spec(shape: str, tensor: Tensor) -> str:
    code, bits = _DTYPES[tensor.dtype]
    return f'{{"{tensor.c_name}", {{{code}, {bits}, 1}}, {len(tensor.shape)}, 1, {shape}}}'
