# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny project create|build|flash|run`: a firmware project, step by step."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions, takes_build_options
from tvm_tiny.cli.building import ModelOrArtifact, Target, artifact_of, progress
from tvm_tiny.cli.guard import AsJson, Debug, emit, guarded
from tvm_tiny.cli.inputs import Count, InputFile, Seed, make_samples

if TYPE_CHECKING:
    from tvm_tiny.device import RunResult
    from tvm_tiny.device.project import Project

Directory = Annotated[Path, typer.Argument(help="A project that `tvm-tiny project create` wrote.")]
Serial = Annotated[str, typer.Option("--serial", help="Serial port of a real board, PATH[@BAUD]; default: the one plugged in.")]


@takes_build_options
def create(
    model: ModelOrArtifact,
    directory: Annotated[Path, typer.Argument(help="Where the project goes: a new or empty directory.")],
    board: Annotated[str, typer.Option("--board", "-b", help="A board of `tvm-tiny boards`.")] = "native",
    template: Annotated[
        str | None, typer.Option("--template", help="zephyr: Zephyr on an mps2 board too; default: the board's own.")
    ] = None,
    application: Annotated[str, typer.Option("--app", help="standalone: serves inference; rpc: serves TVM's RPC client.")] = "standalone",
    times: Annotated[bool, typer.Option("--times", help="Measure each layer on the device (standalone only).")] = False,
    stack_bytes: Annotated[int, typer.Option("--stack", help="Bytes of the application's stack.")] = 16384,
    run_code: Annotated[bool, typer.Option("--run-code", help="With --app rpc: clients may send code and run it, as tuning does.")] = False,
    serial: Serial = "",
    target: Target = None,
    options: BuildOptions = DEFAULTS,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a firmware project with MODEL into DIRECTORY; it builds without tvm_tiny."""
    from tvm_tiny.boards import find_board
    from tvm_tiny.device.artifact import open_artifact
    from tvm_tiny.device.project import ProjectOptions, find_handler, with_template

    chosen = with_template(find_board(board), template)
    line = "uart" if application == "rpc" else "semihosting"
    application_options = ProjectOptions(application, "times" if times else "fault", line, stack_bytes, serial=serial, run_code=run_code)
    with artifact_of(model, target, board, options) as compiled, open_artifact(compiled) as artifact:
        project = find_handler(chosen).generate(artifact, chosen, directory, application_options)
    how = "cmake -GNinja -B build && ninja -C build" if chosen.template == "zephyr" else "make"
    data = {**_facts(project), "builds_with": how}
    emit(as_json, data, lambda console: console.print(f"{project.directory}: builds with `{how}`", highlight=False, soft_wrap=True))


def build(directory: Directory, as_json: AsJson = False, debug: Debug = False) -> None:
    """Build the project in DIRECTORY and print the size of its image."""
    from tvm_tiny.device import find_handler, load_project, measure_image

    project = load_project(directory)
    with progress(f"building for {project.board.name}"):
        image = find_handler(project.board).build(project)
    size = measure_image(image)
    data = {**_facts(project), "image": str(image), "flash": size.flash, "sram": size.sram}
    text = f"{image}: flash {size.flash:,} bytes, SRAM {size.sram:,} bytes"
    emit(as_json, data, lambda console: console.print(text, highlight=False, soft_wrap=True))


def flash(directory: Directory, as_json: AsJson = False, debug: Debug = False) -> None:
    """Flash the built project in DIRECTORY, and print the command that does it."""
    from tvm_tiny.device import find_handler, load_project

    project = load_project(directory)
    handler = find_handler(project.board)
    command = shlex.join(handler.flash_command(project))
    with progress(f"flashing {project.board.name}: {command}"):
        handler.flash(project)
    text = command or f"{project.board.name}: nothing to flash, `tvm-tiny project run` starts the image"
    emit(as_json, {**_facts(project), "command": command}, lambda console: console.print(text, highlight=False, soft_wrap=True))


def run(
    directory: Directory,
    inputs: InputFile = None,
    samples: Count = 1,
    seed: Seed = 0,
    serial: Serial = "",
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds one sample may take.")] = 60.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run samples on the project in DIRECTORY, which is built and (on a real board) flashed."""
    from tvm_tiny.device import load_project
    from tvm_tiny.device.artifact import pack_inputs
    from tvm_tiny.device.runner import run_samples
    from tvm_tiny.errors import InputError

    project = load_project(directory)
    if serial:
        project = dataclasses.replace(project, options=dataclasses.replace(project.options, serial=serial))
    if project.options.app != "standalone":
        raise InputError(f"{directory} holds the application {project.options.app!r}", remedy="connect to it as docs/rpc.md says")
    if not project.elf.is_file():
        raise InputError(f"{directory}: not built", remedy="run `tvm-tiny project build` first")
    artifact = project.read_artifact()
    drawn = make_samples(inputs, artifact.inputs, samples, seed)
    with progress(f"running {len(drawn)} samples on {project.board.name}"):
        result = run_samples(project, artifact, [pack_inputs(artifact, sample) for sample in drawn], timeout)
    names = [artifact.layer_name(i) for i in range(len(artifact.layers))]
    data = {**_facts(project), "outputs": result.outputs, "stack_used": result.stack_used, "layers": _layers(result, names)}
    emit(as_json, data, lambda console: _show(console, result, names))


def _facts(project: Project) -> dict[str, Any]:
    return {"directory": project.directory, "board": project.board.name, "template": project.board.template, "model": project.model}


def _layers(result: RunResult, names: list[str]) -> list[dict[str, Any]]:
    """Each layer's time in the last sample, seconds; empty when the project does not measure, or the device has no counter."""
    if not result.layer_times or not result.layer_times[-1].rate:
        return []
    last = result.layer_times[-1]
    return [{"name": name, "ticks": ticks, "seconds": ticks / last.rate} for name, ticks in zip(names, last.ticks, strict=True)]


def _show(console: Console, result: RunResult, names: list[str]) -> None:
    from tvm_tiny.cli.run import show_result

    show_result(console, result)
    if layers := _layers(result, names):
        table = Table("layer", "ticks", "microseconds")
        for layer in layers:
            table.add_row(layer["name"], f"{layer['ticks']:,}", f"{1e6 * layer['seconds']:,.1f}")
        console.print(table)
        if result.board.emulated or result.board.name == "native_sim":
            console.print("an emulator keeps no time: use `tvm-tiny profile`")


app = typer.Typer(name="project", help="Firmware projects: create, build, flash, run.", no_args_is_help=True)
for command in (create, build, flash, run):
    app.command()(guarded(command))
