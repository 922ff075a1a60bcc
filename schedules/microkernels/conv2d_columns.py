# SPDX-License-Identifier: Apache-2.0
"""Columns of a group of output pixels: their windows, padding included, expanded to the operands that products read.

Windows of a channel count that is a multiple of four are expanded word by word from where they lie, others put together byte by byte first,
but for groups wholly inside the image, which are gathered and expanded in one go.
"""

from __future__ import annotations

from collections.abc import Callable

from .c_source import CFunction
from .conv2d_shape import Conv2DShape
from .expand import Expand, expand_function, expanded_pair, fill_function, shared_expand_function
from .gather import Gather, gather_function
from .gather_rows import gather_rows_function
from .gemm_layer import BlockChoice, PackedMatrix
from .layer import Core

_REACH = 4095  # of a load's offset


class Columns:
    """Writes the C that makes columns.

    Attributes
    ----------
    by_words : bool
        Pixels are whole words.
    byte_column : int
        Bytes in scratch where a pixel's window is put together; 0 by words.
    add : callable
        Takes every function written, callees first, and returns its name.
    """

    def __init__(
        self,
        prefix: str,
        shape: Conv2DShape,
        zero_point: int,
        core: Core,
        choice: BlockChoice,
        matrix: PackedMatrix,
        add: Callable[[CFunction], str],
    ) -> None:
        self.prefix, self.shape, self.zero_point, self.core, self.choice, self.matrix = prefix, shape, zero_point, core, choice, matrix
        self.by_words = shape.channels % 4 == 0
        self.byte_column = 0 if self.by_words else 4 * matrix.groups
        self.pair = expanded_pair(zero_point, matrix.operand)
        self.add = add

    def expand(self, count: int, pixels: int, source_stride: int, group: int, src: str, dst: str) -> str:
        """C call expanding `count` words of each of `pixels` pixels."""
        if self.choice.shared:
            name = self.add(shared_expand_function(self.prefix, "r8" if self.matrix.operand == "r8" else "w8"))
            return f"{name}({src}, {dst}, {count}, {source_stride}, {pixels}, {8 * group})"
        expand = Expand(count, pixels, source_stride, 8 * group, self.matrix.operand, self.core.dual_issue)
        return f"{self.add(expand_function(self.prefix, expand))}({src}, {dst})"

    def _fill(self, group: int) -> str:
        return self.add(fill_function(self.prefix, group, self.pair))

    def function(self, group: int, *, rows: bool) -> str:
        """Name of the static function expanding the columns of `group` output pixels from (y, x) on."""
        name = f"{self.prefix}_columns{group}" + ("_rows" if rows else "")
        source = "const int8_t *const *rows, int32_t first" if rows else "const int8_t *in"
        text = f"static void {name}({source}, int32_t y, int32_t x, uint8_t *dst, int8_t *bytes) {{\n"
        text += self._by_words(group, rows=rows) if self.by_words else self._by_bytes(group, rows=rows)
        return self.add(CFunction(name, text + "}\n"))

    def _row(self, *, rows: bool) -> str:
        return "rows[iy - first]" if rows else f"(in + iy * {self.shape.width * self.shape.channels})"

    def _by_words(self, group: int, *, rows: bool) -> str:
        s, ci = self.shape, self.shape.channels
        fill, text = self._fill(group), "  (void)bytes;\n"
        if s.dilation[1] == 1 and (group - 1) * s.stride[1] * ci + 64 <= _REACH:
            text += self._side_by_side(group, fill, rows=rows)

        def blank(to: str, taps: int) -> str:
            return f"{fill}({to}, {taps * ci // 4})"

        def take(to: str, at: str, taps: int) -> str:
            return self.expand(taps * ci // 4, 1, 0, group, f"row + {at} * {ci}", to)

        return text + self._windows(group, "uint8_t *to = dst + 8 * p", 2 * ci * group, blank, take, rows=rows)

    def _side_by_side(self, group: int, fill: str, *, rows: bool) -> str:
        """Shortcut for windows whose columns are inside the image: a row of all of them at a time."""
        s, ci = self.shape, self.shape.channels
        (sh, sw), words, reach = s.stride, s.kernel[1] * ci // 4, (s.kernel[1] - 1) * s.dilation[1] + 1
        together = self.expand(words, group, sw * ci, group, f"{self._row(rows=rows)} + (x * {sw} - {s.padding[1]}) * {ci}", "dst")
        inside = f"x * {sw} >= {s.padding[1]} && (x + {group - 1}) * {sw} - {s.padding[1]} + {reach} <= {s.width}"
        return (
            f"  if (x + {group} <= {s.out_width} && {inside}) {{\n"
            f"    for (int32_t ky = 0; ky < {s.kernel[0]}; ++ky, dst += {words * 8 * group}) {{\n"
            f"      const int32_t iy = y * {sh} - {s.padding[0]} + ky * {s.dilation[0]};\n"
            f"      if (iy >= 0 && iy < {s.height}) {together};\n"
            f"      else for (int32_t p = 0; p < {group}; ++p) {fill}(dst + 8 * p, {words});\n"
            f"    }}\n    return;\n  }}\n"
        )

    def _by_bytes(self, group: int, *, rows: bool) -> str:
        if rows and (text := self._gathered_rows(group)):
            return text
        used, size = self.shape.k, self.byte_column
        expand = self.expand(self.matrix.groups, group, size, group, "bytes", "dst")
        text = "" if rows else self._gathered(group)
        rest = f"    memset(to, 0, {size - used});\n" if size > used else ""
        ci, (blank, take) = self.shape.channels, self._bytewise()
        return text + self._windows(group, f"int8_t *to = bytes + {size} * p", ci, blank, take, rows=rows, rest=rest) + f"  {expand};\n"

    def _bytewise(self) -> tuple[Callable[[str, int], str], Callable[[str, str, int], str]]:
        """C that writes bytes of padding, and those at a column of `row`."""
        ci = self.shape.channels

        def blank(to: str, taps: int) -> str:
            return f"memset({to}, {self.zero_point}, {taps * ci})"

        def take(to: str, at: str, taps: int) -> str:
            return f"memcpy({to}, row + {at} * {ci}, {taps * ci})"

        return blank, take

    def _windows(
        self,
        group: int,
        to: str,
        tap_bytes: int,
        blank: Callable[[str, int], str],
        take: Callable[[str, str, int], str],
        *,
        rows: bool,
        rest: str = "",
    ) -> str:
        """C loops over the windows of `group` pixels one by one, written from `to` on, `tap_bytes` a tap.

        `blank` and `take` give the C that writes some taps: of padding, or those at a column of `row`; `rest` ends a window.
        """
        s = self.shape
        return (
            f"  for (int32_t p = 0; p < {group}; ++p) {{\n"
            f"    {to};\n"
            f"    const int32_t ix = x * {s.stride[1]} - {s.padding[1]};\n"
            f"{self._window(tap_bytes, blank, take, rows=rows)}"
            f"{rest}"
            f"    if (++x == {s.out_width}) {{ x = 0; ++y; }}\n"
            f"  }}\n"
        )

    def _window(self, tap_bytes: int, blank: Callable[[str, int], str], take: Callable[[str, str, int], str], *, rows: bool) -> str:
        """C that writes the window of one pixel, whose left column is `ix`, from `to` on."""
        s = self.shape
        (kh, kw), sh, (dh, dw) = s.kernel, s.stride[0], s.dilation
        tap = take(f"to + kx * {tap_bytes}", "at", 1)
        whole = f"if (ix >= 0 && ix + {kw} <= {s.width}) {take('to', 'ix', kw)};\n        else " if dw == 1 else ""
        return (
            f"    for (int32_t ky = 0; ky < {kh}; ++ky, to += {kw * tap_bytes}) {{\n"
            f"      const int32_t iy = y * {sh} - {s.padding[0]} + ky * {dh};\n"
            f"      if (iy < 0 || iy >= {s.height}) {blank('to', kw)};\n"
            f"      else {{\n"
            f"        const int8_t *row = {self._row(rows=rows)};\n"
            f"        {whole}for (int32_t kx = 0; kx < {kw}; ++kx) {{\n"
            f"          const int32_t at = ix + kx * {dw};\n"
            f"          if (at < 0 || at >= {s.width}) {blank(f'to + kx * {tap_bytes}', 1)};\n"
            f"          else {tap};\n"
            f"        }}\n"
            f"      }}\n"
            f"    }}\n"
        )

    def _gathered(self, group: int) -> str:
        """Shortcut for groups of windows wholly inside the image, when its rows lie together."""
        s = self.shape
        (kh, kw), (sh, sw), ci = s.kernel, s.stride, s.channels
        gather = self._gather(group, s.width * ci)
        if gather is None:
            return ""
        name = self.add(gather_function(self.prefix, gather))
        return (
            f"  const int32_t top = y * {sh} - {s.padding[0]}, side = x * {sw} - {s.padding[1]};\n"
            f"  if (x + {group} <= {s.out_width} && top >= 0 && top + {kh} <= {s.height} && side >= 0 &&\n"
            f"      side + {(group - 1) * sw + kw} <= {s.width}) {{\n"
            f"    {name}(in + (top * {s.width} + side) * {ci}, dst);\n"
            f"    return;\n  }}\n"
        )

    def _gather(self, group: int, row_bytes: int) -> Gather | None:
        """Straight code for windows inside the image; None where windows are too long, or the code is shared."""
        s = self.shape
        (kh, kw), ci = s.kernel, s.channels
        gather = Gather(kh, kw * ci, row_bytes, group, s.stride[1] * ci, self.matrix.operand, self.core.dual_issue)
        return gather if gather.fits and s.dilation == (1, 1) and not self.choice.shared else None

    def _gathered_rows(self, group: int) -> str:
        """Windows inside the image as many at once as there are, the others one by one; "" where there is no such code."""
        s, size = self.shape, self.byte_column
        (kh, kw), (sh, sw), ci = s.kernel, s.stride, s.channels
        gather, below, beside = self._gather(group, 0), s.height - kh, s.width - kw
        if gather is None or below < 0 or not any(0 <= x * sw - s.padding[1] <= beside - (group - 1) * sw for x in range(s.out_width)):
            return ""  # where no group is ever inside, straight code for less than a group is worth nothing
        name = self.add(gather_rows_function(self.prefix, gather))
        rest = f"      memset(bytes + {s.k}, 0, {size - s.k});\n" if size > s.k else ""
        where = f"const int32_t top = y * {sh} - {s.padding[0]}, ix = x * {sw} - {s.padding[1]};\n"
        call = f"{name}(rows + (top - first), dst + 8 * p, (uint32_t)(ix * {ci}), (uint32_t)made);\n"
        return (
            f"  {{\n    const int32_t p = 0, made = {group};\n    {where}"
            f"    if ((uint32_t)top <= {below} && (uint32_t)ix <= {beside - (group - 1) * sw}) {{\n"
            f"      {call}      return;\n    }}\n  }}\n"
            f"  for (int32_t p = 0, made; p < {group}; p += made, x += made) {{\n"
            f"    if (x == {s.out_width}) {{ x = 0; ++y; }}\n"
            f"    {where}"
            f"    made = 1;\n"
            f"    if ((uint32_t)top <= {below} && (uint32_t)ix <= {beside}) {{\n"
            f"      made = ({beside} - ix) / {sw} + 1;\n"
            f"      if (made > {group} - p) made = {group} - p;\n"
            f"      {call}"
            f"    }} else {{\n"
            f"      int8_t *to = bytes;\n"
            f"{self._window(ci, *self._bytewise(), rows=True)}"
            f"{rest}"
            f"      {self.expand(self.matrix.groups, 1, 0, group, 'bytes', 'dst + 8 * p')};\n"
            f"    }}\n  }}\n"
        )


def columns_functions(
    prefix: str, shape: Conv2DShape, zero_point: int, core: Core, packing: tuple[BlockChoice, PackedMatrix], group: int
) -> tuple[CFunction, ...]:
    """What expands the windows of `group` output pixels from pixel (y, x) on, padding included, callees first.

    `static void f(const int8_t *in, int32_t y, int32_t x, uint8_t *dst, int8_t *bytes)`; `bytes` is where pixels of a channel count that
    is no multiple of four are put together. Padding is the input's `zero_point`.
    """
    callees: dict[str, CFunction] = {}

    def add(function: CFunction) -> str:
        callees[function.name] = function
        return function.name

    Columns(prefix, shape, zero_point, core, *packing, add).function(group, rows=False)
    return tuple(callees.values())
