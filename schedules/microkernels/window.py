# SPDX-License-Identifier: Apache-2.0
"""The geometry of a sliding window, shared by convolutions and depthwise convolutions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowShape:
    """Shape of a windowed layer over one image.

    Attributes
    ----------
    height, width, channels : int
        Input.
    outputs : int
        Output channels.
    kernel, stride, dilation : tuple of int
        Vertical, horizontal.
    padding : tuple of int
        Top, left, bottom, right.
    planar : bool
        The tensor whose layout is open lies in NCHW, else in NHWC; the subclass says which tensor that is.
    """

    height: int
    width: int
    channels: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    planar: bool = False

    @property
    def out_height(self) -> int:
        """Output rows."""
        return (self.height + self.padding[0] + self.padding[2] - (self.kernel[0] - 1) * self.dilation[0] - 1) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Output columns."""
        return (self.width + self.padding[1] + self.padding[3] - (self.kernel[1] - 1) * self.dilation[1] - 1) // self.stride[1] + 1
