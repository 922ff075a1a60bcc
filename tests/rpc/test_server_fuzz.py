# SPDX-License-Identifier: Apache-2.0
"""A million mutated packets under AddressSanitizer and UBSan: nothing found. And: broken servers are found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.rpc import build_fuzzer
from tvm_tiny.device.rpc.sources import server_sources

pytestmark = pytest.mark.host_cc


def fuzz(fuzzer: Path, packets: int, seed: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run([fuzzer, str(packets), str(seed)], capture_output=True, text=True, timeout=600)


def test_a_million_packets(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    done = fuzz(build_fuzzer(tmp_path / "fuzz"), 1_000_000, request.config.tiny_seed)  # type: ignore[attr-defined]
    assert done.returncode == 0, done.stderr
    count = {name: int(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    print(count)
    assert count["packets"] >= 1_000_000
    assert count["mutated"] > 650_000
    # Not all are refused at the door, and the server still works after all of them.
    assert count["returns"] > 150_000
    assert count["copies"] > 5_000
    assert count["exceptions"] > 300_000
    assert count["checks"] >= 1_000_000 // 512


BROKEN = {
    "memory bounds": ("arena.c", "bytes <= size - (address - start)", "bytes <= size"),
    "where a copy lies": ("server.c", "!arena_holds(&s->arena, address, tensor.byte_offset + *bytes)", "address == 0"),
    "the tensors of a call": ("functions.c", "check_memory(s, s->args[i].v.tensor) != 0", "0"),
    "the number of arguments": ("wire.c", "if (count > TINY_RPC_MAX_ARGS)", "if (count > 10000)"),
    "the space for arguments": ("wire.c", "if (bytes > sizeof(s->scratch) - s->scratch_used)", "if (bytes > 100000)"),
    "evaluator handles": ("functions.c", "slot >= TINY_RPC_MAX_EVALUATORS ||", "0 ||"),
    "function handles": ("functions.c", "index < num_functions() && function_handle(s, index) == wanted", "(index | 1)"),
    "the length of a frame": ("link.c", "if (link->rx.size == FRAME_MAX)", "if (0)"),
}


DEFAULT = ("memory bounds", "the tensors of a call", "the length of a frame")


@pytest.mark.parametrize("what", [pytest.param(what, marks=[] if what in DEFAULT else [pytest.mark.slow]) for what in BROKEN])
def test_a_broken_server_is_found(tmp_path: Path, what: str) -> None:
    """Without one of its checks, the server does not survive the fuzzer: the fuzzer can fail."""
    name, check, without = BROKEN[what]
    sources = []
    for source in server_sources():
        text = source.read_text()
        if source.name == name:
            assert text.count(check) == 1
            text = text.replace(check, without)
        (tmp_path / source.name).write_text(text)
        sources.append(tmp_path / source.name)
    done = fuzz(build_fuzzer(tmp_path / "fuzz", sources), 200_000, 1)
    assert done.returncode != 0
    assert "Sanitizer" in done.stderr or "runtime error" in done.stderr or "fuzz_server:" in done.stderr, done.stderr
