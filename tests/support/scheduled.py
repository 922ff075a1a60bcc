# SPDX-License-Identifier: Apache-2.0
"""Runs scheduled layers on the host: the generated C as a whole, and the TIR descriptions of the intrinsics it is made of."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import tvm
from tvm import tirx
from tvm.s_tir import Schedule, TensorIntrin

from tests.support.kernel_runner import WARNINGS
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.codegen.primfunc_to_c import to_c
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.schedules.base import Layer

_GUARD = 64


def layers_of(builder: TinyBuilder, last: tvm.relax.Expr) -> list[tirx.PrimFunc]:
    """The layers of a small network as rules get them."""
    mod = LowerOps()(builder.finish(last))
    return [f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)]


class Generated:
    """The scheduled function and its microkernels, compiled without a warning."""

    def __init__(self, scheduled: Schedule, directory: Path) -> None:
        self.func = scheduled.mod["main"]
        self.arguments = [str(a) for a in self.func.attrs["tiny.args"]]
        outputs = [p.name for p in self.func.params[len(self.arguments) :]]
        text = "\n".join(str(source) for _, source in self.func.attrs["tiny.c_sources"])
        driver = to_c(self.func.with_attr("tiny.outputs", outputs), "layer", tvm.target.Target({"kind": "c"}))
        source, library = directory / "layer.c", directory / "layer.so"
        source.write_text(f"{text}\n{driver.prototype};\n{driver.definition}\n")
        sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
        command = ["gcc", *WARNINGS, "-O1", *sanitize, "-shared", "-fPIC", "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        self.library = ctypes.CDLL(str(library))

    def __call__(self, activations: list[np.ndarray], like: np.ndarray) -> np.ndarray:
        """Run on `activations`; what lies behind the output and behind scratch stays untouched."""
        packed = [a.numpy().copy() for a in self.func.attrs.get("tiny.packed", [])]
        scratch = [np.full(int(n) + _GUARD, 0xA5, np.uint8) for n in self.func.attrs.get("tiny.scratch", [])]
        given = iter(activations)
        inputs = [np.ascontiguousarray(next(given)) if a.startswith("arg:") else packed[0] for a in self.arguments]
        out = np.full(like.nbytes + _GUARD, 0x11, np.uint8)
        self.library.layer(*(ctypes.c_void_p(a.ctypes.data) for a in (*inputs, out, *scratch)))
        assert (out[-_GUARD:] == 0x11).all(), "wrote past its output"
        assert all((s[-_GUARD:] == 0xA5).all() for s in scratch), "wrote past its scratch"
        return out[:-_GUARD].view(like.dtype).reshape(like.shape)


class Description:
    """The description of a schedule's intrinsic, compiled by TVM for the host, with the constants of its layer."""

    def __init__(self, scheduled: Schedule, func: tirx.PrimFunc) -> None:
        (name,) = (str(n) for n in scheduled.mod["main"].attrs["tiny.intrinsics"])
        self.layer, self.output = Layer.of(func), str(func.params[-1].name)
        description = TensorIntrin.get(name).desc
        self.params = [(str(p.name), tuple(int(d) for d in p.ty.shape), str(p.ty.dtype)) for p in description.params]
        self.shapes = {name: shape for name, shape, _ in self.params}
        self.names = [str(p.name) for p in func.params]
        self.library = tvm.compile(tvm.IRModule({"kernel": description.with_attr("global_symbol", "kernel")}), target="llvm")

    def __call__(self, activations: list[np.ndarray]) -> np.ndarray:
        """The output of one call."""
        count = len(self.layer.shapes) - 1
        values = dict(zip(self._computed, activations, strict=True))
        known = {name: values[i] if i in values else self.layer.constants[i] for i, name in enumerate(self.names[:count])}
        arrays = [known[name] if name in known else np.zeros(shape, dtype) for name, shape, dtype in self.params]
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arrays]
        self.library["kernel"](*tensors)
        return next(t for t, (name, *_) in zip(tensors, self.params, strict=True) if name == self.output).numpy()

    @property
    def _computed(self) -> list[int]:
        """Numbers of the arguments that are no constants."""
        return [i for i in range(len(self.layer.shapes) - 1) if i not in self.layer.constants]

    def parts(self, activations: list[np.ndarray], want: np.ndarray) -> list[tuple[list[np.ndarray], np.ndarray]]:
        """Inputs and outputs of the first and of the last call the layer makes."""

        def cut(array: np.ndarray, shape: tuple[int, ...], last: bool) -> np.ndarray:
            return array[tuple(slice(n - m, n) if last else slice(0, m) for n, m in zip(array.shape, shape, strict=True))]

        return [
            (
                [cut(x, self.shapes[self.names[i]], last) for i, x in zip(self._computed, activations, strict=True)],
                cut(want, self.shapes[self.output], last),
            )
            for last in (False, True)
        ]
