# SPDX-License-Identifier: Apache-2.0
"""The C sources of a model: kernels in one file, constants and the ahead-of-time entry in another, prototypes between them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import tvm

from tvm_tiny.codegen.c_text import C_TYPES, comment, file_head, literals
from tvm_tiny.codegen.layers import emit_layers, layer_buffers, layer_comment
from tvm_tiny.codegen.microkernels import deepest_frame, microkernels
from tvm_tiny.codegen.names import PREFIX, kernel_symbol, layer_symbol
from tvm_tiny.codegen.primfunc_to_c import CFunction, to_c
from tvm_tiny.codegen.workspace import Workspace, placement
from tvm_tiny.memory.program import KernelCall, Program, TensorInfo

_BYTE_ORDER = """\
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the constants are packed for little-endian cores"
#endif
"""
_ON_ASSEMBLY = """\
/* Each function of assembly (Armv7E-M with DSP) stands beside the same in C, which other cores compile, and every core with
 * -DTINY_PORTABLE_KERNELS. They keep to the procedure call standard, call nothing and mask no interrupts. */
"""


def emit_kernels(program: Program, target: tvm.target.Target, version: str) -> tuple[str, str]:
    """Return the kernels' source and their prototypes' header."""
    functions = [_named(to_c(func, kernel_symbol(program.name, name), target), program) for name, func in program.kernels.items()]
    generated = microkernels(program)
    base = f"tvmgen_{program.name}"
    source = [
        file_head(f"{base}_kernels.c: the kernels of the network '{program.name}', one per distinct layer shape.", version),
        *([_ON_ASSEMBLY] if deepest_frame(generated) else []),
        "#include <stdint.h>\n#include <stdbool.h>\n#include <string.h>"
        + ("\n#include <math.h>" if any(f.uses_math for f in functions) else ""),
        f'\n#include "{base}_kernels.h"\n',
        _BYTE_ORDER,
        *generated,
        *(f"{f.definition}\n" for f in functions),
    ]
    return "\n".join(source), _prototypes(program, functions, version)


def _named(function: CFunction, program: Program) -> CFunction:
    """Calls of microkernels carry the model's prefix; casts of pointers are without the `void *` that TVM puts before every such call."""
    body = re.sub(r"\(void\*\)(\((?:const )?\w+ \*\)\()", r"\1", function.body)
    return replace(function, body=body.replace(PREFIX, f"tvmgen_{program.name}_"))


def emit_entry(program: Program, workspace: Workspace, version: str) -> str:
    """Return the source with constants, workspace and the entry functions."""
    base = f"tvmgen_{program.name}"
    parts = [
        file_head(f"{base}.c: constants and entry of the network '{program.name}'.", version),
        f'#include "{base}.h"\n\n#include <stddef.h>\n#include <string.h>\n\n#include "{base}_kernels.h"\n#include "{base}_layers.h"\n',
        _hooks(base.upper(), workspace),
        *(_constant(base.upper(), name, array, _users(program, name)) for name, array in program.constants.items()),
        emit_layers(program, workspace),
        _run_with_workspace(program, workspace, base),
        _run(program, workspace, base),
    ]
    return "\n".join(parts)


def _prototypes(program: Program, functions: list[CFunction], version: str) -> str:
    base = f"tvmgen_{program.name}"
    guard = f"{base.upper()}_KERNELS_H_"
    lines = "\n".join(f"{f.prototype};" for f in functions)
    head = file_head(f"{base}_kernels.h: private prototypes.", version)
    return f"{head}#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n{_fetching(program, base)}{lines}\n\n#endif /* {guard} */\n"


def _fetching(program: Program, base: str) -> str:
    """What kernels get instead of an array for an input that is fetched."""
    if not any(t.fetched for t in program.inputs):
        return ""
    return f'#include "{base}.h"\n\nstruct {base}_fetching {{\n  struct {base}_source source;\n  int32_t *status;\n}};\n\n'


def _hooks(upper: str, workspace: Workspace) -> str:
    return (
        "/* Hooks around every layer, empty unless the build names a header that defines them (profiling, fault location, dumps). */\n"
        "#ifdef TVMGEN_LAYER_HOOK_HEADER\n#include TVMGEN_LAYER_HOOK_HEADER\n#endif\n"
        "#ifndef TVMGEN_LAYER_BEGIN\n#define TVMGEN_LAYER_BEGIN(layer) ((void)0)\n#endif\n"
        "#ifndef TVMGEN_LAYER_OUTPUT\n#define TVMGEN_LAYER_OUTPUT(layer, address, nbytes) ((void)0)\n#endif\n"
        "#ifndef TVMGEN_LAYER_END\n#define TVMGEN_LAYER_END(layers) ((void)0)\n#endif\n\n"
        "/* Where constants and the workspace go. Define these to name sections of your linker script, and keep the alignment:\n"
        f' * -D"{upper}_CONSTANT=__attribute__((section(\\".flash2\\"), aligned(16)))" */\n'
        f"{placement(f'{upper}_CONSTANT', f'.rodata.{upper.lower()}')}{workspace.placement_macros(upper)}"
    )


def _users(program: Program, constant: str) -> str:
    """The layers that read a constant."""
    found = [f"{i} ({call.op.removeprefix('tiny.')})" for i, call in enumerate(program.calls) if ("constant", constant) in call.args]
    return comment(f"layer{'s' if len(found) > 1 else ''} {', '.join(found)}")


def _constant(upper: str, name: str, array: np.ndarray, users: str) -> str:
    head = f"static {upper}_CONSTANT const {C_TYPES[array.dtype.name]} {name}[{max(array.size, 1)}]"
    return f"/* Constants of {users}, as the kernel reads them. */\n{head} = {{\n{literals(array) or '  0'}\n}};\n"


def _run_with_workspace(program: Program, workspace: Workspace, base: str) -> str:
    lines = [
        f"int32_t {base}_run_with_workspace({_structs(base)}, {workspace.parameter(base)}) {{",
        f"  if (inputs == NULL || outputs == NULL || {workspace.missing()}) {{\n    return -1;\n  }}",
    ]
    fetched = [t for t in program.inputs if t.fetched]
    lines += ["  int32_t status = 0;"] if fetched else []
    lines += [_copy_in(t, program, workspace) for t in program.inputs]
    lines += [f"  struct {base}_fetching {_fetching_name(t)} = {{inputs->{t.c_name}, &status}};" for t in fetched]
    lines += [_check_present("outputs", t) for t in program.outputs if program.is_external(t)]
    for index, call in enumerate(program.calls):
        lines.append(f"  /* {index}: {layer_comment(program, call)} */")
        lines.append(f"  TVMGEN_LAYER_BEGIN({index});")
        lines.append(f"  {layer_symbol(program.name, index)}({_layer_arguments(program, workspace, call)});")
        if any(t.buffer in call.reads for t in fetched):
            lines.append("  if (status != 0) {\n    return status;\n  }")
        for out in call.writes:
            lines.append(f"  TVMGEN_LAYER_OUTPUT({index}, {_address(program, workspace, out)}, {program.buffers[out].nbytes}u);")
    lines.append(f"  TVMGEN_LAYER_END({len(program.calls)});")
    lines += [_copy_out(t, program, workspace) for t in program.outputs if not program.is_external(t)]
    lines.append("  return 0;\n}\n")
    return "\n".join(lines)


def _structs(base: str) -> str:
    return f"const struct {base}_inputs *inputs, const struct {base}_outputs *outputs"


def _address(program: Program, workspace: Workspace, buffer: str) -> str:
    """C expression of where a buffer lies: in the workspace, or where the caller says."""
    if program.buffers[buffer].kind != "external":
        return workspace.address(buffer)
    for struct, tensors in (("inputs", program.inputs), ("outputs", program.outputs)):
        for tensor in tensors:
            if tensor.buffer == buffer and tensor.fetched:
                return f"&{_fetching_name(tensor)}"
            if tensor.buffer == buffer:
                return f"{struct}->{tensor.c_name}"
    raise KeyError(buffer)


def _layer_arguments(program: Program, workspace: Workspace, call: KernelCall) -> str:
    inputs, outputs = layer_buffers(call)
    casts = [f"{_cast(program, name)}({_address(program, workspace, name)})" for name in (*inputs, *outputs)]
    return ", ".join([*casts, "workspace"])


def _cast(program: Program, name: str) -> str:
    """Address of a buffer to what the layer functions take; by way of void, for bytes of the workspace."""
    const, ctype = "const " if program.is_external_input(name) else "", C_TYPES[program.buffers[name].dtype]
    return f"({const}{ctype} *)({const}void *)"


def _check_present(struct: str, tensor: TensorInfo) -> str:
    return f"  if ({struct}->{tensor.c_name} == NULL) {{\n    return -1;\n  }}"


def _fetching_name(tensor: TensorInfo) -> str:
    return f"fetching_{tensor.c_name}"


def _copy_in(tensor: TensorInfo, program: Program, workspace: Workspace) -> str:
    if tensor.fetched:
        return f"  if (inputs->{tensor.c_name}.fetch == NULL) {{\n    return -1;\n  }}"
    if program.is_external(tensor):
        return _check_present("inputs", tensor)
    place = _address(program, workspace, tensor.buffer)
    return (
        f"  if (inputs->{tensor.c_name} != NULL && inputs->{tensor.c_name} != (const void *)({place})) {{\n"
        f"    memcpy({place}, inputs->{tensor.c_name}, {tensor.nbytes}u);\n  }}"
    )


def _copy_out(tensor: TensorInfo, program: Program, workspace: Workspace) -> str:
    place = _address(program, workspace, tensor.buffer)
    return (
        f"  if (outputs->{tensor.c_name} != NULL && outputs->{tensor.c_name} != (void *)({place})) {{\n"
        f"    memcpy(outputs->{tensor.c_name}, {place}, {tensor.nbytes}u);\n  }}"
    )


def _run(program: Program, workspace: Workspace, base: str) -> str:
    getters = [
        f"void *{base}_{kind}_{t.c_name}(void) {{ return {workspace.static_address(t.buffer, base)}; }}"
        for kind, group in (("input", program.inputs), ("output", program.outputs))
        for t in group
        if not program.is_external(t)
    ]
    return (
        f"{workspace.definitions(base)}\n"
        f"int32_t {base}_run({_structs(base)}) {{\n"
        f"  return {base}_run_with_workspace(inputs, outputs, {workspace.own(base)});\n}}\n\n"
        f"{workspace.own_type(base)}{base}_workspace_address(void) {{ return {workspace.own(base)}; }}\n" + "\n".join(getters) + "\n"
    )
