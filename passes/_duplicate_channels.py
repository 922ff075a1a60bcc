# SPDX-License-Identifier: Apache-2.0
"""Channels that are the same function of the input as another one of their layer: which they are, and which may be merged.

Two channels are duplicates when the convolution that makes them has equal weights, biases and rescalings for both, and so has every
depthwise convolution they pass through. Their readers then see one value twice: one channel with the sum of both weights does the same, as
long as the sum is still an int8 other than -128 (which some kernels can't encode).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tvm_tiny.ops.graph import Node

_GREATEST = 127


def duplicates(makers: Iterable[Node], channels: Sequence[int]) -> list[list[int]]:
    """Groups of two and more of `channels` that every maker treats alike.

    Parameters
    ----------
    makers : iterable of Node
        Every operator with constants a channel among those that make or pass on the channels: convolution, fully connected, depthwise.
    """
    nodes = list(makers)
    found: dict[bytes, list[int]] = {}
    for channel in channels:
        key = b"".join(_constants_of(node, channel) for node in nodes)
        found.setdefault(key, []).append(channel)
    return [group for group in found.values() if len(group) > 1] if nodes else []


def _constants_of(node: Node, channel: int) -> bytes:
    weight = node.constant(1)
    own = weight[:, :, channel] if node.op == "depthwise_conv2d" else weight[channel]
    return own.tobytes() + b"".join(node.constant(i)[channel].tobytes() for i in (2, 3, 4))


def merge(groups: Sequence[Sequence[int]], weights: Sequence[np.ndarray]) -> dict[int, int]:
    """{channel: the one that takes its place}, as far as the weights of all readers, (…, channels), stay in range."""
    sums = [weight.astype(np.int64) for weight in weights]
    taken: dict[int, int] = {}
    for first, *others in groups:
        for channel in others:
            if all(np.abs(total[..., first] + total[..., channel]).max(initial=0) <= _GREATEST for total in sums):
                for total in sums:
                    total[..., first] += total[..., channel]
                taken[channel] = first
    return taken


def merged_weights(weight: np.ndarray, taken: Mapping[int, int]) -> np.ndarray:
    """The weights (…, channels) with those of every merged channel added to the one that takes its place."""
    total = weight.astype(np.int64)
    for channel, first in taken.items():
        total[..., first] += total[..., channel]
        total[..., channel] = 0
    return total.astype(weight.dtype)


def mergeable(makers: Iterable[Node], readers: Sequence[Node], kept: np.ndarray, mixing: Callable[[Node], bool]) -> dict[int, int]:
    """Which of the `kept` channels of a group go, for its makers and all operators outside the group that read it."""
    if not readers or not all(mixing(node) for node in readers):
        return {}
    return merge(duplicates(makers, [int(c) for c in kept]), [node.constant(1) for node in readers])
