# SPDX-License-Identifier: Apache-2.0
"""The public header of a generated model: what a firmware engineer reads first.

It follows microTVM's AOT C interface: one struct of pointers for the inputs, one for the outputs, one `run` function, sizes as macros.
"""

from __future__ import annotations

import json

from tvm_tiny.codegen.c_text import C_TYPES, comment, file_head
from tvm_tiny.codegen.microkernels import deepest_frame, microkernels
from tvm_tiny.codegen.workspace import Workspace
from tvm_tiny.memory.program import Program, TensorInfo


def emit_header(program: Program, workspace: Workspace, version: str, *, target: str) -> str:
    """Return the text of `tvmgen_<name>.h`."""
    prefix = f"tvmgen_{program.name}"
    upper = prefix.upper()
    guard = f"{upper}_H_"
    parts = [
        file_head(f"{prefix}.h: interface of the network '{program.name}', compiled for {target}.", version),
        f'#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern "C" {{\n#endif\n',
        f"{workspace.macros(upper)}#define {upper}_NUM_LAYERS {len(program.calls)}\n",
        workspace.struct(prefix),
        _source(program, prefix),
        _struct(prefix, "inputs", program.inputs),
        _struct(prefix, "outputs", program.outputs),
        _functions(program, prefix, upper, workspace),
        *(_tensor_macros(t, upper, "INPUT") for t in program.inputs),
        *(_tensor_macros(t, upper, "OUTPUT") for t in program.outputs),
        *(_quantize_helpers(t, prefix, "input") for t in program.inputs),
        *(_quantize_helpers(t, prefix, "output") for t in program.outputs),
        f"#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {guard} */\n",
    ]
    return "\n".join(p for p in parts if p)


def describe(tensor: TensorInfo) -> str:
    """Return shape, dtype and quantisation of a tensor in one line."""
    shape = "x".join(str(d) for d in tensor.shape) or "scalar"
    layout = " NHWC" if len(tensor.shape) == 4 else ""
    quant = f", real = {tensor.scale!r} * (q - {tensor.zero_point})" if tensor.scale is not None else ""
    return f"{tensor.name}: {tensor.dtype}[{shape}]{layout}{quant}"


def _source(program: Program, prefix: str) -> str:
    if not any(t.fetched for t in program.inputs):
        return ""
    return (
        "/* Where an input comes from part by part, during the run, so that it need not lie in memory whole (a camera, a decoder).\n"
        " * `fetch` writes pixels [column, column + columns) of rows [row, row + rows) to `out`, channels innermost, without gaps.\n"
        f" * {_order(program)} It returns 0; anything else ends the run, which returns it. */\n"
        f"struct {prefix}_source {{\n"
        "  int32_t (*fetch)(void *context, int32_t row, int32_t column, int32_t rows, int32_t columns, void *out);\n"
        "  void *context; /* handed to `fetch` as it is */\n};\n"
    )


def _order(program: Program) -> str:
    """In which order parts of an input are asked for."""
    readers = [c for c in program.calls if any(t.fetched and t.buffer in c.reads for t in program.inputs)]
    rules = {json.loads(str(program.kernels[c.kernel].attrs.get("tiny.kernel", "{}"))).get("rule") for c in readers}
    if "patches" in rules:
        return "Patches are asked for from left to right, then from top to bottom; they overlap."
    return "Rows are asked for from top to bottom, each once."


def _struct(prefix: str, kind: str, tensors: list[TensorInfo]) -> str:
    pointer = "const void *" if kind == "inputs" else "void *"
    types = [f"struct {prefix}_source " if t.fetched else pointer for t in tensors]
    fields = "\n".join(f"  {c}{t.c_name}; /* {comment(describe(t))} */" for c, t in zip(types, tensors, strict=True))
    return f"/* {kind.capitalize()}, by the model's tensor names. */\nstruct {prefix}_{kind} {{\n{fields}\n}};\n"


def _functions(program: Program, prefix: str, upper: str, workspace: Workspace) -> str:
    getters = "\n".join(
        f"void *{prefix}_{kind}_{t.c_name}(void);"
        for kind, group in (("input", program.inputs), ("output", program.outputs))
        for t in group
        if not program.is_external(t)
    )
    fetched = " * Inputs with a `fetch` function: it must not be NULL; what it returns, when not 0, is returned.\n"
    fetched = fetched if any(t.fetched for t in program.inputs) else ""
    taken = deepest_frame(microkernels(program))
    stack = (
        " * Stack: what the compiler tells of (-fstack-usage); with the DSP extension also"
        f" up to {taken} bytes in assembly, which it doesn't.\n"
    )
    stack = stack if taken else ""
    structs = f"const struct {prefix}_inputs *inputs, const struct {prefix}_outputs *outputs"
    parameter = workspace.parameter(prefix)
    split = " in all" if workspace.several else ""
    return (
        f"/* One inference in the library's own static workspace.\n"
        f" * A pointer in `inputs` (`outputs`) may be NULL or the address of the tensor inside the workspace"
        f" ({prefix}_input_...(), {prefix}_output_...()):\n"
        f" * then nothing is copied. Inputs in the workspace are overwritten by the run; outputs there stay until the next one.\n"
        f" * Float tensors stay in the caller's memory: their pointers must not be NULL.\n"
        f"{fetched}"
        f" * Not re-entrant. May be interrupted and preempted anywhere: masks no interrupts, allocates nothing.\n"
        f"{stack}"
        f" * Returns 0; -1 when `inputs`, `outputs` or a pointer that is needed is NULL. */\n"
        f"int32_t {prefix}_run({structs});\n\n"
        f"/* The same in the caller's workspace of {upper}_WORKSPACE_SIZE bytes{split}, aligned to 16, which holds nothing between runs:\n"
        f" * several models can share it. Re-entrant as long as the workspaces differ.\n"
        f" * A NULL input reads the workspace at the tensor's offset. -1 also when it is NULL. */\n"
        f"int32_t {prefix}_run_with_workspace({structs}, {parameter});\n\n"
        + (f"/* Where inputs and outputs lie inside the static workspace. */\n{getters}\n" if getters else "")
    )


def _tensor_macros(tensor: TensorInfo, upper: str, kind: str) -> str:
    base = f"{upper}_{kind}_{tensor.c_name.upper()}"
    lines = [f"#define {base}_NBYTES {tensor.nbytes}u", f"#define {base}_COUNT {tensor.nbytes // _itemsize(tensor)}u"]
    if tensor.scale is not None:
        lines += [f"#define {base}_SCALE {_float(tensor.scale)}", f"#define {base}_ZERO_POINT ({tensor.zero_point})"]
    return "\n".join(lines) + "\n"


def _quantize_helpers(tensor: TensorInfo, prefix: str, kind: str) -> str:
    if tensor.scale is None or tensor.dtype not in ("int8", "uint8", "int16"):
        return ""
    ctype = C_TYPES[tensor.dtype]
    low, high = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}[tensor.dtype]
    base = f"{prefix.upper()}_{kind.upper()}_{tensor.c_name.upper()}"
    name = f"{prefix}_{kind}_{tensor.c_name}"
    return (
        f"/* real value -> {tensor.dtype} of {comment(tensor.name)}: round half away from zero, saturate */\n"
        f"static inline {ctype} {name}_quantize(float real) {{\n"
        f"  float scaled = real / {base}_SCALE + (float){base}_ZERO_POINT;\n"
        f"  if (!(scaled > {float(low)}f)) {{ return {low}; }}\n"
        f"  if (scaled >= {float(high)}f) {{ return {high}; }}\n"
        f"  return ({ctype})(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f);\n}}\n"
        f"static inline float {name}_dequantize({ctype} q) {{ return {base}_SCALE * (float)((int32_t)q - {base}_ZERO_POINT); }}\n"
    )


def _itemsize(tensor: TensorInfo) -> int:
    return {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "int32": 4, "float32": 4, "int64": 8, "float64": 8}[tensor.dtype]


def _float(value: float) -> str:
    text = repr(float(value))
    return f"{text}f" if any(ch in text for ch in ".einf") else f"{text}.0f"
