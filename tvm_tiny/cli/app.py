# SPDX-License-Identifier: Apache-2.0
"""The typer application and the list of its commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

import tvm_tiny
from tvm_tiny.cli import boards, check, compare, compile, device_server, doctor, kernel, profile, project, report, run, tune
from tvm_tiny.cli.guard import EXIT_CODES, guarded

app = typer.Typer(
    name="tvm-tiny",
    help="Trained int8 networks to exact, small, fast C for microcontrollers.",
    epilog="Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

# The order of `tvm-tiny --help`: from a file to a device.
COMMANDS: dict[str, Callable[..., None]] = {
    "check": check.check,
    "compile": compile.compile_model,
    "report": report.report,
    "compare": compare.compare,
    "run": run.run,
    "profile": profile.profile,
    "kernel": kernel.kernel,
    "tune": tune.tune,
    "device-server": device_server.device_server,
    "boards": boards.boards,
    "doctor": doctor.doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(guarded(command))
app.add_typer(project.app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tvm-tiny {tvm_tiny.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Trained int8 networks to exact, small, fast C for microcontrollers."""
