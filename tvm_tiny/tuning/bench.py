# SPDX-License-Identifier: Apache-2.0
"""Candidates of one layer on emulated boards: compiled side by side, linked into images, checked byte by byte, then timed.

A candidate that is not exact, faults or hangs is found by a plain run first; only the others are in the image that is timed. The emulators
are of this machine, or those that device servers offer under a key of TVM's tracker; the figures do not depend on which.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tvm_tiny.boards import Board
from tvm_tiny.device import measure_objects
from tvm_tiny.device.fleet import Fleet
from tvm_tiny.device.toolchain import run_tool
from tvm_tiny.errors import OptionError, TargetError
from tvm_tiny.tuning.candidate import Candidate, Case, Measurement
from tvm_tiny.tuning.emulator import Emulator, LocalEmulator, RemoteEmulator
from tvm_tiny.tuning.objects import Objects, measure_distinct
from tvm_tiny.tuning.runner import Conditions

_HERE = Path(__file__).parent
_GUARD = 64
_HARNESS = 65536  # bytes: more than the harness and the gaps between candidates take
_SHARE = 4  # candidates of an image where several emulators take part: what one has to give back when it is lost
_ATTEMPTS = 4  # emulators that may be lost over the same image: it is never its fault
Result = TypeVar("Result")


class Bench:
    """The runner of emulated boards (`runner.Runner`).

    Parameters
    ----------
    board : Board
    board_term : str
        Memory of a real board added to the cycles (`tvm_tiny.profiler.board_terms`).
    directory : path
        Work folder; objects are kept there by the digest of their source.
    timeout : float
        Seconds a candidate may run.
    jobs : int
        Emulators used at a time.
    fleet : Fleet, optional
        Where they come from; None for this machine.

    Raises
    ------
    TargetError
        The board is not emulated.
    OptionError
        `jobs` is not above zero.
    """

    def __init__(
        self, board: Board, board_term: str, directory: Path, timeout: float = 20.0, *, jobs: int = 1, fleet: Fleet | None = None
    ) -> None:
        if jobs < 1:
            raise OptionError(f"jobs={jobs} is not above zero")
        self.board, self.directory, self.timeout, self.jobs, self.fleet = board, directory, timeout, jobs, fleet
        self._here = LocalEmulator(board)
        self.objects = Objects(board.target, directory)
        self.conditions = Conditions(board_term, self.objects.compiler, self.objects.flags)
        self._write_memory_map()

    def _write_memory_map(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        rows = []
        for name, section in (("CODE", "text"), ("DATA", "bss")):
            region = self.board.region(section)
            if region is None:
                raise TargetError(f"{self.board.name} names no memory for {section}")
            rows.append(f"  {name} (rwx) : ORIGIN = {region.base:#x}, LENGTH = {region.size:#x}\n")
        (self.directory / "memory.ld").write_text(f"MEMORY {{\n{''.join(rows)}}}\n")

    def measure(self, case: Case, candidates: Sequence[Candidate]) -> list[Measurement]:
        """Compile, check and time candidates of one layer; one measurement each, in order.

        Raises
        ------
        DeviceError
            The tracker can't be reached, it has no device of the key, or every one that took an image was lost.
        """

        def measure_some(objects: dict[int, Path]) -> dict[int, Measurement]:
            results: dict[int, Measurement] = {}
            with ThreadPoolExecutor(self.jobs) as pool:
                shares = self._shares(case, {i: len(candidates[i].packed) + measure_objects([o]).flash for i, o in objects.items()})
                for found in pool.map(lambda share: self._on_any(lambda e: self._measure(e, case, candidates, objects, share)), shares):
                    results |= found
            return results

        return measure_distinct(self.objects, candidates, measure_some)

    def _shares(self, case: Case, flash: dict[int, int]) -> list[list[int]]:
        """What goes into each image: no more than its memory holds, given every candidate's bytes."""
        alone, region = self.jobs == 1 and self.fleet is None, self.board.region("text")
        size = max(1, len(flash) if alone else min(_SHARE, -(-len(flash) // self.jobs)))
        assert region is not None, self.board.name
        room = region.size - _HARNESS - sum(a.nbytes for row in (*case.inputs, case.expected) for a in row)
        shares: list[list[int]] = []
        for number, nbytes in flash.items():
            if not shares or len(shares[-1]) == size or sum(flash[i] for i in shares[-1]) + nbytes > room:
                shares.append([])
            shares[-1].append(number)
        return shares

    def _on_any(self, work: Callable[[Emulator], Result]) -> Result:
        if self.fleet is None:
            return work(self._here)
        return self.fleet.call(lambda session: work(RemoteEmulator(session, self.board)), attempts=_ATTEMPTS)

    def _measure(
        self, emulator: Emulator, case: Case, candidates: Sequence[Candidate], objects: dict[int, Path], which: Sequence[int]
    ) -> dict[int, Measurement]:
        refused = self._check(emulator, case, candidates, objects, which)
        return refused | self._time(emulator, case, candidates, objects, [i for i in which if i not in refused])

    def _check(
        self, emulator: Emulator, case: Case, candidates: Sequence[Candidate], objects: dict[int, Path], which: Sequence[int]
    ) -> dict[int, Measurement]:
        """Those of `which` that are not exact, fault or hang."""
        refused: dict[int, Measurement] = {}
        left = list(which)
        while left:
            image = self._link(case, [candidates[i] for i in left], [objects[i] for i in left])
            printed, end = emulator.run(image, self.timeout * len(left))
            for i, wrong in zip(left, re.findall(r"^bad (\d+)$", printed, re.MULTILINE), strict=False):
                if int(wrong):
                    refused[i] = Measurement("inexact", message=f"{wrong} bytes differ from the operator's meaning")
            done = printed.count("bad ")
            if done < len(left):
                refused[left[done]] = Measurement("timeout" if end == "timeout" else "crash", message=end or "the image faulted")
                done += 1
            left = left[done:]
        return refused

    def _time(
        self, emulator: Emulator, case: Case, candidates: Sequence[Candidate], objects: dict[int, Path], which: Sequence[int]
    ) -> dict[int, Measurement]:
        if not which:
            return {}
        image = self._link(case, [candidates[i] for i in which], [objects[i] for i in which])
        segments = emulator.profile(image, self.conditions.board_term, self.timeout * len(which))
        if isinstance(segments, str):
            return {i: Measurement("crash", message=segments) for i in which}
        results = {}
        for i, timed in zip(which, (s for s in segments if s.opened_by == 1), strict=True):
            code = measure_objects([objects[i]]).flash
            packed, scratch = len(candidates[i].packed), candidates[i].scratch
            results[i] = Measurement("ok", timed.cycles, timed.instructions, code + packed, scratch)
        return results

    def _link(self, case: Case, candidates: Sequence[Candidate], objects: Sequence[Path]) -> bytes:
        """An image of the harness, the case and the candidates."""
        folder = Path(tempfile.mkdtemp(prefix="image", dir=self.directory))
        blobs = {f"sample{s}_{a}": x.tobytes() for s, row in enumerate(case.inputs) for a, x in enumerate(row)}
        blobs |= {f"expected{s}": y.tobytes() for s, y in enumerate(case.expected)}
        blobs |= {f"packed{i}": c.packed for i, c in enumerate(candidates) if c.packed}
        for name, data in blobs.items():
            (folder / f"{name}.bin").write_bytes(data)
        (folder / "data.S").write_text("".join(_incbin(folder, name) for name in blobs))
        (folder / "bench.h").write_text(_header(case, candidates))
        image = folder / "image.elf"
        command = [self.objects.gcc, *self.board.target.cflags, "-std=gnu11", "-O2", "-nostartfiles", "-Wl,--no-warn-rwx-segments"]
        command += [f"-I{folder}", f"-L{self.directory}", "-T", str(_HERE / "harness.ld"), str(_HERE / "harness.c"), str(folder / "data.S")]
        run_tool([*command, *map(str, objects), "-o", str(image)], cwd=folder, timeout=300, what="linking candidates")
        linked = image.read_bytes()
        shutil.rmtree(folder)
        return linked


def _incbin(folder: Path, name: str) -> str:
    return f'.section .rodata.{name},"a"\n.balign 16\n.global {name}\n{name}:\n.incbin "{folder / name}.bin"\n.byte 0\n'


def _header(case: Case, candidates: Sequence[Candidate]) -> str:
    arguments = case.inputs[0]
    sizes = {
        "CANDIDATES": len(candidates),
        "SAMPLES": len(case.inputs),
        "ARGUMENTS": len(arguments),
        "ARGUMENT_BYTES": max(x.nbytes for x in arguments),
        "OUTPUT_BYTES": case.expected[0].nbytes,
        "SCRATCH_BYTES": max(c.scratch for c in candidates),
        "GUARD": _GUARD,
    }
    text = "#include <stdint.h>\n" + "".join(f"#define BENCH_{name} {value}u\n" for name, value in sizes.items())
    text += (
        "struct bench_candidate {\n  void (*run)(uint8_t (*)[BENCH_ARGUMENT_BYTES], uint8_t *, uint8_t *);\n  uint32_t scratch_bytes;\n};\n"
    )
    names = [f"sample{s}_{a}" for s in range(len(case.inputs)) for a in range(len(arguments))]
    names += [f"expected{s}" for s in range(len(case.inputs))] + [f"packed{i}" for i, c in enumerate(candidates) if c.packed]
    text += "".join(f"extern const uint8_t {name}[];\n" for name in names)
    rows = ", ".join("{" + ", ".join(f"sample{s}_{a}" for a in range(len(arguments))) + "}" for s in range(len(case.inputs)))
    text += f"static const uint8_t *const bench_samples[BENCH_SAMPLES][BENCH_ARGUMENTS] = {{{rows}}};\n"
    text += (
        f"static const uint8_t *const bench_expected[BENCH_SAMPLES] = {{{', '.join(f'expected{s}' for s in range(len(case.inputs)))}}};\n"
    )
    for i, c in enumerate(candidates):
        text += _wrapper(i, c)
    table = ", ".join(f"{{run{i}, {c.scratch}u}}" for i, c in enumerate(candidates))
    return text + f"static const struct bench_candidate bench_candidates[BENCH_CANDIDATES] = {{{table}}};\n"


def _wrapper(index: int, candidate: Candidate) -> str:
    """The generated call: pointers in the order of `tensorize.tensorized`."""
    sources = ", ".join(f"const int8_t *x{a}" for a in range(candidate.activations))
    inputs = ", ".join(f"(const int8_t *)x[{a}]" for a in range(candidate.activations))
    packed = f"packed{index}" if candidate.packed else "0"
    return (
        f"void {candidate.entry}({sources}, int8_t *, const void *, void *);\n"
        f"static void run{index}(uint8_t (*x)[BENCH_ARGUMENT_BYTES], uint8_t *y, uint8_t *scratch) {{\n"
        f"  {candidate.entry}({inputs}, (int8_t *)y, {packed}, scratch);\n}}\n"
    )
