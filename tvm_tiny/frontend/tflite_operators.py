# SPDX-License-Identifier: Apache-2.0
"""The supported TFLite operators: for each its operands, its restrictions, and the check of attributes, quantisation and shapes.

`RULES` is also the table `tvm-tiny check` prints. Restrictions follow the int8 kernels of TensorFlow Lite Micro and the quantisation
specification (https://ai.google.dev/edge/litert/models/quantization_spec): what those refuse or leave undefined is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tvm_tiny.frontend.graph import Tensor
from tvm_tiny.frontend.problems import QUANTISE
from tvm_tiny.frontend.tflite_moves import MOVES
from tvm_tiny.frontend.tflite_rules import SAME, VALID, kernel_size, output_extent, transposed_padding, window
from tvm_tiny.frontend.tflite_site import AGAIN, SHARED, Rule, Site

MAX_GROUPS = 64  # each is a convolution of its own

# --- convolutions, fully connected ------------------------------------------------------------------------------------------------------


def _weights(site: Site, axis: int, x: Tensor | None = None) -> bool:
    x, weight = x or site.need(0), site.need(1)
    if weight.data is None:
        site.problem("weights must be constant, but are computed at run time", "export with constant weights", weight)
    elif x.dtype == "float32" and weight.dtype == "int8":
        site.problem("dynamic-range quantisation (float activations, int8 weights) is not supported", QUANTISE, weight)
    elif weight.dtype != x.dtype:
        site.problem(f"weights of dtype {weight.dtype} for {x.dtype} activations", "convert again with 8-bit weights", weight)
    elif weight.dtype == "int8" and weight.quant is None:
        site.problem("int8 weights without a scale", "convert again with full-integer quantisation", weight)
    elif weight.quant is not None and np.any(weight.quant.zero_point != 0):
        site.problem("weights with a zero point other than 0", "convert again with symmetric weights", weight)
    elif weight.quant is not None and weight.quant.per_channel and weight.quant.axis != axis:
        site.problem(f"weight scales along axis {weight.quant.axis}, but output channels lie along {axis}", AGAIN, weight)
    else:
        return True
    return False


def _bias(site: Site, channels: int, x: Tensor | None = None, position: int = 2) -> None:
    x, bias = x or site.need(0), site.arg(position)
    if bias is None:
        return
    want = "int32" if x.dtype == "int8" else "float32"
    if bias.data is None:
        site.problem("the bias must be constant, but is computed at run time", "export with a constant bias", bias)
    elif bias.dtype != want:
        site.problem(f"a bias of dtype {bias.dtype} (supported: {want})", "convert again with full-integer quantisation", bias)
    elif bias.quant is not None and np.any(bias.quant.zero_point != 0):
        site.problem("a bias with a zero point other than 0", AGAIN, bias)
    elif bias.data.size != channels:
        site.contradiction(f"the bias has {bias.data.size} elements for {channels} channels")


def _multiplier(site: Site, x: Tensor | None = None) -> None:
    """Input scale times weight scale over output scale must be a number a 32-bit multiplier and shift can hold."""
    x, weight, y = x or site.need(0), site.need(1), site.out
    if x.quant is None or weight.quant is None or y.quant is None:
        return
    ratio = np.float64(x.scale) * weight.quant.scale.astype(np.float64) / np.float64(y.scale)
    product = (np.float64(x.scale) * weight.quant.scale.astype(np.float64)).astype(np.float32)
    if not np.all(np.isfinite(product)) or np.any(product == 0) or np.any(ratio >= 2.0**30):
        site.contradiction(f"its scales give a multiplier of {ratio.max():.3g}")


def _spatial(site: Site, channels: int) -> None:
    """Window, stride and padding of convolutions and pools, and the output shape that follows."""
    op, x = site.op, site.need(0)
    kernel = kernel_size(site.graph, op)
    strides, extents = window(op, kernel)
    if op.options["padding"] not in (SAME, VALID):
        site.contradiction(f"padding code {op.options['padding']}")
        return
    if min(*strides, *kernel, op.options.get("dilation_h", 1), op.options.get("dilation_w", 1)) < 1:
        site.contradiction(f"stride {strides}, window {kernel} or dilation is not positive")
        return
    space = [output_extent(e, s, k, op.options["padding"]) for e, s, k in zip(x.shape[1:3], strides, extents, strict=True)]
    if min(space) < 1:
        site.contradiction(f"a window of {extents} does not fit into {list(x.shape[1:3])}")
        return
    site.expect_shape((x.shape[0], *space, channels))


def _conv2d(site: Site) -> None:
    site.activation()
    x, weight = site.need(0), site.need(1)
    if not _weights(site, 0):
        return
    if len(x.shape) != 4 or len(weight.shape) != 4 or min(weight.shape) < 1 or x.shape[3] % weight.shape[3]:
        site.contradiction(f"input {list(x.shape)} and weights {list(weight.shape)} do not fit")
        return
    groups = x.shape[3] // weight.shape[3]
    if weight.shape[0] % groups:
        site.contradiction(f"{weight.shape[0]} output channels in {groups} groups")
        return
    if groups > MAX_GROUPS:
        site.problem(f"{groups} groups are not supported (at most {MAX_GROUPS})", "use a depthwise convolution, or fewer groups", weight)
        return
    _bias(site, weight.shape[0])
    _multiplier(site)
    _spatial(site, weight.shape[0])


def _transposed_conv(site: Site) -> None:
    site.activation()
    x, weight = site.need(2), site.need(1)
    if site.constant(0, "the output's shape") is None or not _weights(site, 0, x):
        return
    fits = len(x.shape) == 4 == len(site.out.shape) and len(weight.shape) == 4 and min(weight.shape) >= 1
    if (
        not fits
        or x.shape[3] != weight.shape[3]
        or site.out.shape[3] != weight.shape[0]
        or min(site.op.options[k] for k in ("stride_h", "stride_w")) < 1
    ):
        site.contradiction(f"input {list(x.shape)}, weights {list(weight.shape)} and output {list(site.out.shape)} do not fit")
        return
    _bias(site, weight.shape[0], x, 3)
    _multiplier(site, x)
    before, expected = transposed_padding(site.graph, site.op)
    if expected != x.shape[1:3] or any(b >= k for b, k in zip(before, weight.shape[1:3], strict=True)):
        site.contradiction(f"an output of shape {list(site.out.shape)} comes from {list(expected)} pixels, not {list(x.shape[1:3])}")


def _depthwise(site: Site) -> None:
    site.activation()
    x, weight = site.need(0), site.need(1)
    if not _weights(site, 3):
        return
    fits = len(x.shape) == 4 and len(weight.shape) == 4 and min(weight.shape) >= 1 and weight.shape[0] == 1
    if not fits or weight.shape[3] != x.shape[3] * site.op.options["depth_multiplier"]:
        multiplier = site.op.options["depth_multiplier"]
        site.contradiction(f"input {list(x.shape)}, weights {list(weight.shape)} and depth multiplier {multiplier} do not fit")
        return
    _bias(site, weight.shape[3])
    _multiplier(site)
    _spatial(site, weight.shape[3])


def _fully_connected(site: Site) -> None:
    site.activation()
    x, weight, y = site.need(0), site.need(1), site.out
    if not _weights(site, 0):
        return
    if site.op.options["weights_format"] != 0:
        site.problem("shuffled weights are not supported", "convert with the default weights format", weight)
        return
    if len(weight.shape) != 2 or min(weight.shape) < 1 or math.prod(x.shape) % weight.shape[1]:
        site.contradiction(f"input {list(x.shape)} and weights {list(weight.shape)} do not fit")
        return
    units, depth = weight.shape
    _bias(site, units)
    _multiplier(site)
    rows = math.prod(x.shape) // depth
    if math.prod(y.shape) != rows * units or y.shape[-1] != units:
        site.contradiction(f"{y.name!r} has shape {list(y.shape)}, but [{rows}, {units}] follows from the operator")


# --- element by element -----------------------------------------------------------------------------------------------------------------


def _binary(site: Site) -> None:
    site.activation()
    _broadcast(site)


def _broadcast(site: Site) -> None:
    left, right = site.need(0), site.need(1)
    if max(len(left.shape), len(right.shape)) > 4:
        site.problem("more than four dimensions", "reshape to four dimensions", left, right)
        return
    try:
        site.expect_shape(np.broadcast_shapes(left.shape, right.shape))
    except ValueError:
        site.contradiction(f"shapes {list(left.shape)} and {list(right.shape)} do not broadcast")


def _same_shape(site: Site) -> None:
    site.expect_shape(site.need(0).shape)


def _relu_clamp(site: Site) -> None:
    _same_shape(site)
    # The reference kernel clamps in the input's numbers and leaves the output's scale unread.
    site.same_quantisation(site.need(0), site.out)


def _leaky_relu(site: Site) -> None:
    _same_shape(site)
    if not math.isfinite(site.op.options["alpha"]):
        site.contradiction(f"alpha is {site.op.options['alpha']}")


def _fixed_output(scale: float, zero_point: int) -> Callable[[Site], None]:
    def check(site: Site) -> None:
        _same_shape(site)
        y = site.out
        if y.quant is not None and (y.zero_point != zero_point or not math.isclose(y.scale, scale, rel_tol=1e-6)):
            reason = f"the output must have scale 1/{round(1 / scale)} and zero point {zero_point}, but has {y.scale} and {y.zero_point}"
            site.problem(reason, "convert again with a converter that follows the TFLite quantisation specification")

    return check


_unit_output = _fixed_output(1 / 256, -128)


def _softmax(site: Site) -> None:
    _unit_output(site)
    beta = site.op.options["beta"]
    if not (math.isfinite(beta) and beta > 0):
        site.contradiction(f"beta is {beta}")


def _quantize(site: Site) -> None:
    _same_shape(site)
    if site.out.dtype == "float32" or (site.out.dtype == "uint8" and site.need(0).dtype != "int8"):
        site.problem(f"{site.need(0).dtype} to {site.out.dtype} is not supported", "convert again with int8 quantisation")


def _dequantize(site: Site) -> None:
    _same_shape(site)
    if site.need(0).dtype == "float32" or site.out.dtype != "float32":
        site.problem(f"{site.need(0).dtype} to {site.out.dtype} is not supported (int8 to float32)", AGAIN)


# --- pools and reductions ---------------------------------------------------------------------------------------------------------------


def _pool(site: Site) -> None:
    site.activation()
    x = site.need(0)
    if len(x.shape) != 4:
        site.contradiction(f"input of shape {list(x.shape)}")
        return
    site.same_quantisation(x, site.out)
    _spatial(site, x.shape[3])


def _reduction(site: Site) -> None:
    site.reduced()


def _batch_matmul(site: Site) -> None:
    left, right = site.need(0), site.need(1)
    a, b = ([*t.shape] for t in (left, right))
    if min(len(a), len(b)) < 2 or max(len(a), len(b)) > 5:
        site.problem(f"operands of {len(a)} and {len(b)} dimensions (two to five)", "reshape them", left, right)
        return
    for shape, turned in ((a, site.op.options["adj_x"]), (b, site.op.options["adj_y"])):
        shape[-2:] = shape[:-3:-1] if turned else shape[-2:]
    try:
        outer = np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2]))
    except ValueError:
        outer = None
    if a[-1] != b[-2] or outer is None:
        site.contradiction(f"operands {list(left.shape)} and {list(right.shape)} do not fit")
        return
    site.expect_shape((*outer, a[-2], b[-1]))


def _in_float(site: Site) -> None:
    _same_shape(site)
    if site.out.quant is not None:
        site.problem("of int8 it has no reference", "keep it in float32 between DEQUANTIZE and QUANTIZE: it becomes a table all the same")


def _prelu(site: Site) -> None:
    x, slope = site.need(0), site.need(1)
    site.expect_shape(x.shape)
    if slope.data is None:
        site.problem("the slope must be constant, but is computed at run time", "export with constant slopes", slope)
    elif len(slope.shape) > len(x.shape) or len(x.shape) > 4 or np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        site.contradiction(f"slopes of shape {list(slope.shape)} for an input of shape {list(x.shape)}")


def _divide(site: Site) -> None:
    _binary(site)
    if site.out.quant is not None:
        site.problem("int8 division is not supported", "multiply by the reciprocal, or divide in float32")


_AXES = "constant axes; at least one dimension stays"
_CLAMPS = "fused RELU, RELU6, RELU_N1_TO_1"
_CONSTANT = "constant weights and bias (int32), zero point 0, per tensor or per output channel"

RULES: dict[str, Rule] = {
    "ADD": Rule(_binary, (2, 2), (0, 1), notes=f"broadcasting up to four dimensions; {_CLAMPS}"),
    "ABS": Rule(_same_shape, (1, 1)),
    "AVERAGE_POOL_2D": Rule(_pool, (1, 1), notes=f"{SHARED}; {_CLAMPS}"),
    "BATCH_MATMUL": Rule(_batch_matmul, (2, 2), (0, 1), notes="two to five dimensions, broadcasting; either operand transposed"),
    **{kind: Rule(_in_float, (1, 1), notes="float32 only") for kind in ("CEIL", "COS", "FLOOR", "NEG", "SIN", "SQRT", "SQUARE")},
    "CONV_2D": Rule(_conv2d, (2, 3), notes=f"{_CONSTANT}; at most 64 groups; {_CLAMPS}"),
    "DEPTHWISE_CONV_2D": Rule(_depthwise, (2, 3), notes=f"{_CONSTANT}; any depth multiplier; {_CLAMPS}"),
    "DEQUANTIZE": Rule(_dequantize, (1, 1), mixed=True, notes="int8 or uint8 to float32"),
    "DIV": Rule(_divide, (2, 2), (0, 1), notes="float32 only; broadcasting up to four dimensions"),
    "ELU": Rule(_same_shape, (1, 1)),
    "EXP": Rule(_same_shape, (1, 1), notes="int8 by TensorFlow Lite's table, which TensorFlow Lite Micro lacks"),
    "FULLY_CONNECTED": Rule(_fully_connected, (2, 3), notes=f"{_CONSTANT}; input of any rank; {_CLAMPS}"),
    "HARD_SWISH": Rule(_same_shape, (1, 1)),
    "LEAKY_RELU": Rule(_leaky_relu, (1, 1)),
    "LOG": Rule(_same_shape, (1, 1), notes="int8 by TensorFlow Lite's table, which TensorFlow Lite Micro lacks"),
    "LOGISTIC": Rule(_unit_output, (1, 1), notes="output scale 1/256, zero point -128"),
    "MAX_POOL_2D": Rule(_pool, (1, 1), notes=f"{SHARED}; {_CLAMPS}"),
    "MEAN": Rule(_reduction, (2, 2), notes=_AXES),
    "MUL": Rule(_binary, (2, 2), (0, 1), notes=f"broadcasting up to four dimensions; {_CLAMPS}"),
    "PRELU": Rule(_prelu, (2, 2), (0, 1), notes="constant slopes, broadcasting up to four dimensions"),
    "QUANTIZE": Rule(_quantize, (1, 1), mixed=True, notes="float32, int8 or uint8 to int8; int8 to uint8"),
    "RELU": Rule(_same_shape, (1, 1)),
    "RELU6": Rule(_relu_clamp, (1, 1), notes=SHARED),
    "RELU_N1_TO_1": Rule(_relu_clamp, (1, 1), notes=SHARED),
    "RSQRT": Rule(_same_shape, (1, 1), notes="numbers below zero count as zero, where the reference fails"),
    "SOFTMAX": Rule(_softmax, (1, 1), notes="along the last axis; output scale 1/256, zero point -128"),
    "SQUARED_DIFFERENCE": Rule(_broadcast, (2, 2), (0, 1), notes="broadcasting up to four dimensions"),
    "SUB": Rule(_binary, (2, 2), (0, 1), notes=f"broadcasting up to four dimensions; {_CLAMPS}"),
    "SUM": Rule(_reduction, (2, 2), notes=_AXES),
    "TANH": Rule(_fixed_output(1 / 128, 0), (1, 1), notes="output scale 1/128, zero point 0"),
    "TRANSPOSE_CONV": Rule(_transposed_conv, (3, 4), (2,), notes=f"{_CONSTANT}; constant shape; {_CLAMPS}"),
    **MOVES,
}
