# SPDX-License-Identifier: Apache-2.0
"""What a user can get wrong on the device side: inputs, boards, tools, files. Found early, named, and nothing is left behind."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.device_model import sample, write_crasher
from tvm_tiny.boards import find_board
from tvm_tiny.device import ProjectOptions, build_image, find_handler, generate_project, load_project, measure_image, qemu_command, run
from tvm_tiny.device.artifact import open_artifact
from tvm_tiny.device.toolchain import TOOLS, find_tool, survey
from tvm_tiny.errors import DoesNotFitError, InputError, OptionError, TargetError, ToolchainError

N = 64


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small model."""
    return write_crasher(tmp_path / "mlf", N)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": None}, ["input 'image' is missing"]),
        ({"imag": np.zeros(1)}, ["no input is called 'imag'"]),
        ({"image": np.zeros((1, N), np.uint8)}, ["dtype uint8, not int8", "the model takes image: int8[1, 64]"]),
        ({"image": np.zeros(N, np.int8)}, ["shape [64], not [1, 64]"]),
        ({"mode": 3}, ["'mode' is a int, not a numpy array"]),
        ({"image": None, "mode": np.zeros(1, np.int8)}, ["'image' is missing", "'mode' has dtype int8"]),
    ],
)
def test_wrong_inputs(
    change: dict[str, Any], words: list[str], model: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every problem of a sample in one message, before anything is built (no tool is found here)."""
    monkeypatch.setenv("PATH", "")
    good = sample(rng, N)
    bad = {k: v for k, v in {**good, **change}.items() if v is not None}
    with pytest.raises(InputError) as caught:
        run(model, "an500", [good, bad])
    assert "sample 1" in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_inputs_must_be_dicts(model: Path) -> None:
    """A bare array is refused."""
    with pytest.raises(InputError, match="a dict from input name to array is needed, not ndarray"):
        run(model, "native", np.zeros((2, N), np.int8))  # type: ignore[arg-type]


@pytest.mark.parametrize(("board", "words"), [("an500", "sudo apt-get install"), ("native", "sudo apt-get install")])
def test_no_tools(board: str, words: str, model: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty PATH the missing program and its package are named, and no project is left."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError) as caught:
        run(model, board, sample(rng, N), project_dir=tmp_path / "out" / "project")
    assert "is not on PATH" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", TOOLS)
def test_each_missing_tool_names_its_package(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What `doctor` tells."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError) as caught:
        find_tool(key)
    assert TOOLS[key].packages[0] in caught.value.remedy
    assert {status.path for status in survey()} == {None}


@pytest.mark.qemu
def test_missing_qemu_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image builds; booting it names qemu-system-arm."""
    elf = build_image(model, "an500", tmp_path / "p")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="apt-get install qemu-system-arm"):
        qemu_command("an500", elf)


@pytest.mark.qemu
def test_arena_larger_than_the_board(tmp_path: Path, rng: np.random.Generator) -> None:
    """The linker's complaint becomes a DoesNotFitError that says by how much."""
    model = write_crasher(tmp_path / "mlf", N, workspace=80_000)
    with pytest.raises(DoesNotFitError, match=r"crasher does not fit qemu_m0: memory sram is [\d,]+ bytes too small"):
        run(model, "m0", sample(rng, N))


@pytest.mark.host_cc
def test_compile_error_is_shown(model: Path, rng: np.random.Generator) -> None:
    """A failing build ends with the compiler's own words."""
    source = model / "codegen" / "host" / "src" / "tvmgen_crasher.c"
    source.write_text(source.read_text() + "\nint broken(void) { return missing_thing; }\n")
    with pytest.raises(ToolchainError, match="missing_thing"):
        run(model, "native", sample(rng, N))


@pytest.mark.parametrize(
    ("board", "target", "words"),
    [
        ("an385", {"mcpu": "cortex-m7"}, "has no dsp"),
        ("native", {"mcpu": "cortex-m7"}, "the board native is this machine"),
        ("m0", {"mcpu": "cortex-m3"}, "the instructions of armv7-m"),
        ("an500", {"mcpu": "cortex-m55"}, "has no mve"),
        ("an521", {"mcpu": "cortex-m33"}, "has no dsp"),
    ],
)
def test_model_for_another_core(board: str, target: dict[str, str], words: str, model: Path, rng: np.random.Generator) -> None:
    """C with instructions the board's core has not is refused before it is built."""
    path = model / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target": target}))
    with pytest.raises(TargetError, match=words):
        run(model, board, sample(rng, N))


def test_wrong_board_and_options(model: Path, rng: np.random.Generator) -> None:
    """Unknown boards, boards QEMU can't run, unknown options."""
    with pytest.raises(TargetError, match="unknown board"):
        run(model, "an501", sample(rng, N))
    with pytest.raises(TargetError, match="mine: there is no project template 'arduino'"):
        find_handler(SimpleNamespace(name="mine", template="arduino"))  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="no emulated board"):
        qemu_command("nucleo_f746zg", "x.elf")
    with pytest.raises(OptionError, match="known: semihosting, uart"):
        ProjectOptions(line="spi")
    with pytest.raises(OptionError, match="stack_bytes=100"):
        ProjectOptions(stack_bytes=100)
    with pytest.raises(OptionError, match="above zero"):
        run(model, "native", sample(rng, N), timeout=0)
    with pytest.raises(OptionError, match="takes no inputs"):
        run(model, "native", sample(rng, N), options=ProjectOptions(app="oneshot"))


def test_unknown_project_option(model: Path, tmp_path: Path) -> None:
    """The known options are listed."""
    with pytest.raises(OptionError, match=r"unknown project option[^$]*stack_bytes"):
        generate_project(model, tmp_path / "p", "native", stak_bytes=4096)


def test_no_artifact(tmp_path: Path, model: Path) -> None:
    """Empty directory, missing path, damaged metadata, a tar that leaves its folder."""
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        with pytest.raises(InputError, match="no compiled model"):
            run(path, "native", {})
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        archive.add(model / "metadata.json", "../escaped.json")
    with pytest.raises(InputError, match="leaves the archive"):
        run(evil, "native", {})
    for damage in ("{", '{"name": "x"}', "[]"):
        (model / "metadata.json").write_text(damage)
        with pytest.raises(InputError, match="damaged"):
            run(model, "native", {})


def test_project_directory_in_use(model: Path, tmp_path: Path) -> None:
    """Nothing of the user's is overwritten."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    board = find_board("an500")
    with open_artifact(model) as artifact, pytest.raises(InputError, match="is not an empty directory"):
        find_handler(board).generate(artifact, board, tmp_path / "full", ProjectOptions())
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_project_not_writable(model: Path, tmp_path: Path) -> None:
    """A place that can't be written to is named, and nothing half-written stays."""
    (tmp_path / "file").write_text("")
    board = find_board("an500")
    with open_artifact(model) as artifact, pytest.raises(InputError, match="can't be written"):
        find_handler(board).generate(artifact, board, tmp_path / "file" / "project", ProjectOptions())


def test_no_project(tmp_path: Path) -> None:
    """load_project on something else."""
    with pytest.raises(InputError, match="no project"):
        load_project(tmp_path)


def test_no_image(tmp_path: Path) -> None:
    """measure_image on something else."""
    (tmp_path / "x.elf").write_bytes(b"not an ELF")
    for name in ("x.elf", "missing.elf"):
        with pytest.raises(InputError, match="no linked image"):
            measure_image(tmp_path / name)
