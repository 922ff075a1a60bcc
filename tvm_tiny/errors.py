# SPDX-License-Identifier: Apache-2.0
"""Errors a user can meet. Each has a stable code, says what is wrong, where, why, and what to do.

`TinyError` is the user's side (a model, an option, a missing tool); anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


class TinyError(Exception):
    """Base of every error a user can cause or mend.

    Attributes
    ----------
    code : str
        Stable identifier (documented in docs/errors.md); the CLI prints it and `--json` carries it.
    remedy : str
        What the user can do about it; may be empty.
    """

    code = "TINY000"
    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class ModelFormatError(TinyError):
    """The file is not a model, or is damaged."""

    code = "TINY101"
    exit_code = 3


@dataclass(frozen=True)
class Problem:
    """One reason why a model can't be compiled.

    `node` and `tensors` are the names of the source model; `reason` says what is not supported; `remedy` what to do.
    """

    node: str
    tensors: tuple[str, ...]
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f" ({', '.join(self.tensors)})" if self.tensors else ""
        then = f"; {self.remedy}" if self.remedy else ""
        return f"{self.node}{where}: {self.reason}{then}"


class UnsupportedModelError(TinyError):
    """The model is sound but asks for what the compiler does not do. Carries every problem found, not the first."""

    code = "TINY102"
    exit_code = 3

    def __init__(self, problems: list[Problem], *, remedy: str = "") -> None:
        lines = "\n".join(f"  {i}. {p}" for i, p in enumerate(problems, 1))
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"the model can't be compiled: {len(problems)} {noun}\n{lines}", remedy=remedy)
        self.problems = problems


class DialectError(TinyError):
    """A `tiny.*` operator is used in a way its definition does not allow (argument count, shape, dtype, attribute)."""

    code = "TINY103"
    exit_code = 3


class TargetError(TinyError):
    """Unknown target, core, feature or board."""

    code = "TINY201"
    exit_code = 2


class OptionError(TinyError):
    """An option of `build()` or of the command line has no legal value."""

    code = "TINY202"
    exit_code = 2


class ToolchainError(TinyError):
    """A compiler, emulator or flasher is missing or failed."""

    code = "TINY301"
    exit_code = 4


class DependencyError(TinyError):
    """A Python package is missing, or not of the version this library works with."""

    code = "TINY302"
    exit_code = 4


class UnknownInstructionError(TinyError):
    """The profiler met an instruction it knows no timing of."""

    code = "TINY303"
    exit_code = 4


class DoesNotFitError(TinyError):
    """SRAM or flash of the board or of the given budget is exceeded."""

    code = "TINY401"
    exit_code = 5


class DeviceError(TinyError):
    """The device crashed, hung or answered nonsense."""

    code = "TINY501"
    exit_code = 6


class InputError(TinyError):
    """An input array has the wrong name, shape or dtype, or a file can't be read or written."""

    code = "TINY601"
    exit_code = 2
