# SPDX-License-Identifier: Apache-2.0
"""TVM's own client, in a process that does not import tvm_tiny, drives a device through the bridge."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rpc import stock_client
from tests.support.rpc import ROOT, build_demo_server, wait_until
from tvm_tiny.device.rpc.line import ProcessSpec
from tvm_tiny.device.rpc.session import RunningBridge, running_bridge

pytestmark = pytest.mark.host_cc

CLAIMS = [
    name
    for name, value in vars(stock_client).items()
    if callable(value) and getattr(value, "__module__", "") == stock_client.__name__ and not name.startswith("_") and name != "main"
]


def run_client(bridge: RunningBridge, *claims: str, timeout: float = 120) -> dict[str, str]:
    """What the stock client says of each claim."""
    script = ROOT / "tests/rpc/stock_client.py"
    command = [sys.executable, str(script), bridge.host, str(bridge.port), bridge.key, *claims]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd="/")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_server(tmp_path_factory.mktemp("rpc") / "server")


@pytest.fixture(scope="module")
def results(server: Path) -> Iterator[dict[str, str]]:
    with running_bridge(ProcessSpec((str(server),))) as bridge:
        yield run_client(bridge, *CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS)
def test_claim(results: dict[str, str], claim: str) -> None:
    """Each function of stock_client.py; all in one process of the client, on one device that lives through their sessions."""
    assert results[claim] == "holds", results[claim]


def test_the_client_does_not_know_us() -> None:
    assert "import tvm_tiny" not in (ROOT / "tests/rpc/stock_client.py").read_text()


def _resident_kib(pid: int) -> int:
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_bridge_and_device_do_not_grow(tmp_path: Path) -> None:
    """Over 3,000 calls after the first 1,000: no descriptor more, less than 1 MiB (one page of a list an iteration would be 12 MiB)."""
    server = build_demo_server(tmp_path / "server", flags=["-O1"])
    with running_bridge(ProcessSpec((str(server),))) as bridge:
        claim = "a_thousand_calls_leave_nothing"
        assert run_client(bridge, claim)[claim] == "holds"
        children = Path(f"/proc/{bridge.pid}/task/{bridge.pid}/children").read_text().split()
        processes = [bridge.pid, *map(int, children)]
        assert len(processes) == 2
        before = [(_resident_kib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))) for pid in processes]
        assert set(run_client(bridge, claim, claim, claim).values()) == {"holds"}
        after = [(_resident_kib(pid), len(list(Path(f"/proc/{pid}/fd").iterdir()))) for pid in processes]
    assert [fds for _, fds in after] == [fds for _, fds in before]
    assert all(new - old < 1024 for (new, _), (old, _) in zip(after, before, strict=True))
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes)), "something was left running"
