# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: random step graphs whose kernels have known access patterns."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.support.memory_simulator import Pattern, rights_of
from tvm_tiny.memory.plan import Buffer, Right, Step


@dataclass(frozen=True)
class Problem:
    """Buffers and steps, and the access pattern of each step that grants row rights."""

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    patterns: dict[str, Pattern]


@st.composite
def problems(draw: st.DrawFn, max_steps: int = 6, max_bytes: int = 12) -> Problem:
    """A graph of one model input and some steps, each reading one or two earlier tensors, with scratch and rights."""
    count = draw(st.integers(1, max_steps))
    buffers = [Buffer("x", draw(st.integers(1, max_bytes)), "input", align=draw(_aligns()), keep=draw(st.booleans()))]
    steps: list[Step] = []
    patterns: dict[str, Pattern] = {}
    for index in range(count):
        inputs = draw(st.lists(st.sampled_from(buffers), min_size=1, max_size=2, unique=True))
        step, made, pattern = draw(_steps(f"s{index}", inputs, max_bytes))
        scratch = (f"s{index}.scratch",) * draw(st.integers(0, 1))
        steps.append(Step(step.name, step.reads, step.writes, scratch, step.rights))
        buffers = [*buffers, made]
        patterns |= {step.name: pattern} if pattern else {}
    last = buffers[-1]
    ended = [Buffer(b.name, b.nbytes, "output" if b is last else b.kind, align=b.align, keep=b.keep) for b in buffers]
    scratches = [Buffer(n, draw(st.integers(1, 6)), "scratch") for s in steps for n in s.scratch]
    return Problem(tuple(ended + scratches), tuple(steps), patterns)


def _aligns() -> st.SearchStrategy[int]:
    return st.sampled_from([1, 1, 2, 4])


@st.composite
def _steps(draw: st.DrawFn, name: str, inputs: list[Buffer], max_bytes: int) -> tuple[Step, Buffer, Pattern | None]:
    reads = tuple(b.name for b in inputs)
    style = draw(st.sampled_from(["opaque", "elementwise", "rows"]))
    sizes = {b.nbytes for b in inputs}
    if style == "elementwise" and len(sizes) == 1:
        out = Buffer(f"{name}.out", sizes.pop(), align=draw(_aligns()))
        return Step(name, reads, (out.name,), rights=tuple(Right(out.name, r, "in-place") for r in reads)), out, None
    if style == "rows" and len(sizes) == 1:
        pattern = draw(_patterns(sizes.pop()))
        out = Buffer(f"{name}.out", pattern.row * len(pattern.low), align=draw(_aligns()))
        return Step(name, reads, (out.name,), rights=rights_of(pattern, out.name, reads)), out, pattern
    out = Buffer(f"{name}.out", draw(st.integers(1, max_bytes)), align=draw(_aligns()))
    return Step(name, reads, (out.name,)), out, None


@st.composite
def _patterns(draw: st.DrawFn, nbytes: int) -> Pattern:
    rows = draw(st.integers(1, 4))
    low = sorted(draw(st.lists(st.integers(0, nbytes - 1), min_size=rows, max_size=rows)))
    high = [draw(st.integers(lo, nbytes)) for lo in low]
    return Pattern(draw(st.integers(1, 4)), tuple(low), tuple(high))
