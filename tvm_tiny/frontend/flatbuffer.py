# SPDX-License-Identifier: Apache-2.0
"""Bounds-checked reading of a FlatBuffer: nothing outside the file is ever touched, and the work is bounded by its size.

The generated accessors of the `tflite` package trust every offset; a flipped bit makes them raise anything, or read for ever. This reader
checks each offset before it follows it and charges every vector to a budget, so a file whose tables all point at one huge vector can't make
reading quadratic. Format: https://flatbuffers.dev/internals (little-endian; table → vtable by a signed offset; vectors and strings prefixed
by a 32-bit length).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvm_tiny.errors import ModelFormatError

_SCALARS = {"bool": "<?", "i8": "<b", "u8": "<B", "i32": "<i", "u32": "<I", "i64": "<q", "u64": "<Q", "f32": "<f"}
_VECTORS = {"i8": "<i1", "u8": "<u1", "i32": "<i4", "u32": "<u4", "i64": "<i8", "f32": "<f4"}
_REMEDY = "the file is truncated or damaged; export or copy it again"


def damaged(what: str) -> ModelFormatError:
    """A `ModelFormatError` that says what is wrong and how to get a sound file."""
    return ModelFormatError(f"damaged model file: {what}", remedy=_REMEDY)


@dataclass
class Source:
    """The bytes of one file and how much reading they still allow (`budget`, in bytes)."""

    data: bytes
    budget: int = field(default=0)

    def __post_init__(self) -> None:
        # Writers share strings and vtables, rarely vectors: sixteen times the file is generous and still linear.
        self.budget = 16 * len(self.data) + (1 << 20)

    def scalar(self, kind: str, at: int, what: str) -> Any:
        """One number of `kind` at byte `at`; `what` names it in the error."""
        layout = _SCALARS[kind]
        if at < 0 or at + struct.calcsize(layout) > len(self.data):
            raise damaged(f"{what} lies outside the file (byte {at} of {len(self.data)})")
        return struct.unpack_from(layout, self.data, at)[0]

    def follow(self, at: int, what: str) -> int:
        """The absolute position an unsigned 32-bit offset at `at` points to."""
        offset = self.scalar("u32", at, what)
        target = at + offset
        if offset == 0 or target + 4 > len(self.data):
            raise damaged(f"{what} points outside the file (byte {target} of {len(self.data)})")
        return target

    def vector(self, at: int, item: int, what: str) -> tuple[int, int]:
        """Start and length of the vector at `at` whose items take `item` bytes; charges the budget."""
        length = self.scalar("u32", at, what)
        if at + 4 + length * item > len(self.data):
            raise damaged(f"{what} has {length} items and runs past the end of the file")
        self.budget -= 4 + length * item
        if self.budget < 0:
            raise damaged("its tables refer to the same bytes over and over")
        return at + 4, length


class Table:
    """A FlatBuffer table whose vtable has been checked; fields are read by id (declaration order in the schema)."""

    def __init__(self, source: Source, at: int, what: str) -> None:
        self.source, self.at, self.what = source, at, what
        source.budget -= 4
        if source.budget < 0:
            raise damaged("its tables refer to the same bytes over and over")
        self.vtable = at - source.scalar("i32", at, what)
        layout = "<HH"
        if self.vtable < 0 or self.vtable + struct.calcsize(layout) > len(source.data):
            raise damaged(f"the vtable of {what} lies outside the file")
        self.vtable_size, self.size = struct.unpack_from(layout, source.data, self.vtable)
        if self.vtable_size < 4 or self.vtable_size % 2 or self.vtable + self.vtable_size > len(source.data):
            raise damaged(f"the vtable of {what} has {self.vtable_size} bytes")
        if self.size < 4 or at + self.size > len(source.data):
            raise damaged(f"{what} has {self.size} bytes and runs past the end of the file")

    def _field(self, index: int) -> int:
        entry = 4 + 2 * index
        if entry + 2 > self.vtable_size:
            return 0
        (offset,) = struct.unpack_from("<H", self.source.data, self.vtable + entry)
        if offset >= self.size and offset:
            raise damaged(f"field {index} of {self.what} lies outside its table")
        return self.at + offset if offset else 0

    def has(self, index: int) -> bool:
        """Whether the field is present (absent means its default)."""
        return self._field(index) != 0

    def scalar(self, index: int, kind: str, default: Any = 0) -> Any:
        """A number; `default` when the writer left it out."""
        at = self._field(index)
        return self.source.scalar(kind, at, f"field {index} of {self.what}") if at else default

    def table(self, index: int, what: str) -> Table | None:
        """A table the field refers to, or None."""
        at = self._field(index)
        return Table(self.source, self.source.follow(at, what), what) if at else None

    def numbers(self, index: int, kind: str, what: str) -> np.ndarray | None:
        """A vector of numbers as a read-only array over the file's bytes, or None."""
        at = self._field(index)
        if not at:
            return None
        dtype = np.dtype(_VECTORS[kind])
        start, length = self.source.vector(self.source.follow(at, what), dtype.itemsize, what)
        return np.frombuffer(self.source.data, dtype, length, start)

    def ints(self, index: int, what: str) -> tuple[int, ...]:
        """A vector of 32-bit integers, () when absent."""
        numbers = self.numbers(index, "i32", what)
        return () if numbers is None else tuple(int(n) for n in numbers)

    def string(self, index: int, what: str) -> str:
        """A UTF-8 string, "" when absent."""
        numbers = self.numbers(index, "u8", what)
        if numbers is None:
            return ""
        try:
            return numbers.tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise damaged(f"{what} is not UTF-8 text") from error

    def tables(self, index: int, what: str) -> list[Table]:
        """A vector of tables, [] when absent."""
        at = self._field(index)
        if not at:
            return []
        start, length = self.source.vector(self.source.follow(at, what), 4, what)
        return [self._item(start + 4 * i, f"{what}[{i}]") for i in range(length)]

    def _item(self, at: int, what: str) -> Table:
        return Table(self.source, self.source.follow(at, what), what)


def root(data: bytes, what: str) -> Table:
    """The root table of the FlatBuffer in `data`."""
    source = Source(data)
    return Table(source, source.follow(0, what), what)
