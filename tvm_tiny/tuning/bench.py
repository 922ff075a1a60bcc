# SPDX-License-Identifier: Apache-2.0
"""Candidates of one layer on an emulated board: compiled side by side, linked into one image, checked byte by byte, then timed.

A candidate that is not exact, faults or hangs is found by a plain run first; only the others are in the image that is timed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import cpu_count
from pathlib import Path

import numpy as np
from tvm import tirx

from tvm_tiny.boards import Board
from tvm_tiny.compiled import COMPILE_FLAGS
from tvm_tiny.device import measure_objects, qemu_command
from tvm_tiny.device.toolchain import find_tool, run_tool, tool_version
from tvm_tiny.errors import TargetError, TinyError, ToolchainError
from tvm_tiny.ops import registry
from tvm_tiny.profiler import model_for, profile_elf
from tvm_tiny.schedules.base import Layer

_HERE = Path(__file__).parent
_GUARD = 64


@dataclass(frozen=True)
class Candidate:
    """A kernel ready to be compiled, from the attributes of a scheduled function (`schedules/base.py`).

    Attributes
    ----------
    symbol : str
        External C function `symbol(activations…, output, packed, scratch)`.
    source : str
        One translation unit.
    packed : bytes
    scratch : int
        Bytes.
    activations : int
        Input pointers.
    """

    symbol: str
    source: str
    packed: bytes
    scratch: int
    activations: int

    @staticmethod
    def of(scheduled: tirx.PrimFunc) -> Candidate | None:
        """None for a schedule that is no single call of a microkernel: it has loops of TVM's own and nothing to tune."""
        attrs = scheduled.attrs
        if "tiny.c_sources" not in attrs or "tiny.args" not in attrs:
            return None
        sources = [(str(name), str(text)) for name, text in attrs["tiny.c_sources"]]
        blobs = [a.numpy().tobytes() for a in attrs.get("tiny.packed", [])]
        scratch = [int(n) for n in attrs.get("tiny.scratch", [])]
        if len(blobs) > 1 or len(scratch) > 1:
            return None
        inputs = sum(str(a).startswith("arg:") for a in attrs["tiny.args"])
        text = "\n".join(text for _name, text in sources)
        return Candidate(sources[-1][0], text, blobs[0] if blobs else b"", scratch[0] if scratch else 0, inputs)

    @cached_property
    def digest(self) -> str:
        """Equal for candidates that are the same code and data."""
        return hashlib.sha256(self.source.encode() + b"\0" + self.packed).hexdigest()[:20]

    @property
    def entry(self) -> str:
        """The symbol in the object file: candidates of the same code and other data lie in one image."""
        return f"candidate_{self.digest}"


@dataclass(frozen=True)
class Case:
    """Inputs of a layer and the outputs its operator's meaning gives, one entry a sample."""

    inputs: tuple[tuple[np.ndarray, ...], ...]
    expected: tuple[np.ndarray, ...]

    @staticmethod
    def of(layer: Layer, seed: int = 0) -> Case:
        """A random sample over the whole range of int8, and one of extremes only."""
        rng, op = np.random.default_rng(seed), registry.get(layer.op)
        count = len(layer.shapes) - 1
        run_time = [i for i in range(count) if i not in layer.constants]
        samples: list[tuple[np.ndarray, ...]] = []
        for extremes in (False, True):
            pick = (lambda shape: rng.choice([-128, 127], shape)) if extremes else (lambda shape: rng.integers(-128, 128, shape))
            samples.append(tuple(np.asarray(pick(layer.shapes[i]), np.int8) for i in run_time))
        attrs = {k: v for k, v in layer.attrs.items() if k in op.complete_attrs(layer.attrs)}
        outputs: list[np.ndarray] = []
        for sample in samples:
            arrays = dict(zip(run_time, sample, strict=True))
            values = [np.asarray(arrays[i] if i in arrays else layer.constants[i]) for i in range(count)]
            outputs.append(op.numpy(*values, **attrs))
        return Case(tuple(samples), tuple(outputs))


@dataclass(frozen=True)
class Measurement:
    """What came of one candidate; see `records.Record` for the words."""

    status: str
    cycles: float = 0.0
    instructions: int = 0
    flash: int = 0
    scratch: int = 0
    message: str = ""


class Bench:
    """Compiles and measures on one emulated board.

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
        self.board, self.board_term, self.directory, self.timeout = board, board_term, directory, timeout
        self.gcc = str(find_tool("arm-gcc"))
        self.flags = (*board.target.cflags, *COMPILE_FLAGS)
        self.compiler = tool_version(Path(self.gcc))
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

    # -- compiling

    def compile(self, candidates: Sequence[Candidate]) -> list[Path | str]:
        """Compile side by side; for each the object file, or what the compiler said."""
        with ThreadPoolExecutor(cpu_count() or 1) as pool:
            return list(pool.map(self._compile, candidates))

    def _compile(self, candidate: Candidate) -> Path | str:
        source = self.directory / f"{candidate.digest}.c"
        made = source.with_suffix(".o")
        if made.is_file():
            return made
        source.write_text(candidate.source)
        partial = source.with_suffix(".o.part")  # an object is there whole or not at all
        command = [self.gcc, *self.flags, f"-D{candidate.symbol}={candidate.entry}", "-c", str(source), "-o", str(partial)]
        try:
            run_tool(command, cwd=self.directory, timeout=300, what="compiling a candidate")
        except ToolchainError as error:
            return error.message
        return partial.rename(made)

    # -- measuring

    def measure(self, case: Case, candidates: Sequence[Candidate]) -> list[Measurement]:
        """Compile, check and time candidates of one layer; one measurement each, in order."""
        results: dict[int, Measurement] = {}
        objects: dict[int, Path] = {}
        for i, made in enumerate(self.compile(candidates)):
            if isinstance(made, Path):
                objects[i] = made
            else:
                results[i] = Measurement("build", message=made)
        first = {candidates[i].digest: i for i in reversed(objects)}  # equal candidates are measured once
        left = sorted(first.values())
        results.update(self._check(case, candidates, objects, left))
        exact = [i for i in left if i not in results]
        results.update(self._time(case, candidates, objects, exact))
        return [results[i] if i in results else results[first[candidates[i].digest]] for i in range(len(candidates))]

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
            profile = profile_elf(image, qemu_command(self.board, image), core, self.board_term, timeout=self.timeout * len(which))
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
        command = [self.gcc, *self.board.target.cflags, "-std=gnu11", "-O2", "-nostartfiles", "-Wl,--no-warn-rwx-segments", f"-I{folder}"]
        command += [f"-L{self.directory}", "-T", str(_HERE / "harness.ld"), str(_HERE / "harness.c"), str(folder / "data.S")]
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
