# SPDX-License-Identifier: Apache-2.0
"""Keep our errors ours on their way through TVM.

TVM's runtime turns an exception raised inside a pass into its kind and its text, and makes a new one on the Python side: a RuntimeError
unless the kind is registered (`tvm_ffi.register_error`). Registered here, a `TinyError` raised in a pass reaches the caller as what it was,
whether the pass ran from `build`, by itself, or in a stock `Sequential`.
"""

from __future__ import annotations

import tvm_ffi

from tvm_tiny.errors import DialectError, DoesNotFitError, InputError, OptionError, Problem, TargetError, TinyError, UnsupportedModelError
from tvm_tiny.memory.check import IllegalPlanError
from tvm_tiny.memory.fit import MemoryDoesNotFitError

# What passes, schedules and the planner raise.
KINDS: tuple[type[TinyError], ...] = (
    DialectError, DoesNotFitError, IllegalPlanError, InputError, MemoryDoesNotFitError, OptionError, TargetError, UnsupportedModelError,
)  # fmt: skip

_REMEDY = "\n  remedy: "  # as TinyError.__str__ writes it


def rebuild(kind: type[TinyError], text: str) -> TinyError:
    """Make the error again from what TVM kept of it, its text; what else it carried is in that text."""
    message, _, remedy = text.partition(_REMEDY)
    error = kind.__new__(kind)
    TinyError.__init__(error, message, remedy=remedy)
    if isinstance(error, UnsupportedModelError):
        error.problems = [Problem("model", (), message, remedy)]
    return error


def register_errors() -> None:
    """Tell TVM of `KINDS`. Called when `tvm_tiny.ops` is imported."""
    for kind in KINDS:
        tvm_ffi.register_error(kind.__name__, kind)
        # TVM calls the class that stands here with the text alone, and ours would lose the remedy: a class that makes one of ours instead.
        maker = {"__new__": lambda _, text, kind=kind: rebuild(kind, text)}
        tvm_ffi.core.ERROR_NAME_TO_TYPE[kind.__name__] = type(f"Rebuilt{kind.__name__}", (), maker)
