# SPDX-License-Identifier: Apache-2.0
"""What is measured and what comes of it: a candidate's code and data, a layer's inputs with the outputs they must give, a measurement."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.codegen.primfunc_to_c import to_c
from tvm_tiny.ops import registry
from tvm_tiny.schedules.base import Layer


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
        """None for a schedule that calls no microkernel: it has loops of TVM's own alone and nothing to tune."""
        attrs = scheduled.attrs
        if "tiny.c_sources" not in attrs or "tiny.args" not in attrs:
            return None
        sources = [(str(name), str(text)) for name, text in attrs["tiny.c_sources"]]
        blobs = [a.numpy().tobytes() for a in attrs.get("tiny.packed", [])]
        scratch = [int(n) for n in attrs.get("tiny.scratch", [])]
        if len(blobs) > 1 or len(scratch) > 1:
            return None
        inputs = sum(str(a).startswith("arg:") for a in attrs["tiny.args"])
        symbol, text = sources[-1][0], "\n".join(text for _name, text in sources)
        if _has_loops(scheduled):
            symbol = f"{PREFIX}candidate"
            text += _loops_in_c(scheduled, symbol, inputs, bool(blobs), bool(scratch))
        return Candidate(symbol, text, blobs[0] if blobs else b"", scratch[0] if scratch else 0, inputs)

    @cached_property
    def code(self) -> str:
        """Digest of the C: equal for kernels that take the same time, whatever weights they get."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:20]

    @cached_property
    def digest(self) -> str:
        """Equal for candidates that are the same code and data."""
        return hashlib.sha256(self.source.encode() + b"\0" + self.packed).hexdigest()[:20]

    @property
    def entry(self) -> str:
        """The symbol in the object file: candidates of the same code and other data lie in one image."""
        return f"candidate_{self.digest}"


def _has_loops(func: tirx.PrimFunc) -> bool:
    """Whether the schedule is more than one call of a function."""
    found: list[tirx.For | tirx.SeqStmt] = []
    structural_walk(func.body, [(tirx.For, found.append), (tirx.SeqStmt, found.append)])
    return bool(found)


def _loops_in_c(func: tirx.PrimFunc, symbol: str, inputs: int, packed: bool, scratch: bool) -> str:
    """C of the loops, and `symbol`, which calls them with the pointers every candidate takes."""
    arguments = len(func.attrs["tiny.args"])
    told = func.with_attr("tiny.outputs", [p.name for p in func.params[arguments:]])
    for key in ("tiny.constants", "tiny.packed"):
        told = told.without_attr(key) if key in told.attrs else told
    loops = to_c(told, f"{PREFIX}loops", tvm.target.Target({"kind": "c"}))
    declared = [f"const int8_t *x{i}" for i in range(inputs)]
    passed = [*(f"x{i}" for i in range(inputs)), *(["packed"] if packed else []), "y", *(["scratch"] if scratch else [])]
    signature = f"void {symbol}({', '.join(declared)}, int8_t *y, const void *packed, void *scratch)"
    return f"\nstatic {loops.definition}\n{signature};\n{signature} {{ {PREFIX}loops({', '.join(passed)}); }}\n"


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
