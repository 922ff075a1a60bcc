# SPDX-License-Identifier: Apache-2.0
"""The typer application and the list of its commands."""

from __future__ import annotations

from typing import Annotated

import typer

import tvm_tiny
from tvm_tiny.cli import boards, check, doctor, profile, run
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
for command in (check.check, run.run, profile.profile, boards.boards, doctor.doctor):
    app.command()(guarded(command))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tvm-tiny {tvm_tiny.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Trained int8 networks to exact, small, fast C for microcontrollers."""
