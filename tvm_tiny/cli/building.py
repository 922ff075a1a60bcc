# SPDX-License-Identifier: Apache-2.0
"""Options and steps shared by the commands that compile a model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_tiny.cli.build_options import BuildOptions
from tvm_tiny.cli.guard import progress_console
from tvm_tiny.errors import OptionError

if TYPE_CHECKING:
    from tvm_tiny.compiled import CompiledModel

CAMERA_HELP = "rows: the application hands over the image row by row through a function; int8: rows it has quantised itself."

Model = Annotated[Path, typer.Argument(help="A trained int8 model: .tflite, or .onnx in QDQ or QOperator form.")]
ModelOrArtifact = Annotated[Path, typer.Argument(help="A trained int8 model, or a directory or .tar that `compile` wrote.")]
Target = Annotated[str | None, typer.Option("--target", "-t", help='Such as "c -mcpu=cortex-m7"; default: of the board, else the host.')]
BoardName = Annotated[str | None, typer.Option("--board", "-b", help="A board of `tvm-tiny boards`; its memories are limits.")]
Name = Annotated[str | None, typer.Option("--name", help="C identifier in every symbol; default: from the file's name.")]

Explain = Annotated[bool, typer.Option("--explain", help="Print what every pass considered, took and left, and why.")]

Camera = Annotated[str, typer.Option("--camera", help=CAMERA_HELP)]

EMULATED_M7 = "mps2_an500"


def camera_of(option: str) -> bool | str:
    """`camera=` of `tvm_tiny.build` for what the command line takes.

    Raises
    ------
    OptionError
        It is none of no, rows and int8.
    """
    known: dict[str, bool | str] = {"no": False, "rows": True, "int8": "int8"}
    if option not in known:
        raise OptionError(f"--camera {option}: not known", remedy=f"use one of {', '.join(known)}")
    return known[option]


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on a terminal's standard error that `what` is going on; nothing elsewhere."""
    console = progress_console()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def build_model(model: Path, target: str | None, board: str | None, options: BuildOptions, **further: Any) -> CompiledModel:
    """Compile, with progress shown; TVM is imported here. `further` are arguments of `tvm_tiny.build` that only some commands have."""
    with progress(f"compiling {model.name}"):
        from tvm_tiny.api import build

        return build(model, target, board=board, **options.arguments(), **further)


def explanation_of(compiled: CompiledModel) -> str:
    """What `--explain` prints."""
    from tvm_tiny.explain import to_text

    return to_text(compiled.explanation, compiled.program.model.get("tensors"))


@contextmanager
def artifact_of(model: Path, target: str | None, board: str, options: BuildOptions) -> Iterator[Path]:
    """What `compile` wrote at `model`; or the model file compiled for `board` into a directory that lasts as long as the context.

    Raises
    ------
    OptionError
        A target, or another option of compiling, for what is compiled already.
    """
    if model.is_dir() or model.suffix == ".tar":
        late = (["--target"] if target is not None else []) + options.given()
        if late:
            too_late = f"{', '.join(late)} {'comes' if len(late) == 1 else 'come'} too late"
            raise OptionError(f"{model} is compiled already, {too_late}", remedy="leave it out, or give the model file")
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_") as folder:
        yield build_model(model, target, board, options).save(Path(folder) / "model")
