# SPDX-License-Identifier: Apache-2.0
"""Run generated C in this process: compiled to a shared library, called through ctypes. For tests that run many inputs."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tvm_tiny.compiled import CompiledModel

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")

needs_host_cc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc on this machine")


class HostModel:
    """A compiled model loaded into this process; `flags` come after -O1 and override it."""

    def __init__(self, model: CompiledModel, *, compiler: str = "gcc", flags: tuple[str, ...] = ()) -> None:
        self.model = model
        self._dir = tempfile.TemporaryDirectory(prefix="tvm_tiny_test_")
        artifact = model.save(Path(self._dir.name) / "model")
        self.library = Path(self._dir.name) / "model.so"
        sources = [str(artifact / s) for s in model.metadata()["sources"]]
        include = str(artifact / "codegen/host/include")
        command = [
            compiler,
            "-std=c99",
            "-O1",
            *WARNINGS,
            *flags,
            "-shared",
            "-fPIC",
            "-I",
            include,
            *sources,
            "-lm",
            "-o",
            str(self.library),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:4000]
        self._lib = ctypes.CDLL(str(self.library))
        self._run = self._lib[f"tvmgen_{model.name}_run"]
        self._run.restype = ctypes.c_int32

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs for inputs in the model's order."""
        arrays = [np.ascontiguousarray(a, dtype=t.dtype).reshape(t.shape) for a, t in zip(inputs, self.model.inputs, strict=True)]
        outputs = [np.zeros(t.shape, t.dtype) for t in self.model.outputs]
        status = self._run(_pointers(arrays), _pointers(outputs))
        assert status == 0, status
        return outputs


def _pointers(arrays: list[np.ndarray]) -> ctypes.Array:
    """A struct of pointers, one a tensor."""
    return (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
