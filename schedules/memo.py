# SPDX-License-Identifier: Apache-2.0
"""Schedules made once a build: designs of one network differ in a few layers, and most functions come again as they were."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from tvm import tirx
from tvm_ffi import structural_equal, structural_hash

T = TypeVar("T")
_Made = dict[tuple[int, Hashable], list[tuple[tirx.PrimFunc, Any]]]
_MADE: ContextVar[_Made | None] = ContextVar("tvm_tiny_schedules", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within, `remembered` makes nothing twice; what was made is forgotten at the end of the outermost."""
    if _MADE.get() is not None:
        yield
        return
    token = _MADE.set({})
    try:
        yield
    finally:
        _MADE.reset(token)


def remembered(func: tirx.PrimFunc, how: Hashable, make: Callable[[], T]) -> T:
    """What `make` makes of `func`, attributes and constants included, for `how`; made anew outside `remembering`."""
    made = _MADE.get()
    if made is None:
        return make()
    known = made.setdefault((structural_hash(func), how), [])
    for before, result in known:
        if structural_equal(before, func):
            return cast(T, result)
    known.append((func, make()))
    return cast(T, known[-1][1])
