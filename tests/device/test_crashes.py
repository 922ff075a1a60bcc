# SPDX-License-Identifier: Apache-2.0
"""Crashes, hangs and failed layers on the device become a DeviceFault that names fault, place and layer; nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.device_model import (
    BAD_WRITE,
    DEEP,
    DIVIDE,
    HANG,
    NULL_WRITE,
    OVERFLOW,
    STATUS,
    UNALIGNED,
    UNDEFINED,
    sample,
    write_crasher,
)
from tests.support.shared import ROOT
from tvm_tiny.boards import find_board
from tvm_tiny.device import DeviceFault, Project, ProjectOptions, find_handler, run
from tvm_tiny.device.artifact import open_artifact, pack_inputs
from tvm_tiny.device.runner import built_project
from tvm_tiny.device.session import StandaloneSession
from tvm_tiny.errors import DeviceError

N = 512
OPTIONS = ProjectOptions(stack_bytes=4096)
Crash = Callable[..., DeviceError]
V7M = ["mps2_an385", "mps2_an386", "mps2_an500"]
V8M = ["mps2_an505", "mps2_an521", "mps3_an547"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that fails on demand."""
    return write_crasher(tmp_path_factory.mktemp("crasher") / "mlf", N)


@pytest.fixture(scope="module")
def projects() -> dict[str, Project]:
    """Projects built so far, by board: each is built once."""
    return {}


@pytest.fixture
def crash(model: Path, projects: dict[str, Project], tmp_path_factory: pytest.TempPathFactory, rng: np.random.Generator) -> Crash:
    """Run one sample with a mode on a board and return the error."""

    def inner(board: str, mode: int, timeout: float = 20) -> DeviceError:
        with open_artifact(model) as artifact:
            if board not in projects:
                with built_project(artifact, find_board(board), OPTIONS, tmp_path_factory.mktemp("p") / board) as project:
                    projects[board] = project
            project = projects[board]
            with find_handler(project.board).open_transport(project) as link:
                session = StandaloneSession(link, project, artifact)
                session.hello()
                # The first sample is sound: the fault must be the second one's.
                session.run(pack_inputs(artifact, sample(rng, N)), timeout)
                with pytest.raises(DeviceError) as caught:
                    session.run(pack_inputs(artifact, sample(rng, N, mode)), timeout)
                assert link.process is not None
                pid = link.process.pid
        assert not Path(f"/proc/{pid}").exists()
        return caught.value

    return inner


def check(error: DeviceError, *words: str, layer: int | None = 1) -> None:
    """The message holds all words, and the fault its layer."""
    assert isinstance(error, DeviceFault)
    assert error.fault.layer == layer, str(error)
    for word in words:
        assert word in str(error), str(error)


@pytest.mark.qemu
@pytest.mark.parametrize("board", [*V7M, *V8M, "mps2_an385_m0"])
def test_bad_address(board: str, crash: Crash) -> None:
    """A write to where nothing is: bus fault with its address, the function, file and layer."""
    error = crash(board, BAD_WRITE)
    check(
        error,
        f"{board}: crasher: BusFault (PRECISERR",
        "data address 0xf0000000",
        "layer 1 (fail: block/fail)",
        "tvmgen_crasher_fail",
        "crasher.c:",
    )


@pytest.mark.qemu
@pytest.mark.parametrize("board", V7M)
def test_null_write(board: str, crash: Crash) -> None:
    """Address 0 is code on these boards: the MPU makes it read-only."""
    check(crash(board, NULL_WRITE), "MemManage fault (DACCVIOL", "data address 0x00000000")


@pytest.mark.qemu
@pytest.mark.parametrize("board", [*V7M, *V8M])
def test_division_by_zero(board: str, crash: Crash) -> None:
    """Divide-by-zero traps are on."""
    check(crash(board, DIVIDE), "UsageFault (DIVBYZERO: division by zero)", "tvmgen_crasher_divide")


@pytest.mark.qemu
@pytest.mark.parametrize("board", [*V7M, *V8M, "mps2_an385_m0"])
@pytest.mark.parametrize("mode", [OVERFLOW, DEEP])
def test_stack_overflow(board: str, mode: int, crash: Crash) -> None:
    """By endless recursion, and by one large frame."""
    check(crash(board, mode), "stack overflow: ", "raise stack_bytes (now 4096)")


@pytest.mark.qemu
def test_stack_overflow_without_mpu(crash: Crash) -> None:
    """The M0 board has no MPU: found after the run, so no layer."""
    check(crash("qemu_m0", DEEP), "stack overflow: ", layer=None)


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["qemu_m0", "mps2_an385_m0"])
def test_unaligned_access_on_the_small_cores(board: str, crash: Crash) -> None:
    """ARMv6-M has no unaligned access; the M3 that stands in for it traps too."""
    check(crash(board, UNALIGNED), "HardFault" if board == "qemu_m0" else "UNALIGNED: unaligned access")


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an505"])
def test_undefined_instruction(board: str, crash: Crash) -> None:
    """An instruction the core does not know."""
    check(crash(board, UNDEFINED), "UsageFault (UNDEFINSTR: undefined instruction)")


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "mps2_an505", "mps3_an547", "qemu_m0"])
def test_hang(board: str, crash: Crash) -> None:
    """An endless loop ends at the time-out and says where it was."""
    start = time.monotonic()
    error = crash(board, HANG, timeout=1)
    assert time.monotonic() - start < 20
    check(error, "no answer within 1 s", "tvmgen_crasher_fail", "layer 1 (fail: block/fail)")


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["mps2_an500", "qemu_m0"])
def test_failed_status(board: str, crash: Crash) -> None:
    """A non-zero status of the model names its layer."""
    check(crash(board, STATUS), "tvmgen_crasher_run returned 2: layer 1 (fail: block/fail) failed")


@pytest.mark.host_cc
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (BAD_WRITE, ["SIGSEGV", "0xf0000000", "tvmgen_crasher_fail", "crasher.c:"]),
        (HANG, ["no answer within 1 s", "tvmgen_crasher_fail"]),
        (OVERFLOW, ["stack overflow: SIGSEGV"]),
        (STATUS, ["returned 2"]),
        (NULL_WRITE, ["SIGSEGV", "data address 0x00000000"]),
        (UNDEFINED, ["SIG"]),
    ],
)
def test_native(mode: int, words: list[str], crash: Crash) -> None:
    """The same on this machine, as signals."""
    check(crash("native", mode, timeout=1), *words)


@pytest.mark.qemu
def test_emulator_killed(model: Path, rng: np.random.Generator) -> None:
    """QEMU killed from outside: a DeviceError at once, not at the time-out."""
    with open_artifact(model) as artifact, built_project(artifact, find_board("an500"), OPTIONS) as project:
        with find_handler(project.board).open_transport(project) as link:
            session = StandaloneSession(link, project, artifact)
            session.hello()
            assert link.process is not None
            os.kill(link.process.pid, signal.SIGKILL)
            start = time.monotonic()
            with pytest.raises(DeviceError, match=r"the program ended with signal 9|line to the device is closed"):
                session.run(pack_inputs(artifact, sample(rng, N)), 60)
            assert time.monotonic() - start < 10


@pytest.mark.qemu
@pytest.mark.parametrize("line", ["semihosting", "uart"])
def test_no_emulator_survives_its_parent(line: str, model: Path, tmp_path: Path) -> None:
    """A Python killed in the middle of a hanging run takes its emulator with it."""
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import numpy as np
        from tests.support.device_model import HANG, sample
        from tvm_tiny.device import ProjectOptions, run
        run({str(model)!r}, "an500", sample(np.random.default_rng(0), {N}, HANG), timeout=300, options=ProjectOptions(line={line!r}),
            project_dir={str(tmp_path / "p")!r})
    """)
    # A killed Python can't remove its temporary directory: keep it in the test's. Its long path must do for the sockets too.
    scratch = tmp_path / ("long" * 20)
    scratch.mkdir()
    with subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(scratch)}) as child:
        elf = str(tmp_path / "p" / "build" / "firmware.elf")
        assert _wait_for(lambda: len(_users(elf)) == 1, 60)
        time.sleep(0.5)
        child.kill()
    assert _wait_for(lambda: not _users(elf), 10)


def _users(elf: str) -> list[int]:
    """Emulators that run an image."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if elf.encode() in words and b"qemu" in words[0]:
            found.append(int(entry.name))
    return found


def _wait_for(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.host_cc
def test_next_run_works_after_a_crash(model: Path, rng: np.random.Generator) -> None:
    """A crash poisons nothing."""
    with pytest.raises(DeviceFault):
        run(model, "native", sample(rng, N, BAD_WRITE))
    run(model, "native", sample(rng, N))
