# SPDX-License-Identifier: Apache-2.0
"""fetch: an input that the application hands over through a function of its own, as a whole layer or one row at a time in a stream.

The argument of the kernel is the address of a `struct tvmgen_<model>_fetching` (private header): the application's `fetch` and `context`,
and where what `fetch` returned is kept for the caller of the kernel: anything but 0 ends the inference.
"""

from __future__ import annotations

from tvm import tirx

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.microkernels import CFunction, MicroKernel
from tvm_tiny.schedules.quantize import quantize_functions
from tvm_tiny.schedules.stream_costs import fetch_scratch
from tvm_tiny.schedules.tensorize import tensorized
from tvm_tiny.target import TinyTarget

NAME = "tiny.fetch"
STRUCT = f"struct {PREFIX}fetching"


def apply(func: tirx.PrimFunc, _target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.fetch`: the whole image at once, or row by row where each row is still to be quantised."""
    layer = Layer.of(func)
    if layer is None or layer.op != NAME:
        return None
    name = f"{PREFIX}fetch"
    kernel = MicroKernel(
        name=name,
        functions=(*_quantize(layer), CFunction(name, _whole(name, layer))),
        packed=b"",
        scratch_bytes=fetch_scratch(layer.shapes[0], layer.dtypes[0]),
        input_shape=layer.shapes[0],
        output_shape=layer.shapes[-1],
        macs=0,
        reference=lambda x: x,
        choices={"operand": "callback"},
    )
    return tensorized(kernel, func, "fetch", fetched=[0])


def _is_float(layer: Layer) -> bool:
    return layer.dtypes[0] == "float32"


def _quantize(layer: Layer) -> tuple[CFunction, ...]:
    """What makes int8 of what the application hands over."""
    _, _, width, channels = layer.shapes[0]
    if layer.dtypes[0] == "uint8":
        return (CFunction(f"{PREFIX}signed", _SIGNED),)
    return quantize_functions(f"{PREFIX}quantize", width * channels, layer.attrs) if _is_float(layer) else ()


def _whole(name: str, layer: Layer) -> str:
    _, height, width, channels = layer.shapes[0]
    body = f"  *from->status = from->source.fetch(from->source.context, 0, 0, {height}, {width}, out);\n"
    body += _signed(layer, str(height * width * channels))
    if _is_float(layer):
        loop = f"for (int32_t row = 0; row < {height} && *from->status == 0; ++row, out += {width * channels})"
        body = f"  {loop} {{\n{_row(layer, 'row')}  }}\n"
    signature = f"void {name}(const void *x, int8_t *out, const void *packed, void *scratch)"
    unused = "  (void)packed;\n" + ("" if _is_float(layer) else "  (void)scratch;\n")
    return f"{signature};\n{signature} {{\n{unused}{_source_of('x')}{body}}}\n"


def row_functions(layer: Layer, signature: str, column: int = 0) -> tuple[CFunction, ...]:
    """The row kernel (see `row_kernels`), last, and what it calls; `rows[0]` is the address of the struct.

    The layer's width may be that of a part of the image, from `column` on; int8 rows are asked for all at once.
    """
    name = f"{PREFIX}fetch_row"
    unused = "  (void)packed;\n" + ("  (void)end;\n" if _is_float(layer) else "  (void)scratch;\n")
    body = f"static void {name}({signature}) {{\n{unused}{_source_of('rows[0]')}{_row(layer, 'begin', column, 'end - begin')}}}\n"
    return (*_quantize(layer), CFunction(name, body))


def _source_of(pointer: str) -> str:
    return f"  const {STRUCT} *from = (const void *){pointer};\n"


def _row(layer: Layer, row: str, column: int = 0, rows: str = "1") -> str:
    """Statements that make int8 row number `row` at `out`; `rows` of them where nothing is quantised."""
    width = layer.shapes[0][2]
    call = f"*from->status = from->source.fetch(from->source.context, {row}, {column}, "
    if not _is_float(layer):
        return f"  {call}{rows}, {width}, out);\n" + _signed(layer, f"({rows}) * {width * layer.shapes[0][3]}")
    return f"    {call}1, {width}, scratch);\n    if (*from->status == 0) {PREFIX}quantize(scratch, out, 0, 0);\n"


def _signed(layer: Layer, count: str) -> str:
    """A statement that makes int8 of the uint8 that has just come to `out`."""
    return f"  if (*from->status == 0) {PREFIX}signed(out, {count});\n" if layer.dtypes[0] == "uint8" else ""


_SIGNED = f"""static void {PREFIX}signed(int8_t *x, int32_t count) {{
  int32_t i = 0;
  for (; i + 4 <= count; i += 4) {{
    uint32_t four;
    memcpy(&four, x + i, 4);
    four ^= 0x80808080u;
    memcpy(x + i, &four, 4);
  }}
  for (; i < count; ++i) x[i] = (int8_t)(x[i] ^ -128);
}}
"""
"""The top bit of each byte turned over, four a turn; rows may begin anywhere."""
