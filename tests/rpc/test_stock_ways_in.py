# SPDX-License-Identifier: Apache-2.0
"""TVM's other ways to a device, with TVM's own classes: a pipe instead of TCP, and MetaSchedule's runner over a tracker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.rpc import ROOT, build_demo_server
from tvm_tiny.device.fleet import running_fleet
from tvm_tiny.device.rpc.line import ProcessSpec

pytestmark = pytest.mark.host_cc


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> ProcessSpec:
    return ProcessSpec((str(build_demo_server(tmp_path_factory.mktemp("rpc") / "server")),))


def test_popen_session(server: ProcessSpec, tmp_path: Path) -> None:
    """`tvm.rpc.PopenSession` starts a bridge that serves its two pipes; it goes with the session."""
    from tvm import rpc, runtime

    script = tmp_path / "bridge"
    script.write_text(f'#!/bin/sh\ncd {ROOT}\nexec {sys.executable} -m tvm_tiny.device.rpc --device "{server}" --pipe "$1" "$2"\n')
    script.chmod(0o755)
    remote = rpc.PopenSession(str(script))
    values = np.arange(20480, dtype="uint8")
    assert np.array_equal(runtime.tensor(values, device=remote.cpu(0)).numpy(), values)
    with pytest.raises(RuntimeError, match="asked to fail with 1 arguments"):
        remote.get_function("fail")(1)
    assert remote.get_function("sum")(2, 3) == 5
    remote._sess.get_function("CloseRPCConnection")()
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_meta_schedules_own_runner(server: ProcessSpec) -> None:
    """RPCRunner draws a device from the tracker, allocates and fills the arguments there, and times a function by the device's counter."""
    for module in ("tornado", "psutil", "cloudpickle"):
        pytest.importorskip(module, reason="RPCRunner and the tracker need it")
    from tvm.s_tir import meta_schedule as ms

    def upload(session: Any, _local: str, _remote: str) -> Any:
        return session.system_lib()

    def evaluate(_session: Any, library: Any, device: Any, config: Any, arguments: Any) -> list[float]:
        evaluator = library.time_evaluator("add_int8", device, number=config.number, repeat=config.repeat)
        return [second for given in arguments for second in evaluator(*given).results]

    def clean_up(_session: Any, _path: Any) -> None:
        return None

    with running_fleet([server], "demo") as fleet:
        runner = ms.runner.RPCRunner(
            rpc_config=ms.runner.RPCConfig(fleet.host, fleet.port, fleet.key, session_priority=1, session_timeout_sec=60),
            evaluator_config=ms.runner.EvaluatorConfig(number=2, repeat=3, min_repeat_ms=0),
            f_upload_module=upload,
            f_run_evaluator=evaluate,
            f_cleanup=clean_up,
            max_workers=1,
        )
        tensor = ms.arg_info.TensorInfo("int8", [64])
        (future,) = runner.run([ms.runner.RunnerInput("none.tar", "cpu", [tensor, tensor, tensor])])
        result = future.result()
    assert result.error_msg is None
    assert len(result.run_secs) == 3
    assert all(second > 0 for second in result.run_secs)
