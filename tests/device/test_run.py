# SPDX-License-Identifier: Apache-2.0
"""Running a compiled model on this machine and on every emulated core: same bytes out, whatever the line, several samples a boot."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.device_model import LARGE, expected, sample, write_crasher
from tvm_tiny.boards import find_board, load_boards
from tvm_tiny.device import ProjectOptions, RunResult, build_image, generate_project, load_project, measure_objects, qemu_command, run

EMULATED = [b.name for b in load_boards().values() if b.template == "mps2"]
LARGE_BOARDS = [name for name in EMULATED if (find_board(name).limits.arena or 0) > LARGE]


def qemus() -> set[int]:
    """Process ids of the emulators this process started and that still live."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout.split("\n")
    rows = [line.split(None, 2) for line in listing if line.strip()]
    return {int(pid) for pid, parent, name in rows if int(parent) == os.getpid() and name.startswith("qemu")}


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    assert not qemus()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a 150 KB image."""
    return write_crasher(tmp_path_factory.mktemp("large") / "mlf")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a 3 KB image."""
    return write_crasher(tmp_path_factory.mktemp("small") / "mlf", 3000)


def check(result: RunResult, samples: list[dict[str, np.ndarray]]) -> None:
    """Every output of every sample is exact."""
    assert len(result.outputs) == len(samples)
    for inputs, outputs in zip(samples, result.outputs, strict=True):
        wanted = expected(inputs)
        assert list(outputs) == list(wanted)
        for name, array in wanted.items():
            assert outputs[name].dtype == array.dtype
            np.testing.assert_array_equal(outputs[name], array)


@pytest.mark.host_cc
def test_native(large: Path, rng: np.random.Generator) -> None:
    """A host process: five samples of 150 KB in one start."""
    samples = [sample(rng) for _ in range(5)]
    check(run(large, "native", samples, timeout=20), samples)


@pytest.mark.qemu
@pytest.mark.parametrize("board", LARGE_BOARDS)
def test_large_tensors_on_every_core(board: str, large: Path, rng: np.random.Generator) -> None:
    """150 KB in and out, three samples a boot, within seconds; the workspace in the image is the one the artifact states."""
    samples = [sample(rng) for _ in range(3)]
    result = run(large, board, samples, timeout=20)
    check(result, samples)
    assert max(result.seconds) < 10
    assert result.image.workspace("crasher") == LARGE
    assert 0 < result.stack_used < result.stack_size == 16384
    assert result.image.sram >= LARGE + 16384


@pytest.mark.qemu
@pytest.mark.parametrize("board", ["qemu_m0", "mps2_an386", "mps2_an505", "mps3_an547"])
def test_uart(board: str, small: Path, rng: np.random.Generator) -> None:
    """The same over the emulated UART, all byte values."""
    samples = [sample(rng, 3000) for _ in range(3)]
    check(run(small, board, samples, timeout=30, options=ProjectOptions(line="uart")), samples)


@pytest.mark.qemu
def test_real_cortex_m0(small: Path, rng: np.random.Generator) -> None:
    """The one M0 with room for more than a toy."""
    inputs = sample(rng, 3000)
    check(run(small, "m0", inputs, timeout=20), [inputs])


@pytest.fixture
def only_tools(tmp_path: Path) -> str:
    """A PATH with make, a shell, file tools and compilers, and nothing else: no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "make", "mkdir", "rm", "gcc", "clang", "as", "ld", "arm-none-eabi-gcc"):
        if (path := shutil.which(name)) is not None:
            (folder / name).symlink_to(path)
    return str(folder)


def rebuild(project: Path, path: str, *variables: str) -> None:
    """`make clean` and `make` in an environment that has only `path`."""
    for command in (["make", "clean"], ["make", *variables]):
        done = subprocess.run(command, cwd=project, env={"PATH": path}, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.host_cc
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_generated_project_builds_without_python(
    compiler: str, small: Path, tmp_path: Path, only_tools: str, rng: np.random.Generator
) -> None:
    """`make` alone rebuilds the project from its own copies, with either compiler, without a warning."""
    if not (Path(only_tools) / compiler).exists():
        pytest.skip(f"{compiler} is not installed")
    run(small, "native", sample(rng, 3000), project_dir=tmp_path / "project", options=ProjectOptions(extra_flags=("-Werror",)))
    rebuild(tmp_path / "project", only_tools, f"CC={compiler}")
    project = load_project(tmp_path / "project")
    assert project.elf.is_file()
    assert project.board.name == "native"
    assert project.options.extra_flags == ("-Werror",)
    assert not [p for p in tmp_path.rglob("*.py")]


@pytest.mark.qemu
@pytest.mark.parametrize("app", ["standalone", "rpc"])
def test_firmware_builds_without_python(app: str, small: Path, tmp_path: Path, only_tools: str) -> None:
    """So does firmware of either application."""
    project = Path(generate_project(small, tmp_path / "project", "mps2_an500", app=app, line="uart"))
    rebuild(project, only_tools)
    assert load_project(project).elf.is_file()


@pytest.mark.qemu
@pytest.mark.parametrize("board", EMULATED)
def test_template_is_warning_free(board: str, small: Path, tmp_path: Path) -> None:
    """Applications, start-up and ports compile under -Wall -Wextra -Wconversion for every core and both lines."""
    for line in ("semihosting", "uart"):
        options = ProjectOptions(line=line, extra_flags=("-Werror", "-Wconversion", "-Wno-sign-conversion"))
        elf = build_image(small, board, tmp_path / line, options=options)
        assert elf.is_file()


@pytest.mark.host_cc
def test_sanitizers_find_nothing(small: Path, rng: np.random.Generator) -> None:
    """The application and the native port under AddressSanitizer and UBSan."""
    samples = [sample(rng, 3000) for _ in range(2)]
    options = ProjectOptions(extra_flags=("-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    check(run(small, "native", samples, timeout=20, options=options), samples)


@pytest.mark.host_cc
def test_tar_archive(small: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """A .tar of the artifact runs like the directory."""
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        archive.add(small, ".")
    inputs = sample(rng, 3000)
    check(run(tmp_path / "model.tar", "native", inputs), [inputs])


@pytest.mark.qemu
@pytest.mark.parametrize("hook", ["profile", "fault", None])
def test_oneshot_image(hook: str | None, small: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """The image a profiler boots: ends by itself with code 0, and has four markers in its code only when asked for."""
    elf = build_image(small, "an500", tmp_path / "p", inputs=sample(rng, 3000), hook=hook)
    done = subprocess.run(qemu_command("an500", elf), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    listing = subprocess.run(["arm-none-eabi-objdump", "-d", str(elf)], capture_output=True, text=True, check=True).stdout
    assert listing.count("dbg\t#1") == (4 if hook == "profile" else 0)


@pytest.mark.qemu
def test_oneshot_image_reports_failure(small: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """Exit code 100 when the model returns an error, 101 after a fault."""
    for mode, code in ((5, 100), (1, 101)):
        elf = build_image(small, "an500", tmp_path / str(mode), inputs=sample(rng, 3000, mode))
        assert subprocess.run(qemu_command("an500", elf), capture_output=True, timeout=60, check=False).returncode == code


@pytest.mark.qemu
def test_image_size_agrees_with_size_tool(small: Path, tmp_path: Path) -> None:
    """Our reading of the ELF file equals binutils' `size`; the model's objects alone are smaller than the image."""
    elf = build_image(small, "an500", tmp_path / "p")
    project = load_project(tmp_path / "p")
    measured = measure_objects([elf])
    listing = (
        subprocess.run(["arm-none-eabi-size", "-B", str(elf)], capture_output=True, text=True, check=True).stdout.splitlines()[1].split()
    )
    text, data, bss = map(int, listing[:3])
    assert (measured.text + measured.rodata, measured.data, measured.bss + measured.stack) == (text, data, bss)
    model = measure_objects(project.model_objects())
    assert 0 < model.text < measured.text
    assert model.workspace("crasher") == 3008


def test_stripped_of_other_feature_the_an521_says_so() -> None:
    """CPU 0 of the AN521 image has neither DSP nor FPU; the board's target must not promise them."""
    assert find_board("an521").target.features == frozenset()
