# SPDX-License-Identifier: Apache-2.0
"""The Zephyr template's handler without Zephyr: what it writes, refuses, flashes with, and how it reaches a board's serial port."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.rpc.test_boards import run_model
from tests.support.demo import MODEL
from tests.support.device_model import expected, sample, write_crasher
from tvm_tiny.boards import find_board, load_boards
from tvm_tiny.device import ProjectOptions, connect, find_handler, generate_project, load_project, run
from tvm_tiny.device.artifact import pack_inputs
from tvm_tiny.device.flashing import flash_commands
from tvm_tiny.device.link import ChildProcess
from tvm_tiny.device.project import Project, with_template
from tvm_tiny.device.runner import run_samples
from tvm_tiny.device.serial import find_port
from tvm_tiny.errors import DeviceError, InputError, OptionError, TargetError, ToolchainError
from tvm_tiny.microtvm_projects.zephyr.handler import Handler

N = 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small compiled model."""
    return write_crasher(tmp_path / "mlf", N, flags=("-O2", "-mcpu=cortex-m7"))


def generated(model: Path, tmp_path: Path, board: str, **options: object) -> Project:
    """A project of the template for a board."""
    return load_project(generate_project(model, tmp_path / "project", with_template(find_board(board), "zephyr"), **options))


@pytest.mark.parametrize("board", [b.name for b in load_boards().values() if b.zephyr])
@pytest.mark.parametrize("app", ["standalone", "rpc"])
def test_project_holds_what_it_names(board: str, app: str, model: Path, tmp_path: Path) -> None:
    """Every source and setting the CMake files name is in the project; nothing names the machine it was made on."""
    project = generated(model, tmp_path, board, app=app)
    assert project.board.template == "zephyr"
    assert find_handler(project.board).template == "zephyr"
    texts = {path: path.read_text() for path in project.directory.rglob("*") if path.is_file()}
    cmake = "".join(texts[project.directory / name] for name in ("project.cmake", "CMakeLists.txt"))
    named = set(re.findall(r"[\w/]+\.c\b", cmake))
    assert {"src/port_zephyr.c", f"src/{app}.c" if app == "standalone" else "src/rpc/rpc_server.c"} <= named
    assert [name for name in named if not (project.directory / name).is_file()] == []
    module = texts[project.directory / "model/zephyr/CMakeLists.txt"]
    assert "${MODEL_DIR}/src/tvmgen_crasher.c" in module
    assert "LAYER_HOOK" not in module  # the hook belongs to the application
    assert "cortex-m7" not in module  # Zephyr chooses the core
    assert [path for path, text in texts.items() if str(tmp_path) in text or "@UPPER@" in text] == []


def test_module_can_place_the_arena(model: Path, tmp_path: Path) -> None:
    folder = generated(model, tmp_path, "nucleo_f746zg").directory / "model" / "zephyr"
    assert "name: tvmgen_crasher" in (folder / "module.yml").read_text()
    assert "config TVMGEN_CRASHER_WORKSPACE_SECTION" in (folder / "Kconfig").read_text()
    assert "TVMGEN_CRASHER_WORKSPACE=" in (folder / "CMakeLists.txt").read_text()


def test_every_memory_of_the_arena_has_its_section(tmp_path: Path) -> None:
    """DTCM by the section Zephyr has for it, AXI SRAM as Zephyr's main memory; both can be changed in Kconfig."""
    model = tvm_tiny.build(MODEL, board="nucleo_h743zi", name="crasher", optimize="speed", pins={"image": "axi_sram"})
    folder = generated(model.save(tmp_path / "mlf"), tmp_path, "nucleo_h743zi").directory / "model" / "zephyr"
    kconfig, cmake = ((folder / name).read_text() for name in ("Kconfig", "CMakeLists.txt"))
    assert re.findall(r'config (\w+_SECTION)\n.*\n\tdefault "(.*)"', kconfig) == [
        ("TVMGEN_CRASHER_WORKSPACE_DTCM_SECTION", ".dtcm_bss"), ("TVMGEN_CRASHER_WORKSPACE_AXI_SRAM_SECTION", "")
    ]  # fmt: skip
    assert "TVMGEN_CRASHER_WORKSPACE_DTCM=__attribute__((section(" in cmake
    assert "${CONFIG_TVMGEN_CRASHER_WORKSPACE_DTCM_SECTION}" in cmake
    assert "TVMGEN_CRASHER_WORKSPACE_AXI_SRAM=" in cmake


def test_refusals(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="oneshot"):
        generated(model, tmp_path, "nucleo_f746zg", app="oneshot")
    assert not (tmp_path / "project").exists()
    with pytest.raises(TargetError, match="qemu_m0: the template 'zephyr'"):
        with_template(find_board("qemu_m0"), "zephyr")
    project = generated(model, tmp_path, "nucleo_f746zg")
    handler = find_handler(project.board)
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    with pytest.raises(ToolchainError, match="ZEPHYR_BASE is not set"):
        handler.build(project)
    monkeypatch.setenv("ZEPHYR_BASE", str(tmp_path))
    with pytest.raises(ToolchainError, match="no Zephyr tree"):
        handler.build(project)


def fake_tool(folder: Path, name: str, exit_code: int = 0) -> None:
    """A program that writes its arguments to `<name>.log` in its working directory."""
    folder.mkdir(exist_ok=True)
    script = folder / name
    script.write_text(f'#!/bin/sh\necho "$0" "$@" > {name}.log\necho flashing failed for a reason\nexit {exit_code}\n')
    script.chmod(0o755)


def pretend_built(project: Project) -> None:
    """An image to flash."""
    project.elf.parent.mkdir(parents=True)
    project.elf.write_bytes(b"")


def test_flash_runs_the_first_tool_that_is_here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = generated(model, tmp_path, "nucleo_h743zi")
    handler = find_handler(project.board)
    tools = tmp_path / "tools"
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for name, arguments in (
        ("pyocd", "flash --target stm32h743zitx build/zephyr/zephyr.elf"),
        ("openocd", "-f board/st_nucleo_h743zi.cfg -c program build/zephyr/zephyr.elf verify reset exit"),
        ("west", "flash --build-dir build"),
    ):
        fake_tool(tools, name)
        if not project.elf.is_file():
            with pytest.raises(InputError, match="not built"):
                handler.flash(project)
            pretend_built(project)
        assert handler.flash_command(project)[0] == name
        handler.flash(project)
        assert (project.directory / f"{name}.log").read_text().endswith(f"{name} {arguments}\n")
    fake_tool(tools, "west", exit_code=3)
    with pytest.raises(ToolchainError, match=r"west flash --build-dir build: west failed with exit code 3\n.*for a reason"):
        handler.flash(project)


def test_flash_without_a_tool_shows_the_commands(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = generated(model, tmp_path, "nucleo_f746zg")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError) as caught:
        find_handler(project.board).flash(project)
    for command in (
        "west flash --build-dir build",
        "openocd -f board/st_nucleo_f7.cfg -c 'program build/zephyr/zephyr.elf verify reset exit'",
    ):
        assert command in str(caught.value)
    assert "pyocd" not in flash_commands(project.board, "image")


def test_emulated_boards_need_no_flashing(model: Path, tmp_path: Path) -> None:
    project = generated(model, tmp_path, "mps2_an500")
    assert find_handler(project.board).flash_command(project) == []


def test_port(model: Path, tmp_path: Path) -> None:
    """The named port, else the only one; none and several are errors."""
    project = generated(model, tmp_path, "nucleo_f746zg")
    folder = tmp_path / "by-id"
    with pytest.raises(DeviceError, match="no serial port"):
        find_port(project, folder)
    folder.mkdir()
    (folder / "usb-one").touch()
    assert find_port(project, folder).path == str(folder / "usb-one")
    (folder / "usb-two").touch()
    with pytest.raises(OptionError, match="2 serial ports are plugged in: usb-one, usb-two"):
        find_port(project, folder)
    named = replace(project, options=replace(project.options, serial="/dev/ttyACM7@921600"))
    assert str(find_port(named, folder)) == "serial:/dev/ttyACM7@921600"
    with pytest.raises(OptionError, match="PATH"):
        find_port(replace(project, options=replace(project.options, serial="/dev/x@fast")), folder)


@pytest.fixture
def board_on_a_port(model: Path, tmp_path: Path) -> Iterator[str]:
    """The standalone application as a board."""
    with played_board(tmp_path) as port:
        yield port


@contextlib.contextmanager
def played_board(tmp_path: Path, **options: str) -> Iterator[str]:
    """An application as a process behind a pseudo-terminal, running long before anyone opens its port: a board."""
    folder = generate_project(write_crasher(tmp_path / "host", N), tmp_path / "native", "native", **options)
    image = find_handler(find_board("native")).build(load_project(folder))
    device, port = pty.openpty()
    tty.setraw(port)
    process = ChildProcess([str(image)], cwd=folder, stdin=device, stdout=device)
    try:
        yield os.ttyname(port)
    finally:
        process.close()
        os.close(device)
        os.close(port)


@pytest.mark.host_cc
def test_connect_flashes_a_board_and_finds_its_port(
    model: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One `with` block: built (here: pretended), flashed, connected; and `run(transport="rpc")`."""
    fake_tool(tmp_path / "tools", "west")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:{os.environ['PATH']}")
    monkeypatch.setattr(Handler, "build", lambda _self, project, **_: pretend_elf(project, tmp_path))
    inputs = sample(rng, N)
    with played_board(tmp_path, app="rpc") as port:
        options = ProjectOptions(serial=port)
        with connect(model, "nucleo_f746zg", options=options) as remote:
            np.testing.assert_array_equal(run_model(remote, inputs)["sums"], expected(inputs)["sums"])
        result = run(model, "nucleo_f746zg", inputs, transport="rpc", options=options, project_dir=tmp_path / "kept")
    np.testing.assert_array_equal(result.outputs[0]["sums"], expected(inputs)["sums"])
    assert result.latency > 0
    assert (tmp_path / "kept/west.log").read_text().endswith("west flash --build-dir build\n")


@pytest.mark.host_cc
def test_a_board_that_said_hello_long_ago(board_on_a_port: str, model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """The host asks again; two samples are exact over a serial port."""
    project = generated(model, tmp_path, "nucleo_f746zg", serial=board_on_a_port)
    pretend_elf(project, tmp_path)
    artifact, samples = project.read_artifact(), [sample(rng, N) for _ in range(2)]
    result = run_samples(project, artifact, [pack_inputs(artifact, s) for s in samples], 10)
    for inputs, outputs in zip(samples, result.outputs, strict=True):
        for name, array in expected(inputs).items():
            np.testing.assert_array_equal(outputs[name], array)


def pretend_elf(project: Project, tmp_path: Path) -> None:
    """The sizes come from an image: take the process's."""
    project.elf.parent.mkdir(parents=True)
    project.elf.write_bytes((tmp_path / "native/build/firmware.elf").read_bytes())


@pytest.mark.host_cc
def test_layer_times_on_the_host(tmp_path: Path, rng: np.random.Generator) -> None:
    """Each layer's time by the device's clock: the layer that sums is not free, and together they are within the round trip."""
    result = run(write_crasher(tmp_path / "mlf"), "native", [sample(rng), sample(rng)], options=ProjectOptions(hook="times"))
    for times, seconds in zip(result.layer_times, result.seconds, strict=True):
        assert times.rate == 1_000_000_000
        assert len(times.ticks) == 3
        assert 0 < times.ticks[0] <= sum(times.ticks) < seconds * times.rate


@pytest.mark.qemu
def test_layer_times_on_bare_metal(tmp_path: Path, rng: np.random.Generator) -> None:
    result = run(write_crasher(tmp_path / "mlf", 20000), "mps2_an386", sample(rng, 20000), options=ProjectOptions(hook="times"))
    assert result.layer_times[0].rate == 25_000_000
    assert result.layer_times[0].ticks[0] > 0


def test_times_need_the_standalone_application() -> None:
    with pytest.raises(OptionError, match="times"):
        ProjectOptions(app="rpc", hook="times")
