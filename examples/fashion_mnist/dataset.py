# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST as Debian ships it, and the 200 labelled samples committed beside this file.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
arXiv:1708.07747 (MIT licence). Debian and Ubuntu: ``apt-get install dataset-fashion-mnist``.
"""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
MODEL = HERE / "fashion_mnist_int8.tflite"
SAMPLES = HERE / "samples.npz"
SAMPLES_A_CLASS = 20
CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

_UBYTE = 0x08  # element type in the magic number of the IDX format


def dataset_dir() -> Path:
    """Folder of the four ``*-ubyte.gz`` files; environment variable ``FASHION_MNIST`` overrides Debian's place."""
    return Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes.

    Returns
    -------
    np.ndarray
        uint8, of the shape written in the file.

    Raises
    ------
    ValueError
        The file is not IDX, not of unsigned bytes, or its length is not what its header says.
    """
    raw = gzip.decompress(path.read_bytes())
    zero, kind, ndim = struct.unpack_from(">HBB", raw)
    if zero != 0 or kind != _UBYTE:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes (magic {raw[:4].hex()})")
    shape = struct.unpack_from(f">{ndim}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28, 1) uint8 and labels (N,) uint8 of a split: ``train`` (60,000) or ``t10k`` (10,000, the test set)."""
    folder = dataset_dir()
    if not folder.is_dir():
        raise SystemExit(f"no Fashion-MNIST in {folder}: apt-get install dataset-fashion-mnist, or set FASHION_MNIST to its folder")
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    return images[..., None], read_idx(folder / f"{split}-labels-idx1-ubyte.gz")


def choose_samples(labels: np.ndarray, per_class: int = SAMPLES_A_CLASS) -> np.ndarray:
    """Indices of the first `per_class` images of each class, in the order of the data set: balanced, and chosen by no model."""
    firsts = [np.flatnonzero(labels == c)[:per_class] for c in range(len(CLASSES))]
    return np.sort(np.concatenate(firsts))


def load_samples() -> tuple[np.ndarray, np.ndarray]:
    """The committed samples: images (200, 28, 28, 1) uint8 and labels (200,) uint8."""
    with np.load(SAMPLES) as data:
        return data["images"], data["labels"]


def quantize(images: np.ndarray) -> np.ndarray:
    """Pixels 0…255 to the network's int8 input: scale 1/255, zero point -128, so ``pixel - 128`` exactly."""
    return (images.astype(np.int16) - 128).astype(np.int8)
