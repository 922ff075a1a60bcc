# SPDX-License-Identifier: Apache-2.0
"""Template `zephyr`: the application on Zephyr, the model as a Zephyr module beside it; emulated boards, native_sim and real boards."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from tvm_tiny.boards import Board
from tvm_tiny.device.artifact import Artifact
from tvm_tiny.device.flashing import find_flash_command, flasher_status, run_flash_command
from tvm_tiny.device.link import Link
from tvm_tiny.device.process import start_process
from tvm_tiny.device.project import Project, ProjectHandler, ProjectOptions, does_not_fit, model_variables, template_folder
from tvm_tiny.device.qemu import boot_with_uart
from tvm_tiny.device.serial import open_serial
from tvm_tiny.device.toolchain import BuildFailure, ToolStatus, find_tool, run_tool
from tvm_tiny.errors import OptionError, ToolchainError


class Handler(ProjectHandler):
    """Handler of the `zephyr` template."""

    template = "zephyr"

    def tools(self, board: Board) -> tuple[str, ...]:
        """CMake, Ninja, a compiler, and QEMU for what it emulates."""
        compiler = "host-cc" if board.target.is_host else "arm-gcc"
        return ("cmake", "ninja", compiler, *(["qemu"] if board.emulated else []))

    def needs(self, board: Board) -> list[ToolStatus]:
        """The programs, a Zephyr tree, and for a real board something to flash it with."""
        found = [*super().needs(board), zephyr_status()]
        return found if _boots_here(board) else [*found, flasher_status(board)]

    def write_template(self, artifact: Artifact, board: Board, directory: Path, options: ProjectOptions) -> None:
        """Add the Zephyr application, the model's module, and project.cmake."""
        if options.app == "oneshot":
            raise OptionError("app='oneshot' is for profilers, on bare metal", remedy="use the template mps2, or app='standalone'")
        folder = template_folder("zephyr")
        for name in ("CMakeLists.txt", "Kconfig", f"family_{family(board)}.conf"):
            shutil.copyfile(folder / name, directory / name)
        _write_settings(folder, board, directory, artifact, options)
        for path in (*sorted(folder.glob("*.c")), template_folder("mps2") / "semihosting.h"):
            shutil.copyfile(path, directory / "src" / path.name)
        variables = {name: shlex.split(text) for name, text in model_variables(artifact, board, options).items()}
        _write_module(folder / "module", artifact, variables, board, directory / "model" / "zephyr")
        (directory / "project.cmake").write_text(project_cmake(artifact, board, options, variables), encoding="utf-8")

    def build(self, project: Project, *, timeout: float = 1800) -> Path:
        """Configure and build with CMake and Ninja.

        The toolchain is that of ZEPHYR_TOOLCHAIN_VARIANT, else the distribution's arm-none-eabi-gcc (`gnuarmemb`).
        """
        check_zephyr()
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        if not os.environ.get("ZEPHYR_TOOLCHAIN_VARIANT"):
            find_tool("host-cc" if project.board.target.is_host else "arm-gcc")
        what = f"building for {project.board.name} with Zephyr"
        try:
            if not (project.directory / "build" / "build.ninja").is_file():
                run_tool([str(cmake), "-GNinja", "-B", "build", "-S", "."], cwd=project.directory, timeout=timeout, what=what)
            run_tool([str(ninja), "-C", "build"], cwd=project.directory, timeout=timeout, what=what)
        except BuildFailure as error:
            raise does_not_fit(project, error) or error from None
        return project.elf

    def flash_command(self, project: Project) -> list[str]:
        """`west flash`, OpenOCD or pyOCD, whichever is here; empty for a process or an emulator."""
        return [] if _boots_here(project.board) else find_flash_command(project)

    def flash(self, project: Project) -> None:
        """Flash a real board; QEMU and native_sim start the image when the line opens."""
        if command := self.flash_command(project):
            run_flash_command(project, command)

    def open_transport(self, project: Project) -> Link:
        """Start native_sim or QEMU, or open the board's serial port."""
        if project.board.target.is_host:
            return start_process([str(project.elf)], cwd=project.directory)
        return boot_with_uart(project.board, project.elf) if project.board.emulated else open_serial(project)


def _boots_here(board: Board) -> bool:
    return board.target.is_host or board.emulated


def family(board: Board) -> str:
    """Zephyr's processor architecture: `posix` for native_sim, `arm` for the others."""
    return "posix" if board.target.is_host else "arm"


def check_zephyr() -> Path:
    """The Zephyr tree of ZEPHYR_BASE.

    Raises
    ------
    ToolchainError
        The variable is unset or names no Zephyr tree.
    """
    remedy = "set ZEPHYR_BASE to the zephyr folder of a west workspace (docs/zephyr.md)"
    base = os.environ.get("ZEPHYR_BASE", "")
    if not base:
        raise ToolchainError("ZEPHYR_BASE is not set: the template zephyr builds with a Zephyr tree", remedy=remedy)
    if not (Path(base) / "share" / "zephyr-package" / "cmake" / "ZephyrConfig.cmake").is_file():
        raise ToolchainError(f"ZEPHYR_BASE={base}: no Zephyr tree", remedy=remedy)
    return Path(base)


def zephyr_status() -> ToolStatus:
    """Whether ZEPHYR_BASE names a tree."""
    purpose = "the operating system's sources"
    try:
        return ToolStatus("ZEPHYR_BASE", purpose, str(check_zephyr()), "", "")
    except ToolchainError as error:
        return ToolStatus("ZEPHYR_BASE", purpose, None, "", error.remedy)


def _write_settings(folder: Path, board: Board, directory: Path, artifact: Artifact, options: ProjectOptions) -> None:
    """prj.conf with what depends on model and options, and the board's overlay under the name Zephyr looks for."""
    lines = [f"CONFIG_{_upper(artifact)}=y", f"CONFIG_MAIN_STACK_SIZE={options.stack_bytes}"]
    text = (folder / "prj.conf").read_text(encoding="utf-8")
    (directory / "prj.conf").write_text(
        f"{text}\n# Of the model and the options of the project.\n" + "\n".join(lines) + "\n", encoding="utf-8"
    )
    name = board.zephyr.replace("/", "_")
    overlay = folder / "boards" / f"{name}.overlay"
    if overlay.is_file():
        (directory / "boards").mkdir()
        shutil.copyfile(overlay, directory / "boards" / overlay.name)


def _write_module(folder: Path, artifact: Artifact, variables: dict[str, list[str]], board: Board, directory: Path) -> None:
    """model/zephyr: the compiled model as a Zephyr module."""
    directory.mkdir()
    sources = "".join(f"    ${{MODEL_DIR}}/src/{Path(source).name}\n" for source in variables["MODEL_SOURCES"])
    flags = [flag for flag in variables["MODEL_FLAGS"] if not flag.startswith(("-DTVMGEN_LAYER_HOOK_HEADER", "-I"))]
    values = {
        "UPPER": _upper(artifact),
        "NAME": f"tvmgen_{artifact.name}",
        "WORKSPACE": str(artifact.workspace_size),
        "SOURCES": sources,
        "FLAGS": _cmake_list(flags),
        **_placements(artifact, board),
    }
    for path in sorted(folder.glob("*.in")):
        text = path.read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        (directory / path.stem).write_text(text, encoding="utf-8")


def _placements(artifact: Artifact, board: Board) -> dict[str, str]:
    """Kconfig and CMake that place the arena, or each of its memories, in a section of the linker script."""
    upper = _upper(artifact)
    default = {r.name: r.zephyr_section for r in board.memory}
    kconfig, cmake = [], []
    for memory in artifact.memories or ("",):
        macro = f"{upper}_WORKSPACE{'_' + memory.upper() if memory else ''}"
        where = f"Linker section of the arena of tvmgen_{artifact.name}" + (f" in {memory}" if memory else "")
        text = "\thelp\n\t  Such as .dtcm_bss, on a board whose devicetree chooses zephyr,dtcm. Empty: the board's main memory.\n"
        kconfig.append(f'config {macro}_SECTION\n\tstring "{where}"\n\tdefault "{default.get(memory, "")}"\n\tdepends on {upper}\n{text}')
        attribute = f'__attribute__((section(\\"${{CONFIG_{macro}_SECTION}}\\"), aligned(16)))'
        cmake.append(
            f'  if(NOT CONFIG_{macro}_SECTION STREQUAL "")\n'
            f'    zephyr_library_compile_definitions(\n      "{macro}={attribute}")\n  endif()\n'
        )
    return {"SECTIONS": "\n".join(kconfig), "PLACES": "".join(cmake)}


def project_cmake(artifact: Artifact, board: Board, options: ProjectOptions, variables: dict[str, list[str]]) -> str:
    """Text of project.cmake."""
    hook = [flag for flag in variables["MODEL_FLAGS"] if flag.startswith("-DTVMGEN_LAYER_HOOK_HEADER")]
    values = {
        "TINY_MODEL": f"tvmgen_{artifact.name}",
        "TINY_APP": options.app,
        "TINY_BOARD": board.zephyr,
        "TINY_FAMILY": family(board),
        "TINY_TOOLCHAIN": "host" if board.target.is_host else "gnuarmemb",
        # port_cycles.c is in CMakeLists.txt for every application.
        "TINY_APP_SOURCES": _cmake_list([s for s in variables["APP_SOURCES"] if s != "src/port_cycles.c"]),
        "TINY_APP_FLAGS": _cmake_list(variables["APP_DEFINES"]),
        "TINY_HOOK_FLAGS": _cmake_list(hook),
    }
    lines = "".join(f"set({name} {value})\n" for name, value in values.items())
    return f"# Generated: what depends on the model and the board.\n{lines}"


def _cmake_list(words: list[str]) -> str:
    return " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)


def _upper(artifact: Artifact) -> str:
    return f"TVMGEN_{artifact.name.upper()}"
