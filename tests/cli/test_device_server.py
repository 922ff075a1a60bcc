# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny device-server`: serves until interrupted, and leaves nothing running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import invoke
from tests.support.device_model import expected, sample, write_crasher
from tests.support.rpc import wait_until


@pytest.mark.host_cc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_ends(tmp_path: Path, rng: np.random.Generator, number: signal.Signals) -> None:
    from tvm import rpc

    from tests.rpc.test_boards import run_model

    model = write_crasher(tmp_path / "mlf", 100)
    command = [sys.executable, "-m", "tvm_tiny", "device-server", str(model), "--key", "k", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        remote = rpc.connect(found["host"], found["port"], found["key"])
        inputs = sample(rng, 100)
        np.testing.assert_array_equal(run_model(remote, inputs)["image_out"], expected(inputs)["image_out"])
        remote._sess.get_function("CloseRPCConnection")()
        process.send_signal(number)
        assert process.wait(20) == 0
    programs = ["ps", "-eo", "args"]
    assert wait_until(lambda: str(tmp_path) not in subprocess.run(programs, capture_output=True, text=True, check=True).stdout)


@pytest.mark.qemu
def test_an_emulator_to_tune_on() -> None:
    """Without a model: images in, what came of them out."""
    from tvm import rpc

    from tvm_tiny.boards import find_board
    from tvm_tiny.tuning.emulator import RemoteEmulator

    command = [sys.executable, "-m", "tvm_tiny", "device-server", "--board", "mps2_an500", "--key", "k", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        remote = rpc.connect(found["host"], found["port"], found["key"])
        emulator = RemoteEmulator(remote, find_board("an500"))
        printed, end = emulator.run(b"no image", 10.0)
        assert "Lockup" in printed
        assert end.startswith("QEMU ended with")
        assert "can't be disassembled" in str(emulator.profile(b"no image", "none", 10.0))
        remote._sess.get_function("CloseRPCConnection")()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_wrong_use_is_told() -> None:
    for arguments, words in (
        (("model.tflite", "--line", "tcp:localhost:1"), "takes a model and a board, or a line"),
        ((), "native is not emulated: its server needs firmware"),
        (("--board", "nucleo_f746zg"), "nucleo_f746zg is not emulated: its server needs firmware"),
        (("--line", "nonsense"), "names no line to a device"),
    ):
        result = invoke("device-server", *arguments)
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())
