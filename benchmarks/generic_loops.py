# SPDX-License-Identifier: Apache-2.0
"""Convolutions as an interpreter's library has them: one C function for all layers, every extent read from memory at run time.

The first row of `benchmarks.ablation`: what generating code for each layer is measured against.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.conv2d import parameters_of as conv_parameters
from tvm_tiny.schedules.conv2d import shape_of as conv_shape
from tvm_tiny.schedules.depthwise import parameters_of as depthwise_parameters
from tvm_tiny.schedules.depthwise import shape_of as depthwise_shape
from tvm_tiny.schedules.microkernels import CFunction, LayerParameters, MicroKernel
from tvm_tiny.schedules.microkernels.layer import words
from tvm_tiny.schedules.tensorize import tensorized

_FIELDS = "height width channels outputs kernel_h kernel_w stride_h stride_w top left dilation_h dilation_w out_height out_width".split()
_VALUES = "x_zp y_zp low high depthwise".split()
NAME = f"{PREFIX}generic_convolution"
_READS = "".join(f"  const int32_t {name} = p[{i}];\n" for i, name in enumerate([*_FIELDS, *_VALUES]))
_SOURCE = f"""\
void {NAME}(const int8_t *in, int8_t *out, const void *packed, void *scratch);
void {NAME}(const int8_t *in, int8_t *out, const void *packed, void *scratch) {{
  const int32_t *p = packed;
{_READS}  const int32_t *bias = p + {len(_FIELDS) + len(_VALUES)}, *multiplier = bias + outputs, *shift = multiplier + outputs;
  const int8_t *weights = (const int8_t *)(shift + outputs);
  (void)scratch;
  for (int32_t y = 0; y < out_height; ++y) {{
    for (int32_t x = 0; x < out_width; ++x) {{
      for (int32_t o = 0; o < outputs; ++o) {{
        int32_t sum = bias[o];
        for (int32_t i = 0; i < kernel_h; ++i) {{
          for (int32_t j = 0; j < kernel_w; ++j) {{
            const int32_t row = y * stride_h - top + i * dilation_h, column = x * stride_w - left + j * dilation_w;
            if (row < 0 || row >= height || column < 0 || column >= width) continue;
            const int8_t *pixel = in + (row * width + column) * channels;
            const int8_t *tap = weights + (i * kernel_w + j) * outputs + o;
            if (depthwise != 0) {{
              sum += (pixel[o / (outputs / channels)] - x_zp) * *tap;
              continue;
            }}
            tap = weights + ((o * kernel_h + i) * kernel_w + j) * channels;
            for (int32_t c = 0; c < channels; ++c) sum += (pixel[c] - x_zp) * tap[c];
          }}
        }}
        const int32_t value = tiny_rescale(sum, multiplier[o], shift[o]) + y_zp;
        *out++ = (int8_t)tiny_clamp(value, low, high);
      }}
    }}
  }}
}}
"""


def generic_schedule(func: tirx.PrimFunc) -> Schedule | None:
    """The layer as a call of the generic function; None for what is no convolution of one image with gemmlowp's rounding."""
    layer = Layer.of(func)
    if layer is None or layer.op not in ("tiny.conv2d", "tiny.dense", "tiny.depthwise_conv2d"):
        return None
    depthwise = layer.op == "tiny.depthwise_conv2d"
    shape = depthwise_shape(layer) if depthwise else conv_shape(layer)
    if shape is None or layer.shapes[0][0] != 1 or not layer.is_nhwc or layer.attrs.get("rounding", "gemmlowp") != "gemmlowp":
        return None
    parameters = depthwise_parameters(layer) if depthwise else conv_parameters(layer, conv_shape(layer))  # type: ignore[arg-type]
    extents = [shape.height, shape.width, shape.channels, shape.outputs, *shape.kernel, *shape.stride, *shape.padding[:2], *shape.dilation]
    packed = _packed([*extents, shape.out_height, shape.out_width], parameters, depthwise)
    out = (1, shape.out_height, shape.out_width, shape.outputs)
    kernel = MicroKernel(NAME, (CFunction(NAME, _SOURCE),), packed, 0, layer.shapes[0], out, 0, lambda x: x)
    return tensorized(kernel, func, "generic")


def _packed(extents: list[int], p: LayerParameters, depthwise: bool) -> bytes:
    channels = p.bias.size
    each = [np.broadcast_to(v, (channels,)) for v in (p.bias, p.multiplier, p.shift)]
    head = np.array([*extents, p.x_zero_point, p.y_zero_point, *p.clamp, int(depthwise)])
    return b"".join(map(words, (head, *each))) + np.ascontiguousarray(p.weights, np.int8).tobytes()
