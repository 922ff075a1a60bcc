# SPDX-License-Identifier: Apache-2.0
"""Generated kernels: from a layer to self-contained C with inline assembly, a packed parameter blob and an exact scratch size.

How a schedule rule goes from a layer to code
---------------------------------------------
1. Put the layer's constants into `LayerParameters` (weights OHWI for conv2d, (kh, kw, c) for depthwise, (n, k) for dense; bias, multiplier,
   shift, zero points, clamp, rounding) and its geometry into `Conv2DShape` (or the family's own shape).
2. Call the family's function: `conv2d(name, shape, layer, core)`, `dense(name, layer, core)`, `depthwise(name, shape, layer, core)`,
   `winograd(name, shape, layer, core)` (None where it doesn't apply). `core` is `Core.of(target.mcpu)`. A `BlockChoice` overrides what the
   defaults chose (this is the tuning space: block, operand form, unroll, tile); a block that doesn't fit the registers raises
   `RegisterPressureError`.
3. The `MicroKernel` has everything: `functions` (merge those of all kernels of a model with `merge([k.functions for k in kernels])` into
   one translation unit, or take `c_source` alone), `packed` (place it in flash at a multiple of four), `scratch_bytes` (exact; a
   multiple-of-eight address is always right), `reference` (numpy meaning), `choices` (for the report), `prototype`.
4. Call signature: `void name(const int8_t *in, int8_t *out, const void *packed, void *scratch)`, NHWC in and out, padding inside. With
   `row_form=True` also `void name_rows(const int8_t *const *rows, int8_t *out, int32_t begin, int32_t end, const void *packed, void
   *scratch)` for streaming and patches.

`name` must be unique in the image. Helpers are static and named after `name` and a digest of their description; what two layers share once
names are stripped (block functions depend on the sums' length, form and shift only) can be merged by content, as `tensorize` does. On
cores without the DSP extension, and on the host, the same source compiles to plain C of the same meaning over the same blob. Exactness is
not a matter of testing alone: the requantisation form of every layer is proven over all thresholds when it is packed
(`tvm_tiny.schedules.requantize_forms`), and operand forms are refused where they are not exact.
"""

from .add import AddLayer, add
from .c_source import CFunction, merge
from .conv2d import conv2d
from .conv2d_shape import Conv2DShape
from .dense import DenseChoice, dense, paired_dense
from .depthwise import DepthwiseChoice, DepthwiseShape, depthwise
from .gemm_layer import BlockChoice
from .layer import Core, LayerParameters, MicroKernel
from .mul import MulLayer, gate_mul
from .pool import MeanLayer, PoolShape, average_pool, max_pool, mean_pool
from .scheduler import RegisterPressureError
from .softmax import softmax
from .table import table_map
from .winograd import WinogradChoice, winograd

__all__ = [
    "AddLayer",
    "BlockChoice",
    "CFunction",
    "Conv2DShape",
    "Core",
    "DenseChoice",
    "DepthwiseChoice",
    "DepthwiseShape",
    "LayerParameters",
    "MeanLayer",
    "MicroKernel",
    "MulLayer",
    "PoolShape",
    "RegisterPressureError",
    "WinogradChoice",
    "add",
    "average_pool",
    "conv2d",
    "dense",
    "depthwise",
    "gate_mul",
    "max_pool",
    "mean_pool",
    "merge",
    "paired_dense",
    "softmax",
    "table_map",
    "winograd",
]
