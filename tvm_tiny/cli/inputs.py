# SPDX-License-Identifier: Apache-2.0
"""Samples for a model from a file or drawn at random, checked against what the model takes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import typer

from tvm_tiny.errors import InputError

InputFile = Annotated[
    Path | None,
    typer.Option("--input", "-i", help=".npy or .npz (arrays by the inputs' names; one more axis in front: samples). Without: random."),
]
Count = Annotated[int, typer.Option("--samples", "-n", min=1, help="How many samples: random ones to draw, or the first of the file.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the random samples.")]


class InputTensor(Protocol):
    """What has to be known of an input: the source model's name, the C name, shape and dtype."""

    @property
    def name(self) -> str:
        """Name in the source model."""

    @property
    def c_name(self) -> str:
        """Name in C."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents."""

    @property
    def dtype(self) -> str:
        """Name of the numpy dtype."""


Sample = dict[str, np.ndarray]


def make_samples(path: Path | None, tensors: Sequence[InputTensor], count: int, seed: int) -> list[Sample]:
    """At most `count` samples from `path`, or `count` drawn at random; each a dict by the source model's input names.

    Raises
    ------
    InputError
        The file can't be read; an input is missing, unknown, or of another shape or dtype; their numbers of samples differ.
    """
    if path is None:
        rng = np.random.default_rng(seed)
        return [{t.name: _draw(rng, t) for t in tensors} for _ in range(count)]
    arrays = _by_tensor(path, _read(path), tensors)
    batches = {t.name: _as_batch(path, arrays[t.name], t) for t in tensors}
    lengths = {name: len(batch) for name, batch in batches.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: the inputs have different numbers of samples: {lengths}")
    return [{name: batch[i] for name, batch in batches.items()} for i in range(min(count, *lengths.values()))]


def _draw(rng: np.random.Generator, tensor: InputTensor) -> np.ndarray:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, tensor.shape, dtype, endpoint=True)
    return rng.random(tensor.shape).astype(dtype)


def _read(path: Path) -> Mapping[str, np.ndarray]:
    """Arrays of the file; an .npy has one, under the empty name."""
    try:
        loaded = np.load(path, allow_pickle=False)
        return {"": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: no arrays can be read: {error}", remedy="give an .npy or .npz file written by numpy") from None


def _by_tensor(path: Path, arrays: Mapping[str, np.ndarray], tensors: Sequence[InputTensor]) -> Sample:
    """Find each input's array by its name in the source model or in C; a single array is a single input's whatever its name."""
    names = ", ".join(t.name for t in tensors)
    if len(arrays) == len(tensors) == 1:
        return {tensors[0].name: next(iter(arrays.values()))}
    found = {t.name: arrays[key] for t in tensors for key in (t.c_name, t.name) if key in arrays}
    missing = [t.name for t in tensors if t.name not in found]
    if missing:
        raise InputError(f"{path}: no array for {', '.join(missing)}", remedy=f"name the arrays as the inputs are: {names}")
    return found


def _as_batch(path: Path, array: np.ndarray, tensor: InputTensor) -> np.ndarray:
    """`array` as (samples, *shape): one sample, several along a new first axis, or several along the model's own batch axis of one."""
    shape = tuple(tensor.shape)
    if array.dtype != np.dtype(tensor.dtype):
        raise InputError(
            f"{path}: input {tensor.name} is {tensor.dtype}, the array is {array.dtype}",
            remedy="quantise it with the input's scale and zero point, which `tvm-tiny compile --json` prints",
        )
    if array.shape == shape:
        return array[None]
    if array.shape[1:] == shape or (shape[:1] == (1,) and array.shape[1:] == shape[1:]):
        return array.reshape(-1, *shape)
    wrong = f"{path}: input {tensor.name} has shape {shape}, the array {array.shape}"
    raise InputError(wrong, remedy=f"give {shape}, or samples of it along one more axis in front")
