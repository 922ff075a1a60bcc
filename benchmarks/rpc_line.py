# SPDX-License-Identifier: Apache-2.0
"""What noise on the line between bridge and device costs: `python -m benchmarks.rpc_line [--requests N] [--rate P]`.

For each kind of fault: requests to a host process (calls, and copies of 1 KB each way) through a line that hits each byte with
probability P in both directions. A wrong result, a call run twice and a request past its time-out are counted; all three must be 0.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.support.rpc import Faults, FaultySpec, RawClient, build_demo_server
from tvm_tiny.device.rpc.line import ProcessSpec

KINDS = ("none", "drop", "flip", "double", "insert", "all")
TIMEOUT = 20.0


def measure(server: ProcessSpec, kind: str, rate: float, requests: int) -> str:
    """One row of the table."""
    rng = random.Random(kind)
    rates = {name: rate for name in ("drop", "flip", "double", "insert") if kind in (name, "all")}
    faults = Faults(**rates, rng=rng)
    spec = FaultySpec(server, faults)
    client = RawClient(spec.open(), TIMEOUT)
    count, address = client.function("count_calls"), client.alloc(1024)
    wrong = late = 0
    slowest, begun = 0.0, time.monotonic()
    for i in range(requests):
        start, data = time.monotonic(), rng.randbytes(1024)
        client.write(address, data)
        wrong += client.read(address, 1024) != data
        wrong += client.call(count) != i + 1  # also when it ran twice
        took = time.monotonic() - start
        slowest = max(slowest, took)
        late += took > 3 * TIMEOUT
    seconds = time.monotonic() - begun
    spec.opened[0].close()
    sent = client.link.statistics
    milliseconds = 1000 * seconds / (3 * requests)
    return f"{kind:8} {faults.done:7} {sent.sent:7} {sent.repeated:8} {wrong:6} {late:5} {milliseconds:10.2f} {1000 * slowest:10.0f}"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=300, help="rounds of two copies and a call")
    parser.add_argument("--rate", type=float, default=3e-4, help="probability of each fault for each byte")
    given = parser.parse_args()
    print(f"{'fault':8} {'faults':>7} {'frames':>7} {'repeated':>8} {'wrong':>6} {'late':>5} {'ms/request':>10} {'slowest ms':>10}")
    with tempfile.TemporaryDirectory() as folder:
        server = ProcessSpec((str(build_demo_server(Path(folder) / "server", flags=("-O2",))),))
        for kind in KINDS:
            print(measure(server, kind, given.rate, given.requests), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
