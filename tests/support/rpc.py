# SPDX-License-Identifier: Apache-2.0
"""Building the RPC server with demo functions, talking to it below TVM's client, and lines that go wrong."""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvm_tiny.device.rpc.line import Line, LineSpec
from tvm_tiny.device.rpc.link import DeviceLink
from tvm_tiny.device.rpc.sources import RPC_FOLDER, native_sources, server_sources

ROOT = Path(__file__).resolve().parents[2]
DEMO_FUNCTIONS = ROOT / "tests/rpc/demo_functions.c"
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
INCLUDES = (f"-I{RPC_FOLDER}/include", f"-I{RPC_FOLDER}/src", f"-I{RPC_FOLDER}/ports")


def compile_c(output: Path, sources: Sequence[Path], flags: Sequence[str] = (), compiler: str = "gcc") -> Path:
    """Compile and link; the compiler's words are the failure's."""
    command = [compiler, *WARNINGS, *INCLUDES, *flags, *map(str, sources), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return output


def build_demo_server(output: Path, port: str = "stdio", flags: Sequence[str] = SANITIZERS) -> Path:
    """The server with the demo functions, as a host process."""
    return compile_c(output, [*native_sources(port), DEMO_FUNCTIONS], flags)


def build_fuzzer(output: Path, sources: Sequence[Path] | None = None) -> Path:
    """The fuzzer, its server from `sources` (default: the real ones)."""
    fuzzer = ROOT / "tests/rpc/fuzz_server.c"
    flags = [*SANITIZERS, "-D_POSIX_C_SOURCE=200809L", "-Wno-conversion"]
    return compile_c(output, [*(sources or server_sources()), fuzzer], flags)


class RawClient:
    """TVM's packets by hand, straight onto the link."""

    def __init__(self, line: Line, timeout: float = 20.0) -> None:
        self.link = DeviceLink(line)
        self.timeout = timeout
        self.info = self.link.open_session(timeout)
        self.packet(2, struct.pack("<Q5si", 5, b"0.8.0", 0))

    def packet(self, code: int, body: bytes) -> bytes:
        """Body of the answer after its code; an exception packet becomes a RuntimeError."""
        answer = self.link.request(struct.pack("<Qi", 4 + len(body), code) + body, self.timeout)
        length, kind = struct.unpack_from("<Qi", answer)
        assert length == len(answer) - 8
        if kind == 5:
            raise RuntimeError(answer[28:].decode())
        return answer[12:]

    def function(self, name: str) -> int:
        """Handle of a function, 0 when there is none."""
        return int(struct.unpack("<iiQ", self.packet(9, struct.pack("<iiQ", 1, 8, len(name)) + name.encode()))[2])

    def call(self, handle: int, *integers: int) -> int | None:
        """Call with integers; returns an integer or None."""
        body = struct.pack("<Qi", handle, len(integers)) + b"".join(struct.pack("<iq", 1, i) for i in integers)
        answer = self.packet(3, body)
        return struct.unpack_from("<q", answer, 20)[0] if len(answer) >= 28 else None

    def alloc(self, count: int) -> int:
        """Address of `count` fresh bytes."""
        return int(struct.unpack_from("<Q", self.packet(17, struct.pack("<ii", 2, 7) + self.tensor(0, count) + struct.pack("<i", 0)), 8)[0])

    def free(self, address: int) -> None:
        """Free what `alloc` gave."""
        self.packet(14, struct.pack("<iiiiiQ", 2, 6, 1, 0, 4, address))

    @staticmethod
    def tensor(address: int, count: int, offset: int = 0) -> bytes:
        """Descriptor of a vector of int8."""
        return struct.pack("<QiiiBBHqQ", address, 1, 0, 1, 0, 8, 1, count, offset)

    def write(self, address: int, data: bytes) -> None:
        """Copy to the device."""
        self.packet(7, self.tensor(address, len(data)) + struct.pack("<Q", len(data)) + data)

    def read(self, address: int, count: int) -> bytes:
        """Copy from the device."""
        return self.packet(6, self.tensor(address, count) + struct.pack("<Q", count))


@dataclass
class Faults:
    """What a line does to each byte, in both directions: probabilities of losing, flipping, doubling it, or of one invented before it."""

    drop: float = 0.0
    flip: float = 0.0
    double: float = 0.0
    insert: float = 0.0
    done: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def damage(self, data: bytes) -> bytes:
        """The bytes as they arrive."""
        out = bytearray()
        for byte in data:
            if self.rng.random() < self.insert:
                out.append(self.rng.randrange(256))
                self.done += 1
            if self.rng.random() < self.drop:
                self.done += 1
                continue
            if self.rng.random() < self.flip:
                byte ^= 1 << self.rng.randrange(8)
                self.done += 1
            out.append(byte)
            if self.rng.random() < self.double:
                out.append(byte)
                self.done += 1
        return bytes(out)


class FaultySpec(LineSpec):
    """A line with faults in front of another. Its device can be muted, delayed, or swapped for a fresh one under the open line."""

    def __init__(self, spec: LineSpec, faults: Faults | None = None) -> None:
        self.spec, self.faults = spec, faults or Faults()
        self.opened: list[_FaultyLine] = []

    def open(self) -> Line:
        """Open the line behind."""
        self.opened.append(_FaultyLine(self, self.spec.open()))
        return self.opened[-1]  # type: ignore[return-value]


class _FaultyLine:
    def __init__(self, spec: FaultySpec, line: Line) -> None:
        self._spec, self._line = spec, line
        self.bytes_per_second = line.bytes_per_second
        self.boots = line.boots
        self.mute = False
        self.on_write: Callable[[bytes], None] | None = None
        self.held = bytearray()
        self.hold = False

    def read(self, timeout: float) -> bytes:
        data = self._spec.faults.damage(self._line.read(timeout))
        if self.hold:  # kept back, to come late
            self.held += data
            return b""
        if self.mute:
            return b""
        late, self.held = bytes(self.held), bytearray()
        return late + data

    def write(self, data: bytes, timeout: float) -> None:
        self._line.write(self._spec.faults.damage(data), timeout)
        if self.on_write is not None:
            self.on_write(data)

    def swap_device(self) -> None:
        """Reset: a fresh device behind the same line."""
        self._line.close()
        self._line = self._spec.spec.open()

    def close(self) -> None:
        self._line.close()


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
