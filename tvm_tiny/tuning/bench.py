# SPDX-License-Identifier: Apache-2.0
"""Candidates of one layer on an emulated board: compiled side by side, linked into one image, checked byte by byte, then timed.

A candidate that is not exact, faults or hangs is found by a plain run first; only the others are in the image that is timed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tvm_tiny.boards import Board
from tvm_tiny.device import measure_objects, qemu_command
from tvm_tiny.device.toolchain import run_tool
from tvm_tiny.errors import TargetError, TinyError
from tvm_tiny.profiler import model_for, profile_elf
from tvm_tiny.tuning.candidate import Candidate, Case, Measurement
from tvm_tiny.tuning.objects import Objects, measure_distinct
from tvm_tiny.tuning.runner import Conditions

_HERE = Path(__file__).parent
_GUARD = 64


class Bench:
    """The runner of one emulated board (`runner.Runner`).

    Parameters
    ----------
    board : Board
    board_term : str
        Memory of a real board added to the cycles (`tvm_tiny.profiler.board_terms`).
    directory : path
        Work folder; objects are kept there by the digest of their source.
    timeout : float
        Seconds a candidate may run.
    """

    def __init__(self, board: Board, board_term: str, directory: Path, timeout: float = 20.0) -> None:
        if not board.emulated:
            raise TargetError(f"{board.name} is not emulated, so nothing counts its instructions", remedy="tune on an mps2 board")
        model_for(board.mcpu)
        self.board, self.directory, self.timeout = board, directory, timeout
        self.objects = Objects(board.target, directory)
        self.conditions = Conditions(board_term, self.objects.compiler, self.objects.flags)
        self._images = 0
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
        """Compile, check and time candidates of one layer; one measurement each, in order."""

        def check_and_time(objects: dict[int, Path]) -> dict[int, Measurement]:
            refused = self._check(case, candidates, objects, list(objects))
            return refused | self._time(case, candidates, objects, [i for i in objects if i not in refused])

        return measure_distinct(self.objects, candidates, check_and_time)

    def _check(self, case: Case, candidates: Sequence[Candidate], objects: dict[int, Path], which: Sequence[int]) -> dict[int, Measurement]:
        """Those of `which` that are not exact, fault or hang."""
        refused: dict[int, Measurement] = {}
        left = list(which)
        while left:
            image = self._link(case, [candidates[i] for i in left], [objects[i] for i in left])
            printed, end = self._run(image, self.timeout * len(left))
            for i, wrong in zip(left, re.findall(r"^bad (\d+)$", printed, re.MULTILINE), strict=False):
                if int(wrong):
                    refused[i] = Measurement("inexact", message=f"{wrong} bytes differ from the operator's meaning")
            done = printed.count("bad ")
            if done < len(left):
                refused[left[done]] = Measurement("timeout" if end == "timeout" else "crash", message=end or "the image faulted")
                done += 1
            left = left[done:]
        return refused

    def _run(self, image: Path, timeout: float) -> tuple[str, str]:
        """What the image printed, and how it ended when not well."""
        try:
            done = subprocess.run(
                qemu_command(self.board, image), capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as late:
            return ((late.stdout or b"") + (late.stderr or b"")).decode(errors="replace"), "timeout"
        return (done.stdout + done.stderr).decode(errors="replace"), "" if done.returncode == 0 else f"QEMU ended with {done.returncode}"

    def _time(self, case: Case, candidates: Sequence[Candidate], objects: dict[int, Path], which: Sequence[int]) -> dict[int, Measurement]:
        if not which:
            return {}
        image = self._link(case, [candidates[i] for i in which], [objects[i] for i in which])
        core = self.board.mcpu
        try:
            command, seconds = qemu_command(self.board, image), self.timeout * len(which)
            profile = profile_elf(image, command, core, self.conditions.board_term, timeout=seconds)
        except TinyError as error:
            return {i: Measurement("crash", message=error.message) for i in which}
        timed = [s for s in profile.segments if s.opened_by == 1]
        results = {}
        for i, segment in zip(which, timed, strict=True):
            code = measure_objects([objects[i]]).flash
            packed, scratch = len(candidates[i].packed), candidates[i].scratch
            results[i] = Measurement("ok", segment.cycles[core], segment.instructions, code + packed, scratch)
        return results

    def _link(self, case: Case, candidates: Sequence[Candidate], objects: Sequence[Path]) -> Path:
        """An image of the harness, the case and the candidates."""
        self._images += 1
        folder = self.directory / f"image{self._images}"
        folder.mkdir(exist_ok=True)
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
        return image


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
