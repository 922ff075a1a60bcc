# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny run` and `profile` on a compiled model: outputs, files, exit codes of what goes wrong on the device."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import invoke, invoke_json
from tests.support.demo import MODEL as DEMO
from tests.support.device_model import HANG, OK, STATUS, expected, sample, write_crasher

pytestmark = pytest.mark.host_cc
SIZE = 48


@pytest.fixture
def artifact(tmp_path: Path) -> str:
    """A compiled model on disk."""
    return str(write_crasher(tmp_path / "model", SIZE))


def draw(mode: int) -> dict[str, np.ndarray]:
    """One sample, always the same."""
    return sample(np.random.default_rng(0), SIZE, mode)


def save_inputs(folder: Path, mode: int, count: int = 1) -> str:
    """An .npz of `count` samples that make the model's layer 1 do `mode`."""
    one = draw(mode)
    np.savez(folder / "inputs.npz", **{name: np.stack([array] * count) for name, array in one.items()})
    return str(folder / "inputs.npz")


def test_outputs_to_a_file_and_as_json(artifact: str, tmp_path: Path) -> None:
    inputs, out = save_inputs(tmp_path, OK, 3), tmp_path / "out.npz"
    document = invoke_json("run", artifact, "-i", inputs, "-n", "2", "-o", str(out))
    assert (document["board"], document["samples"], len(document["outputs"])) == ("native", 2, 2)
    with np.load(out) as written:
        for name, array in expected(draw(OK)).items():
            np.testing.assert_array_equal(written[name][1], array)
            np.testing.assert_array_equal(document["outputs"][1][name], array)


def test_table_shows_outputs_and_sizes(artifact: str, tmp_path: Path) -> None:
    text = invoke("run", artifact, "-i", save_inputs(tmp_path, OK, 12), "-n", "12").stdout
    assert "image_out" in text
    assert "and 2 samples more" in text
    assert "flash" in text


def test_latency_and_throughput(artifact: str, tmp_path: Path) -> None:
    inputs = save_inputs(tmp_path, OK, 3)
    document = invoke_json("run", artifact, "-i", inputs, "-n", "3", "--transport", "rpc")
    assert document["latency_seconds"] > 0
    assert document["samples_per_second"] > 0
    assert "samples a second, transfers included" in invoke("run", artifact, "-i", inputs).stdout


@pytest.mark.qemu
def test_comparison_with_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: str) -> None:
    """The demo network on an emulated M7 over RPC gives this machine's bytes; a difference is an error that counts them."""
    arguments = ("run", str(DEMO), "--board", "mps2_an500", "--transport", "rpc", "--compare", "-n", "2")
    assert invoke_json(*arguments)["compared"] is True
    assert "--compare takes the model file" in invoke("run", artifact, "--compare").stderr
    from tvm_tiny import device

    real = device.run

    def wrong_on_the_board(mlf: Path, board: str, samples: list, **options: object) -> device.RunResult:
        result = real(mlf, "native", samples)
        if board != "native":
            result.outputs[1]["image_out"][0, 0] += 1
        return result

    monkeypatch.setattr(device, "run", wrong_on_the_board)
    monkeypatch.setattr(sys.modules["tvm_tiny.cli.run"], "artifact_of", lambda *_: contextlib.nullcontext(Path(artifact)))
    (tmp_path / "m.tflite").touch()
    inputs = save_inputs(tmp_path, OK, 3)
    result = invoke("run", str(tmp_path / "m.tflite"), "--board", "mps2_an500", "-i", inputs, "-n", "3", "--compare")
    assert result.exit_code == 6
    assert "1 of 3 samples differ from this machine's, the first is 1" in " ".join(result.stderr.split())


def test_a_layers_error_is_exit_6_and_names_the_layer(artifact: str, tmp_path: Path) -> None:
    result = invoke("run", artifact, "-i", save_inputs(tmp_path, STATUS))
    assert result.exit_code == 6
    assert "block/fail" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_hang_is_exit_6(artifact: str, tmp_path: Path) -> None:
    assert invoke("run", artifact, "-i", save_inputs(tmp_path, HANG), "--timeout", "1").exit_code == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--board", "mps2_an501"), "unknown board"),
        (("--target", "c"), "comes too late"),
        (("--input", "missing.npz"), "missing.npz"),
        (("--output", "/no/such/folder/out.npz"), "can't write"),
    ],
)
def test_wrong_use_is_exit_2(artifact: str, arguments: tuple[str, str], message: str) -> None:
    result = invoke("run", artifact, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "remedy:" in result.stderr


@pytest.mark.parametrize("command", ["run", "profile"])
def test_no_compiled_model_there(command: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not an archive")
    for path in (tmp_path, tmp_path / "x.tar"):
        result = invoke(command, str(path))
        assert result.exit_code == 2
        assert "no compiled model" in result.stderr


@pytest.mark.qemu
def test_profile_of_a_compiled_model(artifact: str, tmp_path: Path) -> None:
    inputs = save_inputs(tmp_path, OK)
    document = invoke_json("profile", artifact, "-i", inputs, "--board", "an386")
    assert [layer["name"] for layer in document["layers"]] == ["sums", "fail", "image_out"]
    assert document["total"]["instructions"] == sum(layer["instructions"] for layer in document["layers"])
    assert document["layers"][0]["instructions"] > SIZE
    text = invoke("profile", artifact, "-i", inputs, "--board", "an386").stdout
    assert "instructions are exact" in text


def test_profile_needs_an_emulated_board(artifact: str) -> None:
    result = invoke("profile", artifact, "--board", "native")
    assert result.exit_code == 2
    assert "not emulated" in result.stderr
