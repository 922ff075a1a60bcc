# SPDX-License-Identifier: Apache-2.0
"""The options of `tvm_tiny.build` that every command with a model takes: listed once, given to a command as one `BuildOptions`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

RECORDS_HELP = "File of tuning records that choose kernels, besides the shipped ones; none: not even those."


@dataclass(frozen=True)
class BuildOptions:
    """One option of the command line a field."""

    optimize: Annotated[str, typer.Option("--optimize", "-O", help="balanced, speed or sram: what rows and patches are used for.")] = (
        "balanced"
    )
    sram: Annotated[
        str | None, typer.Option("--sram", help='Budget of the arena, such as "64KB", or "board"; exceeding it is an error.')
    ] = None
    flash: Annotated[
        str | None, typer.Option("--flash", help='Budget of code and constants, such as "96KB"; exceeding it is an error.')
    ] = None
    max_overhead: Annotated[float, typer.Option("--max-overhead", help="Work that may be added to save memory, as a fraction.")] = 0.1
    constant_time: Annotated[bool, typer.Option("--constant-time", help="No kernel whose loops depend on the values of its input.")] = False
    disable: Annotated[list[str] | None, typer.Option("--disable", metavar="PASS", help="Leave an optional pass out; may be repeated.")] = (
        None
    )
    records: Annotated[str | None, typer.Option("--records", help=RECORDS_HELP)] = None

    def arguments(self) -> dict[str, Any]:
        """As arguments of `tvm_tiny.build`."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        records = True if self.records is None else False if self.records == "none" else self.records
        return {**given, "disable": self.disable or (), "records": records}

    def given(self) -> list[str]:
        """The options that differ from their defaults, as they are written."""
        different = (field.name for field in fields(self) if getattr(self, field.name) not in (field.default, []))
        return ["--" + name.replace("_", "-") for name in different]


DEFAULTS = BuildOptions()


def takes_build_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turn a command's parameter `options: BuildOptions` into one option of the command line a field, in its place."""
    hints = get_type_hints(command, include_extras=True)
    field_hints = get_type_hints(BuildOptions, include_extras=True)
    options = [
        inspect.Parameter(f.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=f.default, annotation=field_hints[f.name])
        for f in fields(BuildOptions)
    ]
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        parameters += options if name == "options" else [parameter.replace(annotation=hints[name])]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        own = {option.name: given.pop(option.name) for option in options}
        command(**given, options=BuildOptions(**own))

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
