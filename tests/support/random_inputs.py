# SPDX-License-Identifier: Apache-2.0
"""Random inputs of a .tflite model."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from tvm_tiny.frontend.tflite_reader import read_graph


def random_values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Uniform over the whole range of an integer type; normal for float ones."""
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def random_inputs(path: Path, count: int, seed: int = 1) -> list[list[np.ndarray]]:
    """`count` samples, each the model's inputs in order; the same for the same file name."""
    rng = np.random.default_rng((seed, zlib.crc32(path.name.encode())))
    graph = read_graph(path.read_bytes())
    tensors = [graph.tensors[i] for i in graph.inputs]
    return [[random_values(rng, t.shape, t.dtype) for t in tensors] for _ in range(count)]
