# SPDX-License-Identifier: Apache-2.0
"""model.c of a project: the model's inputs, outputs and run function as the applications see them (microtvm_projects/app/model.h)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tvm_tiny.device.artifact import Artifact, Tensor, pack_inputs


def emit_model_c(artifact: Artifact, sample: Mapping[str, np.ndarray] | None = None) -> str:
    """C text that binds one compiled model; `sample` is compiled in for one-shot images."""
    header = artifact.header.read_text(encoding="utf-8")
    prefix = f"tvmgen_{artifact.name}"
    parts = [
        "/* Generated from metadata.json: binds the model to the application. */",
        f'#include "model.h"\n\n#include <stddef.h>\n#include <string.h>\n\n#include "{prefix}.h"\n',
        *(_accessor(prefix, header, "input", t) for t in artifact.inputs),
        *(_accessor(prefix, header, "output", t) for t in artifact.outputs),
        *(fetch_function(t) for t in artifact.inputs if t.fetched),
        _table("input", artifact.inputs),
        _table("output", artifact.outputs),
        _run(prefix, artifact),
        _sample(pack_inputs(artifact, sample) if sample is not None else b""),
    ]
    return "\n".join(parts)


def _accessor(prefix: str, header: str, kind: str, tensor: Tensor) -> str:
    """Address of a tensor: in the arena where the model's header offers it, else in a buffer of its own."""
    function = f"{prefix}_{kind}_{tensor.c_name}"
    if f"{function}(void)" in header:
        return f"static void *{kind}_{tensor.c_name}(void) {{ return {function}(); }}\n"
    buffer = f"{kind}_buffer_{tensor.c_name}"
    return (
        f"static _Alignas(16) uint8_t {buffer}[{max(tensor.nbytes, 1)}];\n"
        f"static void *{kind}_{tensor.c_name}(void) {{ return {buffer}; }}\n"
    )


def fetch_function(tensor: Tensor, prefix: str = "fetch") -> str:
    """C of a function `<prefix>_<input>` that hands over parts of an input from the array that is its context, as a camera would."""
    _, _, width, _ = tensor.shape
    pixel = tensor.nbytes // (tensor.shape[1] * width)
    parameters = "void *context, int32_t row, int32_t column, int32_t rows, int32_t columns, void *out"
    return (
        f"static int32_t {prefix}_{tensor.c_name}({parameters}) {{\n"
        "  const uint8_t *image = context;\n"
        "  for (int32_t i = 0; i < rows; i++) {\n"
        f"    const uint8_t *from = image + ((row + i) * {width} + column) * {pixel};\n"
        f"    memcpy((uint8_t *)out + i * columns * {pixel}, from, (size_t)(columns * {pixel}));\n"
        "  }\n  return 0;\n}\n"
    )


def input_field(tensor: Tensor, array: str, prefix: str = "fetch") -> str:
    """Initialiser of a field of the struct of inputs for the array at the C expression `array`."""
    return f".{tensor.c_name} = " + (f"{{{prefix}_{tensor.c_name}, {array}}}" if tensor.fetched else array)


def _table(kind: str, tensors: Sequence[Tensor]) -> str:
    rows = "".join(f'    {{"{t.c_name}", {t.nbytes}u, {kind}_{t.c_name}}},\n' for t in tensors)
    return f"const struct model_tensor model_{kind}s[] = {{\n{rows}}};\nconst uint32_t model_num_{kind}s = {len(tensors)}u;\n"


def _run(prefix: str, artifact: Artifact) -> str:
    inputs = ", ".join(input_field(t, f"input_{t.c_name}()") for t in artifact.inputs)
    outputs = ", ".join(f".{t.c_name} = output_{t.c_name}()" for t in artifact.outputs)
    return (
        "int32_t model_run(void) {\n"
        f"  struct {prefix}_inputs inputs = {{{inputs}}};\n"
        f"  struct {prefix}_outputs outputs = {{{outputs}}};\n"
        f"  return {prefix}_run(&inputs, &outputs);\n}}\n"
    )


def _sample(data: bytes) -> str:
    if not data:
        return "const uint8_t *const model_sample = NULL;\n"
    rows = "".join(f"    {', '.join(map(str, data[i : i + 32]))},\n" for i in range(0, len(data), 32))
    return f"static const uint8_t sample[{len(data)}] = {{\n{rows}}};\nconst uint8_t *const model_sample = sample;\n"
