# SPDX-License-Identifier: Apache-2.0
"""What a user can do wrong with the demo network, word for word, through the API and the command line; nothing is left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_tiny
from tests.support.cli import invoke
from tests.support.demo import MODEL
from tests.support.tflite_graphs import GraphBuilder
from tvm_tiny.boards import Board, find_board
from tvm_tiny.errors import DoesNotFitError, InputError, OptionError, TargetError, TinyError, ToolchainError, UnsupportedModelError


@pytest.fixture(scope="module")
def model() -> tvm_tiny.CompiledModel:
    return tvm_tiny.build(MODEL, name="demo", optimize="speed")


@pytest.fixture
def image() -> np.ndarray:
    return np.zeros((1, 28, 28, 1), np.int8)


def shrunk(kind: str, size: int) -> Board:
    """The emulated Cortex-M7 with `size` bytes in each of its memories of one kind."""
    board = find_board("mps2_an500")
    regions = tuple(dataclasses.replace(r, size=size) if r.kind == kind else r for r in board.memory)
    return dataclasses.replace(board, memory=regions)


def graph(**tensor: Any) -> bytes:
    """A network of one ReLU."""
    b = GraphBuilder()
    shape = tensor.pop("shape", (1, 4))
    return b.output(b.op("RELU", [b.input(shape, **tensor)], b.tensor(shape, **{k: v for k, v in tensor.items() if k == "dtype"}))).bytes()


MISTAKES: dict[str, tuple[Callable[..., object], type[TinyError], str]] = {
    "unknown target": (lambda: tvm_tiny.build(MODEL, "c -mcpu=cortex-m8"), TargetError, "unknown core 'cortex-m8'\n  remedy: did you mean"),
    "unknown board": (
        lambda: tvm_tiny.build(MODEL, board="mps2_an50"),
        TargetError,
        "unknown board 'mps2_an50'\n  remedy: did you mean mps2_an",
    ),
    "name": (
        lambda: tvm_tiny.build(MODEL, name="3a"),
        OptionError,
        "name '3a' is no C identifier\n  remedy: use letters, digits and underscores, and do not start with a digit",
    ),
    "goal": (lambda: tvm_tiny.build(MODEL, optimize="fast"), OptionError, "optimize='fast'"),
    "budget": (
        lambda: tvm_tiny.build(MODEL, sram="lots"),
        OptionError,
        "sram='lots' is no size\n  remedy: give bytes as a number, or text such as '64KB' or '1MB'",
    ),
    "budget of no board": (
        lambda: tvm_tiny.build(MODEL, sram="board"),
        OptionError,
        'sram="board": no board is given\n  remedy: give board=, or a size such as sram="64KB"',
    ),
    "pass": (
        lambda: tvm_tiny.build(MODEL, disable=["fuse"]),
        OptionError,
        "disable=fuse: no optional pass of that name\n  remedy: choose from ",
    ),
    "float model": (
        lambda: tvm_tiny.build(graph(dtype="float32", scale=None)),
        UnsupportedModelError,
        "the model can't be compiled: 1 problem\n  1. model: no tensor is quantised: this is a float model",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_build(mistake: str) -> None:
    make, kind, message = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_sram_of_the_board(model: tvm_tiny.CompiledModel) -> None:
    """By how much, and which layer, by the source model's name."""
    need = model.workspace_size
    with pytest.raises(DoesNotFitError) as caught:
        tvm_tiny.build(MODEL, board=shrunk("ram", need - 100), optimize="speed")
    assert str(caught.value).startswith(
        f"mps2_an500: the network needs {need:,} bytes of SRAM, 100 more than the {need - 100:,} there are; layer block2/depthwise "
    )


def test_flash_of_the_board() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        tvm_tiny.build(MODEL, board=shrunk("flash", 1024))
    text = str(caught.value)
    assert text.startswith("mps2_an500: the constants need ")
    assert "more than the 1,024 there are; layer " in text
    assert "has the most (" in text


def test_budget_of_the_arena() -> None:
    largest = r"decides: scratch [\d,]+, .*input image 784\n  remedy: allow [\d,]+ bytes, the least found; the nearest is optimize='sram'"
    with pytest.raises(DoesNotFitError, match=r"^sram=1,024: the network needs [\d,]+ bytes, [\d,]+ more; layer \S+ \([\w ]+\) " + largest):
        tvm_tiny.build(MODEL, sram="1KB")


RUN_MISTAKES = [
    (lambda x: x[0], "shape [28, 28, 1], not [1, 28, 28, 1]"),
    (lambda x: x.astype(np.uint8), "dtype uint8, not int8"),
    (lambda x: x.astype(np.float32) / 255, "dtype float32, not int8"),
    (lambda x: {"imag": x}, "no input is called 'imag'"),
    (lambda x: {}, "is missing"),
]


@pytest.mark.parametrize(("change", "message"), RUN_MISTAKES, ids=[message for _, message in RUN_MISTAKES])
def test_run(change: Callable[[np.ndarray], Any], message: str, model: tvm_tiny.CompiledModel, image: np.ndarray) -> None:
    with pytest.raises(InputError) as caught:
        model.run(change(image))
    assert message in str(caught.value)


@pytest.mark.parametrize(("board", "tool"), [("native", "make"), ("mps2_an500", "make")])
def test_no_toolchain(board: str, tool: str, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled = tvm_tiny.build(MODEL, board=board)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r" is not on PATH: it .*\n  remedy: sudo apt-get install .*"):
        compiled.run(image)


def test_save_to_a_place_that_is_no_directory(model: tvm_tiny.CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="can't be written"):
        model.save(tmp_path / "file" / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_save_over_something_else(model: tvm_tiny.CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    with pytest.raises(InputError) as caught:
        model.save(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is not empty and holds no compiled model\n  remedy: choose an empty or new directory"
    assert [p.name for p in tmp_path.iterdir()] == ["letter"]


COMMANDS = [
    (("--target", "c -mcpu=cortex-m8"), 2, "error TINY201: unknown core 'cortex-m8'\nremedy: did you mean cortex-m85?"),
    (("--board", "nobody"), 2, "error TINY201: unknown board 'nobody'\nremedy: known: native, mps2_an385"),
    (("--sram", "1KB"), 5, "error TINY401: sram=1,024: the network needs "),
    (("--name", "a b"), 2, "error TINY202: name 'a b' is no C identifier\nremedy: "),
    (("--optimize", "fast"), 2, "error TINY202: optimize='fast'"),
]


@pytest.mark.parametrize(("options", "code", "message"), COMMANDS, ids=lambda v: v[0] if isinstance(v, tuple) else None)
def test_compile_command(options: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    result = invoke("compile", str(MODEL), "-o", str(tmp_path / "out"), *options)
    assert result.exit_code == code
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["-o", "--dump-ir"])
def test_compile_command_without_a_place_to_write(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    places = {"-o": str(tmp_path / "out")} | {option: str(tmp_path / "file" / "x")}
    result = invoke("compile", str(MODEL), *(word for pair in places.items() for word in pair))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error TINY601: {tmp_path}/file/x: can't be written: ")
    assert result.stderr.endswith("\nremedy: choose a directory you may write to\n")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["compile", "report", "compare", "run", "profile"])
def test_every_command_refuses_what_is_no_model(command: str, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"hello, world")
    result = invoke(command, str(tmp_path / "m.tflite"), *(("-o", str(tmp_path / "out")) if command == "compile" else ()))
    assert result.exit_code == 3
    assert result.stderr.startswith("error TINY101: m: not a model ")
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_compare_of_a_model_without_a_reference(tmp_path: Path) -> None:
    """ONNX models have no TensorFlow Lite Micro to be compared with."""
    from tests.support.onnx_builder import OnnxBuilder

    b = OnnxBuilder()
    b.output(b.qdq(b.node("Relu", b.qdq(b.input("x", [1, 4]), 0.1, 0)), 0.1, 0))
    (tmp_path / "m.onnx").write_bytes(b.bytes())
    result = invoke("compare", str(tmp_path / "m.onnx"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error TINY202: m.onnx is no .tflite model, and only those can be compared layer by layer\nremedy: ")
