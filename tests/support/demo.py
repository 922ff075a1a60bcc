# SPDX-License-Identifier: Apache-2.0
"""The demo network and its labelled samples, which the default tests use."""

from __future__ import annotations

import numpy as np

from tests.support.shared import ROOT

MODEL = ROOT / "examples" / "fashion_mnist" / "fashion_mnist_int8.tflite"
SAMPLES = MODEL.with_name("samples.npz")


def demo_samples(count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` samples as the network takes them, (N, 28, 28, 1) int8, and their labels (N,)."""
    with np.load(SAMPLES) as data:
        images, labels = data["images"][:count], data["labels"][:count]
    return (images.astype(np.int16) - 128).astype(np.int8), labels
