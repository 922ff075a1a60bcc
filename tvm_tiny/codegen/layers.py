# SPDX-License-Identifier: Apache-2.0
"""One C function a layer: the entry calls them in order, and anybody may call one alone (`tvmgen_<name>_layers.h`).

A layer function binds its kernel to the layer's constants and scratch; what is left are the layer's input and output tensors, wherever
they lie, and the workspace that holds its scratch.
"""

from __future__ import annotations

from typing import Any

from tvm_tiny.codegen.c_text import C_TYPES, comment, file_head
from tvm_tiny.codegen.names import kernel_symbol, layer_symbol
from tvm_tiny.codegen.workspace import Workspace
from tvm_tiny.memory.program import KernelCall, Program


def layer_buffers(call: KernelCall) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the buffers a layer function takes as inputs, each once, and as outputs."""
    return tuple(dict.fromkeys(call.reads)), tuple(call.writes)


def describe_layer(program: Program, call: KernelCall) -> dict[str, Any]:
    """Inputs and outputs of a layer function for `metadata.json`; names are the source model's where it has one."""
    inputs, outputs = layer_buffers(call)
    if any(program.is_fetched(name) for name in inputs):
        return {}  # it takes no array, so nobody but the entry calls it
    return {"inputs": [_tensor(program, name) for name in inputs], "outputs": [_tensor(program, name) for name in outputs]}


def layer_comment(program: Program, call: KernelCall) -> str:
    """What a layer is, in a line."""
    work = f", {call.macs} MAC" if call.macs else ""
    return comment(f"{call.op.removeprefix('tiny.')} -> {_source(program, call.layer)}{work}")


def emit_layers(program: Program, workspace: Workspace) -> str:
    """Definitions of the layer functions; `workspace` tells where scratch lies."""
    return "\n".join(_definition(program, index, call, workspace) for index, call in enumerate(program.calls))


def emit_layers_header(program: Program, workspace: Workspace, version: str) -> str:
    """Text of `tvmgen_<name>_layers.h`."""
    base = f"tvmgen_{program.name}"
    guard = f"{base.upper()}_LAYERS_H_"
    rows = [
        f"/* {index}: {layer_comment(program, call)}\n{_shapes(program, call)} */\nvoid {_signature(program, index, call, workspace)};\n"
        for index, call in enumerate(program.calls)
    ]
    return (
        file_head(f"{base}_layers.h: the layers of the network '{program.name}', each alone, for tests and measurements.", version)
        + f"#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n{_needs(workspace, base)}"
        + '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        + "/* Tensors may lie anywhere outside the workspace, aligned to 16 bytes and apart from each other.\n"
        " * `workspace` (its size is in the main header; aligned to 16) gives the scratch. */\n\n"
        + "\n".join(rows)
        + f"\n/* The library's own workspace, free between runs. */\n{workspace.own_type(base)}{base}_workspace_address(void);\n"
        + f"\n#ifdef __cplusplus\n}}\n#endif\n\n#endif /* {guard} */\n"
    )


def _needs(workspace: Workspace, base: str) -> str:
    return f'#include "{base}.h"\n\n' if workspace.several else ""


def _definition(program: Program, index: int, call: KernelCall, workspace: Workspace) -> str:
    inputs, outputs = layer_buffers(call)
    places = {name: f"x{i}" for i, name in enumerate(inputs)} | {name: f"y{i}" for i, name in enumerate(outputs)}
    places |= {name: f"({C_TYPES[program.buffers[name].dtype]} *)(void *)({workspace.address(name)})" for name in call.scratch}
    arguments = ", ".join(name if kind == "constant" else places[name] for kind, name in call.args)
    unused = "" if call.scratch else "  (void)workspace;\n"
    return (
        f"/* {index}: {layer_comment(program, call)} */\n"
        f"void {_signature(program, index, call, workspace)} {{\n{unused}  {kernel_symbol(program.name, call.kernel)}({arguments});\n}}\n"
    )


def _signature(program: Program, index: int, call: KernelCall, workspace: Workspace) -> str:
    inputs, outputs = layer_buffers(call)
    typed = [f"{_input_type(program, name)} *x{i}" for i, name in enumerate(inputs)]
    typed += [f"{C_TYPES[program.buffers[name].dtype]} *y{i}" for i, name in enumerate(outputs)]
    return f"{layer_symbol(program.name, index)}({', '.join([*typed, workspace.parameter(f'tvmgen_{program.name}')])})"


def _input_type(program: Program, name: str) -> str:
    """What an input points to: layers in place write over theirs, but none over what lies in the caller's memory."""
    if program.is_fetched(name):
        return "void"
    return f"const {C_TYPES[program.buffers[name].dtype]}" if program.is_external_input(name) else C_TYPES[program.buffers[name].dtype]


def _shapes(program: Program, call: KernelCall) -> str:
    inputs, outputs = layer_buffers(call)
    named = [(f"x{i}", name) for i, name in enumerate(inputs)] + [(f"y{i}", name) for i, name in enumerate(outputs)]
    lines = []
    for argument, name in named:
        buffer = program.buffers[name]
        if program.is_fetched(name):
            lines.append(f" *   {argument}: struct tvmgen_{program.name}_fetching of the kernels' header")
            continue
        shape = "x".join(map(str, buffer.shape)) or "scalar"
        lines.append(f" *   {argument}: {buffer.dtype}[{shape}] {comment(_source(program, name))}")
    return "\n".join(lines)


def _tensor(program: Program, name: str) -> dict[str, Any]:
    buffer = program.buffers[name]
    return {"buffer": name, "name": _source(program, name), "shape": list(buffer.shape), "dtype": buffer.dtype}


def _source(program: Program, name: str) -> str:
    tensors = program.model.get("tensors", {})
    return str(tensors.get(name, {}).get("name", name))
