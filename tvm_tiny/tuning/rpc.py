# SPDX-License-Identifier: Apache-2.0
"""Candidates on the devices of an RPC tracker, boards and emulators alike, timed by the device's own cycle counter.

The firmware is an RPC server with the option `run_code` (`tvm-tiny device-server --run-code`); nothing is flashed again: a candidate is
linked for the place its code gets in the device's arena, copied there, checked against the operator's meaning and timed. Code and weights
lie in RAM then, so flash wait states are not in the figures. A device that is lost meanwhile gives its candidates to another.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from elftools.elf.elffile import ELFFile

from tvm_tiny.boards import Board
from tvm_tiny.device import measure_objects
from tvm_tiny.device.fleet import Fleet
from tvm_tiny.device.toolchain import run_tool
from tvm_tiny.errors import DeviceError, OptionError
from tvm_tiny.tuning.candidate import Candidate, Case, Measurement
from tvm_tiny.tuning.objects import Objects, measure_distinct
from tvm_tiny.tuning.runner import Conditions

_HERE = Path(__file__).parent
_SESSION = 8  # candidates in one session of a device
_TRIES = 2  # devices a candidate may lose before it counts as one that hangs
_LIBRARY = 4096  # bytes of memcpy and the like beside a candidate
_REPORTED = "Error caught from RPC call:\n"  # what TVM's client puts before the device's words
_LOST = "the device was lost over it"


class RpcRunner:
    """The runner of a fleet (`runner.Runner`).

    Parameters
    ----------
    board : Board
        What the devices are: core and clock.
    fleet : Fleet
    directory : path
        Work folder.
    workers : int
        Devices used at a time.
    repeat : int
        Timed runs of a candidate; the fastest counts, since what disturbs a run only adds.
    """

    def __init__(self, board: Board, fleet: Fleet, directory: Path, *, workers: int = 1, repeat: int = 3) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.board, self.fleet, self.directory, self.workers, self.repeat = board, fleet, directory, workers, repeat
        self.objects = Objects(board.target, directory)
        self.conditions = Conditions(f"rpc:{fleet.key}", self.objects.compiler, self.objects.flags)

    def measure(self, case: Case, candidates: Sequence[Candidate]) -> list[Measurement]:
        """Compile, check and time candidates of one layer; one measurement each, in order.

        Raises
        ------
        DeviceError
            The tracker can't be reached, or has no device of the key.
        """

        def spread(objects: dict[int, Path]) -> dict[int, Measurement]:
            work = _Work(self, case, candidates, objects)
            with ThreadPoolExecutor(self.workers) as pool:
                for done in [pool.submit(work.take_all) for _ in range(self.workers)]:
                    done.result()
            return work.results

        return measure_distinct(self.objects, candidates, spread)

    def link(self, candidate: Candidate, compiled: Path, address: int) -> bytes:
        """The candidate's code for `address`, entry first.

        Raises
        ------
        ToolchainError
            It has variables of its own, or calls what is not there.
        """
        stem = self.directory / f"{candidate.digest}_{address:x}"
        entry, image = stem.with_suffix(".entry.c"), stem.with_suffix(".elf")
        entry.write_text(_entry(candidate))
        command = [self.objects.gcc, *self.board.target.cflags, "-O2", "-nostartfiles", f"-Wl,--defsym=PLACE={address:#x}", "-T"]
        command += [str(_HERE / "code.ld"), str(entry), str(compiled), "-o", str(image)]
        run_tool(command, cwd=self.directory, timeout=300, what="linking a candidate")
        with image.open("rb") as stream:
            return bytes(ELFFile(stream).get_section_by_name(".text").data())


def _entry(candidate: Candidate) -> str:
    names = [f"p[{i}]" for i in range(candidate.activations + 3)]
    return (
        f"void {candidate.entry}({', '.join(['void *'] * len(names))});\n"
        f'__attribute__((section(".text.entry"))) void entry(void **p) {{ {candidate.entry}({", ".join(names)}); }}\n'
    )


class _Work:
    """Candidates waiting for a device, and what came of the others."""

    def __init__(self, runner: RpcRunner, case: Case, candidates: Sequence[Candidate], objects: dict[int, Path]) -> None:
        self.runner, self.case, self.candidates, self.objects = runner, case, candidates, objects
        self.results: dict[int, Measurement] = {}
        self._waiting = list(objects)
        self._losses = dict.fromkeys(objects, 0)
        self._lock = threading.Lock()

    def take_all(self) -> None:
        """Measure until nothing waits."""
        while chunk := self._next():
            begun: list[int] = []
            try:
                self.runner.fleet.call(lambda session, c=chunk, b=begun: self._measure_chunk(session, c, b), attempts=1)  # type: ignore[misc]
            except DeviceError as error:
                if not begun:
                    raise
                self._lost(begun[-1], error)
            except RuntimeError as error:  # what the device reported
                self.results[begun[-1]] = Measurement("crash", message=str(error).partition(_REPORTED)[2] or str(error))
            self._give_back(chunk)

    def _next(self) -> list[int]:
        with self._lock:
            chunk, self._waiting = self._waiting[:_SESSION], self._waiting[_SESSION:]
            return chunk

    def _give_back(self, chunk: list[int]) -> None:
        with self._lock:
            self._waiting += [i for i in chunk if i not in self.results]

    def _lost(self, number: int, error: DeviceError) -> None:
        self._losses[number] += 1
        if self._losses[number] >= _TRIES:
            self.results[number] = Measurement("timeout", message=f"{_LOST} {_TRIES} times: {error.message}")

    def _measure_chunk(self, session: Any, chunk: list[int], begun: list[int]) -> None:
        begun.append(chunk[0])
        bench = _DeviceBench(session, self.case, [self.candidates[i] for i in chunk], [self.objects[i] for i in chunk])
        for i in chunk:
            begun.append(i)
            self.results[i] = bench.measure(self.runner, self.candidates[i], self.objects[i])


class _DeviceBench:
    """A session's tensors, shared by the candidates of a chunk."""

    def __init__(self, session: Any, case: Case, candidates: Sequence[Candidate], objects: Sequence[Path]) -> None:
        self.session, self.case, self.device = session, case, session.cpu(0)
        self.samples = [[self._send(x.view(np.uint8)) for x in row] for row in case.inputs]
        self.output = self._empty(case.expected[0].nbytes)
        self.scratch = self._empty(max(c.scratch for c in candidates))
        sizes = [measure_objects([o]) for o in objects]
        self.code = self._empty(max(s.text + s.rodata for s in sizes) + _LIBRARY)
        self.place, self.run, self.fill = (self._function(n) for n in ("tiny_rpc.place_of_code", "tiny_rpc.run_code", _FILL))
        self.address = int(self.place(self.code))
        self.hertz = int(self._function("tiny_rpc.cycles_hz")())  # a board may run slower than its chip could

    def _function(self, name: str) -> Any:
        try:
            return self.session.get_function(name)
        except AttributeError:
            remedy = "build its firmware with the option run_code (`tvm-tiny device-server --run-code`)"
            raise OptionError(f"the device has no function {name}", remedy=remedy) from None

    def _send(self, array: np.ndarray) -> Any:
        from tvm import runtime

        return runtime.tensor(np.ascontiguousarray(array).reshape(-1), device=self.device)

    def _empty(self, count: int) -> Any:
        from tvm import runtime

        return runtime.empty((max(count, 1),), "uint8", self.device)

    def measure(self, runner: RpcRunner, candidate: Candidate, compiled: Path) -> Measurement:
        """Check on every sample, then time."""
        code = np.frombuffer(runner.link(candidate, compiled, self.address), np.uint8)
        room = int(self.code.shape[0])
        if code.size > room:
            return Measurement("build", message=f"{code.size} bytes linked, room for {room}")
        self.code.copyfrom(np.concatenate([code, np.zeros(room - code.size, np.uint8)]))
        self.place(self.code)
        packed = self._send(np.frombuffer(candidate.packed or b"\0", np.uint8))
        wrong = sum(self._differing(sample, expected, packed) for sample, expected in zip(self.samples, self.case.expected, strict=True))
        if wrong:
            return Measurement("inexact", message=f"{wrong} bytes differ from the operator's meaning")
        seconds = self._time(runner.repeat, packed)
        flash = measure_objects([compiled]).flash + len(candidate.packed)
        return Measurement("ok", seconds * self.hertz, 0, flash, candidate.scratch)

    def _differing(self, sample: Sequence[Any], expected: np.ndarray, packed: Any) -> int:
        """Bytes that are wrong; writing past a tensor is found by the server's own guards."""
        self.fill(self.output)
        self.fill(self.scratch)
        self.run(self.code, *sample, self.output, packed, self.scratch)
        self.session.get_function("tiny_rpc.arena_live_blocks")()
        return int(np.count_nonzero(self.output.numpy() != expected.reshape(-1).view(np.uint8)))

    def _time(self, repeat: int, packed: Any) -> float:
        evaluate = self.session.system_lib().time_evaluator("tiny_rpc.run_code", self.device, number=1, repeat=repeat)
        return float(min(evaluate(self.code, *self.samples[0], self.output, packed, self.scratch).results))


_FILL = "tvm.contrib.random.random_fill"
