# SPDX-License-Identifier: Apache-2.0
"""Layer by layer against the reference interpreter: where does the first difference appear, and how large is it?

The generated C is compiled for the host with a hook that hands out every layer's output; the same kernels in their portable form run there.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_tiny.compiled import CompiledModel
from tvm_tiny.errors import ToolchainError
from tvm_tiny.reference import Reference

_HOOK = """
extern void (*tvm_tiny_layer_output)(int layer, const void *address, unsigned nbytes);
#define TVMGEN_LAYER_OUTPUT(layer, address, nbytes) tvm_tiny_layer_output(layer, address, nbytes)
"""
_HOOK_SOURCE = "void (*tvm_tiny_layer_output)(int layer, const void *address, unsigned nbytes);\n"
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


@dataclass(frozen=True)
class LayerDifference:
    """One layer over all samples: elements that differ, and by how much at most.

    `compared` is False where the reference has no such tensor.
    """

    index: int
    layer: str
    op: str
    compared: bool
    elements: int
    different: int
    largest: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def compare(model: CompiledModel, source: bytes, samples: Sequence[Sequence[np.ndarray]]) -> list[LayerDifference]:
    """Compare every layer's output with the reference interpreter's.

    Parameters
    ----------
    model : CompiledModel
    source : bytes
        The .tflite file it was compiled from.
    samples : list of list of arrays
        Inputs in the model's order.
    """
    reference = Reference(source, keep_intermediates=True)
    totals = {i: _Total() for i in range(len(model.program.calls))}
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_") as temp:
        dump = _DumpingModel(model, Path(temp))
        for sample in samples:
            ours = dump.run(sample)
            reference.run(sample)
            theirs = {t.name: t.data for t in reference.tensors()}
            for index, name, array in ours:
                if name in theirs and theirs[name].size == array.size:
                    totals[index].add(array, theirs[name])
    rows = model.report.layers
    return [totals[r.index].row(r.index, r.source[0], r.op) for r in rows]


def first_difference(rows: Sequence[LayerDifference]) -> LayerDifference | None:
    """The first layer that differs; None when all are equal."""
    return next((r for r in rows if r.different), None)


@dataclass
class _Total:
    """Differences of one layer summed over samples."""

    elements: int = 0
    different: int = 0
    largest: float = 0.0
    compared: bool = False

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        delta = np.abs(ours.reshape(-1).astype(np.float64) - theirs.reshape(-1).astype(np.float64))
        self.compared = True
        self.elements += delta.size
        self.different += int(np.count_nonzero(delta))
        self.largest = max(self.largest, float(delta.max(initial=0.0)))

    def row(self, index: int, layer: str, op: str) -> LayerDifference:
        return LayerDifference(index, layer, op, self.compared, self.elements, self.different, self.largest)


class _DumpingModel:
    """The model as a library of this process that reports each layer's output."""

    def __init__(self, model: CompiledModel, directory: Path) -> None:
        self.model = model
        artifact = model.save(directory / "model")
        (directory / "hook.h").write_text(_HOOK)
        (directory / "hook.c").write_text(_HOOK_SOURCE)
        library = directory / "model.so"
        sources = [*(str(artifact / s) for s in model.metadata()["sources"]), str(directory / "hook.c")]
        hook = f'-DTVMGEN_LAYER_HOOK_HEADER="{directory / "hook.h"}"'
        command = [
            _compiler(),
            "-std=c99",
            "-O1",
            "-shared",
            "-fPIC",
            hook,
            "-I",
            str(artifact / "codegen/host/include"),
            *sources,
            "-lm",
            "-o",
            str(library),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ToolchainError(
                f"the host compiler refuses the generated C:\n{done.stderr[:2000]}", remedy="this is a bug of tvm_tiny: report it"
            )
        self._library = ctypes.CDLL(str(library))

    def run(self, inputs: Sequence[np.ndarray]) -> list[tuple[int, str, np.ndarray]]:
        """(layer index, source tensor, values) of every layer in order."""
        found: list[tuple[int, str, np.ndarray]] = []
        calls, buffers = self.model.program.calls, self.model.program.buffers
        names = {row.index: row.source for row in self.model.report.layers}
        planar = {row.index: row.kernel.get("y_layout") == "NCHW" for row in self.model.report.layers}
        seen: dict[int, int] = {}

        def on_output(layer: int, address: int, nbytes: int) -> None:
            which = seen.get(layer, 0)
            seen[layer] = which + 1
            dtype = buffers[calls[layer].writes[which]].dtype
            array = np.frombuffer(ctypes.string_at(address, nbytes), dtype).reshape(buffers[calls[layer].writes[which]].shape)
            if planar[layer]:  # the reference interpreter has NHWC
                array = array.transpose(0, 2, 3, 1)
            found.append((layer, names[layer][which], array.copy()))

        callback = _CALLBACK(on_output)
        ctypes.c_void_p.in_dll(self._library, "tvm_tiny_layer_output").value = ctypes.cast(callback, ctypes.c_void_p).value
        arrays = [np.ascontiguousarray(a, t.dtype) for a, t in zip(inputs, self.model.inputs, strict=True)]
        outputs = [np.zeros(t.shape, t.dtype) for t in self.model.outputs]
        pointers = [(ctypes.c_void_p * len(group))(*(a.ctypes.data for a in group)) for group in (arrays, outputs)]
        self._library[f"tvmgen_{self.model.name}_run"](*pointers)
        return found


def _compiler() -> str:
    for name in ("gcc", "clang", "cc"):
        if (path := shutil.which(name)) is not None:
            return path
    raise ToolchainError("no C compiler for the host was found", remedy="install one (Debian, Ubuntu: sudo apt-get install gcc libc6-dev)")
