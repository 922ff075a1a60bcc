# SPDX-License-Identifier: Apache-2.0
"""What every command shares at its edge: exit codes, errors without tracebacks, and the two output forms.

A user's mistake (`TinyError`) is printed as code, message and remedy. Anything else is a bug of ours and says so. `--debug` shows the
traceback of either. Under `--json` standard output carries exactly one JSON document, also when the command fails.
"""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from tvm_tiny.errors import TinyError

EXIT_CODES = {
    0: "done",
    1: "the answer is no (compare: outputs differ)",
    2: "wrong use: option, target, board or input",
    3: "the model is damaged or not supported",
    4: "a tool or package is missing or failed",
    5: "does not fit the board",
    6: "the device crashed, hung or answered nonsense",
    70: "a bug in tvm_tiny",
    130: "interrupted",
}
EXIT_BUG, EXIT_INTERRUPTED = 70, 130
PIPED_WIDTH = 140  # a pipe or a file has no width of its own
ISSUE_REMEDY = "this is a bug in tvm_tiny: run again with --debug and report the traceback"

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that its errors become messages and exit codes.

    The command must take `as_json: AsJson` and `debug: Debug`; `debug` is used here alone.
    """

    @functools.wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(_report(error, options["as_json"], options["debug"])) from None

    return run


def emit(as_json: bool, data: Mapping[str, Any], show: Callable[[Console], None]) -> None:
    """Print a command's result: `data` as JSON, or what `show` draws on the console."""
    if as_json:
        print(json.dumps(data, indent=2, default=_plain))
    else:
        console = Console()
        show(console if console.is_terminal else Console(width=PIPED_WIDTH))


def progress_console() -> Console:
    """Console for progress and remarks: standard error, so that standard output stays clean."""
    return Console(stderr=True)


def _report(error: BaseException, as_json: bool, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    code, message, remedy, status = _describe(error)
    if as_json:
        document = {"code": code, "message": message, "remedy": remedy, "exit_code": status, **_problems(error)}
        print(json.dumps({"error": document}, indent=2))
        return status
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    stderr.print(f"error {code}:", style="bold red", end=" ")
    stderr.print(message, markup=False)
    if remedy:
        stderr.print("remedy:", style="bold", end=" ")
        stderr.print(remedy, markup=False)
    return status


def _describe(error: BaseException) -> tuple[str, str, str, int]:
    if isinstance(error, TinyError):
        return error.code, error.message, error.remedy, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "INTERRUPTED", "interrupted", "", EXIT_INTERRUPTED
    return "BUG", f"{type(error).__name__}: {error}", ISSUE_REMEDY, EXIT_BUG


def _problems(error: BaseException) -> dict[str, Any]:
    problems = getattr(error, "problems", None)
    if not problems:
        return {}
    return {"problems": [{"node": p.node, "tensors": list(p.tensors), "reason": p.reason, "remedy": p.remedy} for p in problems]}


def _plain(value: Any) -> Any:
    """JSON form of what the library returns: numpy numbers and arrays, paths, sets."""
    for convert in ("tolist", "__fspath__"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
