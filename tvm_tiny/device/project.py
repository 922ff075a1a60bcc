# SPDX-License-Identifier: Apache-2.0
"""Firmware projects: what every template does (generate, build, flash, open a line), and how a template is found.

A template is a folder of `microtvm_projects/` with a `handler.py` that defines `Handler`, a `ProjectHandler`. A generated project holds
copies of all it needs and builds without this library: with make alone, or with Zephyr.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np

from tvm_tiny.boards import Board, find_board
from tvm_tiny.device.artifact import Artifact, check_board, read_metadata
from tvm_tiny.device.link import Link
from tvm_tiny.device.model_glue import emit_model_c
from tvm_tiny.device.rpc.registration import emit_functions_c
from tvm_tiny.device.rpc.sources import app_sources, copy_server, default_arena_bytes
from tvm_tiny.device.toolchain import BuildFailure, ToolStatus, find_tool, run_tool, tool_status
from tvm_tiny.errors import DoesNotFitError, InputError, OptionError, TargetError

APPS = ("standalone", "oneshot", "rpc")
HOOKS = ("fault", "times", "profile", None)
CONFIG = "project.json"


@dataclass(frozen=True)
class ProjectOptions:
    """Choices of a project.

    Attributes
    ----------
    app : str
        `standalone` serves inference after inference; `oneshot` runs once on compiled-in inputs and ends (for profilers); `rpc` serves
        TVM's RPC client (docs/rpc.md).
    hook : str or None
        `fault` records the running layer, `times` also measures how long each runs (app `standalone`), `profile` puts a marker
        instruction between layers, None leaves the hooks empty.
    line : str
        Transport of an emulated board: `semihosting` (fast) or `uart`. Other templates ignore it.
    stack_bytes : int
        Stack of the application on bare metal and on Zephyr.
    extra_flags : tuple[str, ...]
        Further compiler flags for every file, and for linking.
    serial : str
        Serial port of a real board, `PATH[@BAUD]`; empty looks for the one that is plugged in.
    run_code : bool
        With app `rpc`: clients may send code and have it run, as tuning does; the arena takes all the memory there is.
    """

    app: str = "standalone"
    hook: str | None = "fault"
    line: str = "semihosting"
    stack_bytes: int = 16384
    extra_flags: tuple[str, ...] = ()
    serial: str = ""
    run_code: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (("app", self.app, APPS), ("hook", self.hook, HOOKS), ("line", self.line, ("semihosting", "uart"))):
            if value not in known:
                raise OptionError(f"{what}={value!r} is not known", remedy=f"known: {', '.join(map(str, known))}")
        if self.hook == "times" and self.app != "standalone":
            raise OptionError(f"hook='times' does not go with app={self.app!r}", remedy="use app='standalone'; RPC has ticks of its own")
        if self.stack_bytes < 1024 or self.stack_bytes % 8:
            raise OptionError(f"stack_bytes={self.stack_bytes}: at least 1024 and a multiple of 8")


@dataclass(frozen=True)
class Project:
    """A generated project on disk."""

    directory: Path
    board: Board
    model: str
    options: ProjectOptions

    @property
    def elf(self) -> Path:
        """The linked image."""
        if self.board.template == "zephyr":
            return self.directory / "build" / "zephyr" / ("zephyr.exe" if self.board.target.is_host else "zephyr.elf")
        return self.directory / "build" / "firmware.elf"

    def read_artifact(self) -> Artifact:
        """What the compiled model in the project is: its tensors and layers, not its sources."""
        return read_metadata(self.directory / "model" / "metadata.json")

    def model_objects(self) -> list[Path]:
        """Object files of the model's own sources."""
        if self.board.template == "zephyr":
            return sorted((self.directory / "build" / "modules" / f"tvmgen_{self.model}").rglob("*.obj"))
        return sorted((self.directory / "build" / "model").rglob("*.o"))


class ProjectHandler(ABC):
    """Behaviour of one template. Stateless; the facts are in board, options and project."""

    template: ClassVar[str]

    @abstractmethod
    def tools(self, board: Board) -> tuple[str, ...]:
        """Keys of the programs (`toolchain.TOOLS`) that building for the board and running there take."""

    def needs(self, board: Board) -> list[ToolStatus]:
        """What the board takes on this machine, and whether it is here."""
        return [tool_status(key, version=False) for key in self.tools(board)]

    def generate(
        self,
        artifact: Artifact,
        board: Board,
        directory: Path,
        options: ProjectOptions,
        *,
        sample: Mapping[str, np.ndarray] | None = None,
    ) -> Project:
        """Write a project into a new or empty directory. All or nothing.

        Parameters
        ----------
        sample
            Inputs compiled into a one-shot image; None means zeros.

        Raises
        ------
        InputError
            The directory holds something, or can't be written.
        TargetError
            The model was compiled for a core the board has not.
        """
        check_board(artifact, board)
        directory = Path(directory)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory}: exists and is not an empty directory", remedy="choose another directory")
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.") as staging:
                new = Path(staging) / "project"
                self._write(artifact, board, new, options, sample)
                if directory.exists():
                    directory.rmdir()
                new.rename(directory)
        except OSError as error:
            raise InputError(f"{directory}: the project can't be written: {error.strerror or error}") from None
        return Project(directory.resolve(), board, artifact.name, options)

    def build(self, project: Project, *, timeout: float = 600) -> Path:
        """Compile and link; returns the image's path.

        Raises
        ------
        ToolchainError
            A tool is missing or failed.
        DoesNotFitError
            The image is larger than the board's memories.
        """
        make = find_tool("make")
        run_tool([str(make), "--silent"], cwd=project.directory, timeout=timeout, what=f"building for {project.board.name}")
        return project.elf

    def flash_command(self, project: Project) -> list[str]:
        """The command `flash` runs; empty when there is nothing to flash."""
        return []

    @abstractmethod
    def flash(self, project: Project) -> None:
        """Put the image on the board. Emulators and host processes load it when the line opens: nothing to do."""

    @abstractmethod
    def open_transport(self, project: Project) -> Link:
        """Start the program and return the line to it. The caller closes it, which ends whatever was started."""

    @abstractmethod
    def write_template(self, artifact: Artifact, board: Board, directory: Path, options: ProjectOptions) -> None:
        """Add the template's own files (Makefile, config.mk, src/…) to a project that has the model and the applications."""

    def _write(
        self,
        artifact: Artifact,
        board: Board,
        directory: Path,
        options: ProjectOptions,
        sample: Mapping[str, np.ndarray] | None,
    ) -> None:
        source = directory / "src"
        source.mkdir(parents=True)
        for path in sorted(template_folder("app").iterdir()):
            if path.suffix in (".c", ".h"):
                shutil.copyfile(path, source / path.name)
        _copy_model(artifact, directory / "model")
        if options.app == "rpc":
            copy_server(source / "rpc")
            (directory / "model_functions.c").write_text(emit_functions_c([artifact], run_code=options.run_code), encoding="utf-8")
        else:
            (directory / "model.c").write_text(emit_model_c(artifact, sample), encoding="utf-8")
        self.write_template(artifact, board, directory, options)
        config = {"model": artifact.name, "board": board.name, "template": self.template, "options": asdict(options)}
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _copy_model(artifact: Artifact, directory: Path) -> None:
    (directory / "src").mkdir(parents=True)
    shutil.copytree(artifact.directory / "codegen" / "host" / "include", directory / "include")
    shutil.copyfile(artifact.directory / "metadata.json", directory / "metadata.json")
    for path in artifact.sources:
        shutil.copyfile(path, directory / "src" / path.name)


def template_folder(name: str) -> Path:
    """Folder of a template, or of the applications (`app`)."""
    return Path(str(resources.files("tvm_tiny.microtvm_projects"))) / name


def with_template(board: Board, template: str | None) -> Board:
    """The board with another template than its own: the mps2 boards also run Zephyr.

    Raises
    ------
    TargetError
        The template has no firmware for the board.
    """
    if template in (None, board.template):
        return board
    if template != "zephyr" or not board.zephyr:
        known = ", ".join([board.template, *(["zephyr"] if board.zephyr else [])])
        raise TargetError(f"{board.name}: the template {template!r} has no firmware for it", remedy=f"use {known}")
    return replace(board, template=template)


def find_handler(board: Board) -> ProjectHandler:
    """The handler of a board's template.

    Raises
    ------
    TargetError
        The template has none in this version.
    """
    name = f"tvm_tiny.microtvm_projects.{board.template}.handler"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise TargetError(f"{board.name}: there is no project template {board.template!r}", remedy="choose an emulated board") from None
    handler: ProjectHandler = module.Handler()
    return handler


def load_project(directory: str | Path) -> Project:
    """A project generated earlier.

    Raises
    ------
    InputError
        The directory holds no project, or a damaged one.
    """
    path = Path(directory) / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        options = {**config["options"], "extra_flags": tuple(config["options"]["extra_flags"])}
        board = with_template(find_board(config["board"]), config["template"])
        return Project(path.parent.resolve(), board, config["model"], ProjectOptions(**options))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no project: {error}", remedy="generate it with `tvm-tiny project create`") from None


def does_not_fit(project: Project, failure: BuildFailure) -> DoesNotFitError | None:
    """What the linker says of memories that overflow, as an error that names them; None when the build failed otherwise."""
    overflows = re.findall(r"region `(\w+)' overflowed by (\d+) bytes", failure.output)
    if not overflows:
        return None
    words = "; ".join(f"memory {name} is {int(count):,} bytes too small" for name, count in dict(overflows).items())
    return DoesNotFitError(f"{project.model} does not fit {project.board.name}: {words}", remedy="choose a larger board")


def write_make_project(template: str, directory: Path, variables: Mapping[str, str]) -> None:
    """Add what a template that builds with make consists of: its C and linker scripts, its Makefile, the shared rules, and config.mk."""
    folder = template_folder(template)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".c", ".h", ".ld"):
            shutil.copyfile(path, directory / "src" / path.name)
    shutil.copyfile(folder / "Makefile", directory / "Makefile")
    shutil.copyfile(template_folder("app") / "rules.mk", directory / "rules.mk")
    (directory / "config.mk").write_text(config_mk(variables), encoding="utf-8")


def config_mk(variables: Mapping[str, str]) -> str:
    """Text of config.mk."""
    lines = "".join(f"{name} := {value}\n" for name, value in variables.items())
    return f"# Generated: what depends on the model and the board.\n{lines}"


def model_variables(artifact: Artifact, board: Board, options: ProjectOptions) -> dict[str, str]:
    """The variables every Makefile of the templates needs."""
    # Flags that choose the core come from the board: it knows which units the chip really has.
    flags = [f for f in artifact.compile_flags if not f.startswith("-m")]
    if not any(f.startswith("-std=") for f in flags):
        flags.append("-std=c99")
    if options.hook is not None:
        hook = "rpc" if options.app == "rpc" and options.hook == "fault" else options.hook
        flags.append(f"-DTVMGEN_LAYER_HOOK_HEADER='\"layer_hook_{hook}.h\"'")
    sources = [f"model/src/{path.name}" for path in artifact.sources if path.suffix == ".c"]
    app_flags = ["-DTINY_APP_ONESHOT"] if options.app == "oneshot" else []
    sources_of_app = ["src/fault.c", "src/frame.c", f"src/{options.app}.c", "model.c"]
    if options.hook == "times":
        app_flags.append(f"-DTINY_LAYER_TIMES={max(len(artifact.layers), 1)}u")
        sources_of_app += ["src/layer_times.c", "src/port_cycles.c"]
    if options.app == "rpc":
        app_flags = ["-Os", f"-DTINY_RPC_ARENA_BYTES={default_arena_bytes(artifact, board, all_room=options.run_code)}"]
        sources_of_app = [*app_sources(), "src/port_cycles.c", "model_functions.c"]
    return {
        "APP_SOURCES": " ".join(sources_of_app),
        "MODEL_FLAGS": " ".join([*flags, "-Imodel/src", *options.extra_flags]),
        "MODEL_SOURCES": " ".join(sources),
        "APP_DEFINES": " ".join([*app_flags, *options.extra_flags]),
        "LINK_FLAGS": " ".join(options.extra_flags),
    }
