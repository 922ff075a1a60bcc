# SPDX-License-Identifier: Apache-2.0
"""Train the demo network and write ``fashion_mnist_int8.tflite`` and ``samples.npz``.

A depthwise-separable CNN (A. Howard et al., "MobileNets", 2017, arXiv:1704.04861): a strided 3×3 convolution, four blocks of depthwise 3×3
and pointwise 1×1, global average pooling, a dense layer, softmax. Quantised after training to int8, weights per channel, int8 input and
output, by TensorFlow's own converter. About 1.7 M multiply-accumulates and 28,000 weights.

    pip install -r examples/fashion_mnist/requirements.txt
    python examples/fashion_mnist/train.py --seed 1

The same seed on the same machine and versions gives the same network. Training takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read by TensorFlow when it is imported

import dataset
import numpy as np
import tensorflow as tf
from evaluate import accuracy_int8
from tensorflow.lite.tools import flatbuffer_utils

keras = tf.keras

BATCH = 128
PEAK_LEARNING_RATE = 4e-3
CALIBRATION_IMAGES = 500
STEM_CHANNELS = 32
# Channels after, and stride of, each depthwise-separable block: 14×14×64, 7×7×64, 7×7×96, 7×7×128.
BLOCKS = ((64, 1), (64, 2), (96, 1), (128, 1))


class Augmented(keras.utils.PyDataset):
    """Shuffled batches, half of the images mirrored, each shifted by up to two pixels; a function of (seed, epoch, batch) alone."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
        super().__init__()
        self.images, self.labels, self.seed = images.astype(np.float32) / 255.0, labels.astype(np.int32), seed
        self.epoch = 0
        self.order = np.arange(len(labels))
        self.on_epoch_begin()

    def on_epoch_begin(self) -> None:
        """Draw this epoch's order."""
        self.order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.labels))

    def on_epoch_end(self) -> None:
        """Count the epochs: the next one has its own order and its own shifts."""
        self.epoch += 1

    def __len__(self) -> int:
        return len(self.labels) // BATCH

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        batch = self.images[chosen]
        mirrored = rng.random(BATCH) < 0.5
        batch[mirrored] = batch[mirrored, :, ::-1]
        padded = np.pad(batch, ((0, 0), (2, 2), (2, 2), (0, 0)))
        shifts = rng.integers(0, 5, (BATCH, 2))
        shifted = np.stack([p[y : y + 28, x : x + 28] for p, (y, x) in zip(padded, shifts, strict=True)])
        return shifted, self.labels[chosen]


def network(batch: int | None = None) -> keras.Model:
    """The float network: (N, 28, 28, 1) in [0, 1] to ten class probabilities; `batch` fixes N."""
    layers = keras.layers

    def bn_relu(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = inputs = keras.Input((28, 28, 1), batch, name="image")
    x = bn_relu(layers.Conv2D(STEM_CHANNELS, 3, 2, "same", use_bias=False)(x))
    for channels, stride in BLOCKS:
        x = bn_relu(layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(x))
        x = bn_relu(layers.Conv2D(channels, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(len(dataset.CLASSES), activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, x, name="fashion_mnist")


def train(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> keras.Model:
    """Train from scratch with AdamW under a cosine schedule."""
    batches = Augmented(images, labels, seed)
    model = network()
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, (epochs - 1) * len(batches), warmup_target=PEAK_LEARNING_RATE, warmup_steps=len(batches)
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-2)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(batches, epochs=epochs, shuffle=False, verbose=2)
    return model


def convert(model: keras.Model, calibration: np.ndarray) -> bytes:
    """Quantise to an int8 TFLite file with a fixed batch of one.

    `calibration` are uint8 images (N, 28, 28, 1); they reach both 0 and 255, so the input's scale is 1/255 and its zero point -128.
    """
    fixed = network(batch=1)
    fixed.set_weights(model.get_weights())
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None].astype(np.float32) / 255.0] for image in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def name_tensors(model: bytes) -> bytes:
    """Name the tensors after their layers: the converter joins the names of all it fused, and names the ends after its internals."""
    blocks = [f"block{n}/{part}" for n in range(1, len(BLOCKS) + 1) for part in ("depthwise", "pointwise")]
    layers = ("stem", *blocks, "pool", "logits", "probabilities")
    parsed = flatbuffer_utils.convert_bytearray_to_object(bytearray(model))
    (graph,) = parsed.subgraphs
    graph.tensors[graph.inputs[0]].name = b"image"
    for operator, layer in zip(graph.operators, layers, strict=True):
        for index, suffix in zip(operator.inputs[1:], ("/weights", "/bias"), strict=False):
            graph.tensors[index].name = f"{layer}{suffix}".encode()
        graph.tensors[operator.outputs[0]].name = layer.encode()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def main() -> None:
    """Train, quantise, write the files, print both accuracies."""
    args = _arguments()
    keras.utils.set_random_seed(args.seed)
    tf.config.experimental.enable_op_determinism()
    images, labels = dataset.load("train")
    test_images, test_labels = dataset.load("t10k")

    model = train(images, labels, args.epochs, args.seed)
    predicted = model.predict(test_images.astype(np.float32) / 255.0, batch_size=500, verbose=0).argmax(1)
    print(f"float: {np.mean(predicted == test_labels):.2%} of the {len(test_labels)} test images")

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / dataset.MODEL.name
    path.write_bytes(name_tensors(convert(model, images[:CALIBRATION_IMAGES])))
    chosen = dataset.choose_samples(test_labels)
    np.savez_compressed(args.out / dataset.SAMPLES.name, images=test_images[chosen], labels=test_labels[chosen])
    right = accuracy_int8(path, test_images, test_labels)
    print(f"int8 (tflite-micro): {right:.2%} of the {len(test_labels)} test images; {path} is {path.stat().st_size:,} bytes")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--out", type=Path, default=dataset.HERE, help="folder of the two files (default: beside this script)")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2: the learning rate rises in the first and falls in the others")
    return args


if __name__ == "__main__":
    main()
