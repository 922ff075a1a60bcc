# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the int8 network under TensorFlow Lite Micro: on the 200 committed samples, and on the whole test set where it is installed.

python examples/fashion_mnist/evaluate.py
"""

from __future__ import annotations

from pathlib import Path

import dataset
import numpy as np
from tflite_micro import runtime

ARENA_BYTES = 1 << 18  # generous: the interpreter's own data are in it too


def classify(model: Path, images: np.ndarray) -> np.ndarray:
    """Run the reference interpreter on uint8 images (N, 28, 28, 1); returns its int8 outputs (N, 10)."""
    interpreter = runtime.Interpreter.from_file(str(model), arena_size=ARENA_BYTES)
    outputs = []
    for image in dataset.quantize(images):
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0].copy())
    return np.stack(outputs)


def accuracy_int8(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of `images` whose largest output is the label."""
    return float(np.mean(classify(model, images).argmax(1) == labels))


def main() -> None:
    """Print the accuracy on the samples, then on the test set."""
    images, labels = dataset.load_samples()
    print(f"{accuracy_int8(dataset.MODEL, images, labels):.2%} of the {len(labels)} committed samples")
    if dataset.dataset_dir().is_dir():
        images, labels = dataset.load("t10k")
        print(f"{accuracy_int8(dataset.MODEL, images, labels):.2%} of the {len(labels)} test images")


if __name__ == "__main__":
    main()
