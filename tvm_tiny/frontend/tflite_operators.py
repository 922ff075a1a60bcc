# SPDX-License-Identifier: Apache-2.0
"""The supported TFLite operators: for each its operands, its restrictions, and the check of attributes, quantisation and shapes.

`RULES` is also the table `tvm-tiny check` prints. Restrictions follow the int8 kernels of TensorFlow Lite Micro and the quantisation
specification (https://ai.google.dev/edge/litert/models/quantization_spec): what those refuse or leave undefined is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_tiny.errors import Problem
from tvm_tiny.frontend.graph import Graph, Operator, Tensor
from tvm_tiny.frontend.problems import QUANTISE, Report
from tvm_tiny.frontend.tflite_rules import ACTIVATIONS, SAME, VALID, kernel_size, output_extent, slice_bounds, window

_AGAIN = "convert the model again"


@dataclass(frozen=True)
class Site:
    """One operator under check, and where findings go."""

    graph: Graph
    op: Operator
    report: Report

    def arg(self, position: int) -> Tensor | None:
        """The operand at `position`, None when absent."""
        return self.graph.arg(self.op, position)

    def need(self, position: int) -> Tensor:
        """An input whose presence the operand check has established."""
        return self.graph.need(self.op, position)

    @property
    def out(self) -> Tensor:
        """The first output."""
        return self.graph.out(self.op)

    def tensors(self) -> list[Tensor]:
        """Every operand and output."""
        return [self.graph.tensors[i] for i in (*self.op.inputs, *self.op.outputs) if i >= 0]

    def problem(self, reason: str, remedy: str = "", *tensors: Tensor) -> None:
        """Something unsupported, about `tensors` (the outputs when none are given)."""
        shown = tensors or tuple(self.graph.tensors[i] for i in self.op.outputs)
        name = f"operator {self.op.index} {self.op.kind}"
        self.report.problems.append(Problem(name, tuple(t.name for t in shown), reason, remedy))

    def contradiction(self, text: str) -> None:
        """Something no sound model says."""
        self.report.contradictions.append(f"operator {self.op.index} {self.op.kind}: {text}")

    def expect_shape(self, shape: Sequence[int], tensor: Tensor | None = None) -> None:
        """The output (or `tensor`) must have `shape`."""
        tensor = tensor or self.out
        if tuple(shape) != tensor.shape:
            self.contradiction(f"{tensor.name!r} has shape {list(tensor.shape)}, but {list(shape)} follows from the operator")

    def constant(self, position: int, what: str, dtype: str = "int32") -> np.ndarray | None:
        """The data of a constant operand, or None after reporting why there is none."""
        tensor = self.need(position)
        if tensor.data is None:
            self.problem(f"{what} must be constant, but is computed at run time", "export with constant attributes", tensor)
        elif tensor.dtype != dtype:
            self.problem(f"{what} must be {dtype}, but is {tensor.dtype}", _AGAIN, tensor)
        else:
            return tensor.data
        return None

    def same_quantisation(self, *tensors: Tensor) -> None:
        """Data movement keeps the integers, so every operand must mean the same by them."""
        first = tensors[0]
        for other in tensors[1:]:
            if first.quant is None or other.quant is None:
                continue
            if first.zero_point != other.zero_point or not math.isclose(first.scale, other.scale, rel_tol=1e-6):
                here, there = ((t.scale, t.zero_point) for t in (first, other))
                reason = f"operands must share scale and zero point, but have {here} and {there}"
                self.problem(reason, "convert again with a converter that follows the TFLite quantisation specification", first, other)

    def activation(self, *, none: bool = False) -> None:
        """The fused activation must be one with a clamp (or none at all)."""
        code = self.op.options["activation"]
        if code not in ACTIVATIONS:
            self.contradiction(f"fused activation code {code}")
        elif code > (0 if none else 3):
            self.problem(f"fused activation {ACTIVATIONS[code]} is not supported here", "put the activation into an operator of its own")


@dataclass(frozen=True)
class Rule:
    """What is supported of one operator.

    inputs : fewest and most operands;  data : positions of operands that carry activations;  outputs : their number, 0 = any above none;
    mixed : input and output may differ in dtype, and be uint8;  notes : the restrictions, for people.
    """

    check: Callable[[Site], None]
    inputs: tuple[int, int]
    data: Sequence[int] = (0,)
    outputs: int = 1
    mixed: bool = False
    notes: str = ""


# --- convolutions, fully connected ------------------------------------------------------------------------------------------------------


def _weights(site: Site, axis: int) -> bool:
    x, weight = site.need(0), site.need(1)
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
        site.problem(f"weight scales along axis {weight.quant.axis}, but output channels lie along {axis}", _AGAIN, weight)
    else:
        return True
    return False


def _bias(site: Site, channels: int) -> None:
    x, bias = site.need(0), site.arg(2)
    if bias is None:
        return
    want = "int32" if x.dtype == "int8" else "float32"
    if bias.data is None:
        site.problem("the bias must be constant, but is computed at run time", "export with a constant bias", bias)
    elif bias.dtype != want:
        site.problem(f"a bias of dtype {bias.dtype} (supported: {want})", "convert again with full-integer quantisation", bias)
    elif bias.quant is not None and np.any(bias.quant.zero_point != 0):
        site.problem("a bias with a zero point other than 0", _AGAIN, bias)
    elif bias.data.size != channels:
        site.contradiction(f"the bias has {bias.data.size} elements for {channels} channels")


def _multiplier(site: Site) -> None:
    """Input scale times weight scale over output scale must be a number a 32-bit multiplier and shift can hold."""
    x, weight, y = site.need(0), site.need(1), site.out
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
    if x.shape[3] != weight.shape[3]:
        groups = x.shape[3] // weight.shape[3]
        site.problem(f"grouped convolution ({groups} groups) is not supported", "use a depthwise or one convolution a group", weight)
        return
    _bias(site, weight.shape[0])
    _multiplier(site)
    _spatial(site, weight.shape[0])


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
        site.problem(f"{site.need(0).dtype} to {site.out.dtype} is not supported (int8 to float32)", _AGAIN)


# --- pools and reductions ---------------------------------------------------------------------------------------------------------------


def _pool(site: Site) -> None:
    site.activation()
    x = site.need(0)
    if len(x.shape) != 4:
        site.contradiction(f"input of shape {list(x.shape)}")
        return
    site.same_quantisation(x, site.out)
    _spatial(site, x.shape[3])


def _axes(site: Site, axes: np.ndarray, rank: int) -> list[int] | None:
    values = [int(a) for a in axes.ravel()]
    if any(not -rank <= a < rank for a in values):
        site.contradiction(f"axes {values} of {rank} dimensions")
        return None
    return sorted({a % rank for a in values})


def _mean(site: Site) -> None:
    x = site.need(0)
    data = site.constant(1, "the axes")
    axes = None if data is None else _axes(site, data, len(x.shape))
    if axes is None:
        return
    keep = site.op.options["keep_dims"]
    shape = [1 if i in axes else e for i, e in enumerate(x.shape) if keep or i not in axes]
    if not axes or not shape:
        site.problem(f"reducing {list(x.shape)} along {axes} to {shape} is not supported", "keep at least one dimension")
        return
    site.expect_shape(shape)


# --- data movement ----------------------------------------------------------------------------------------------------------------------


def _reshape(site: Site) -> None:
    x, y, shape = site.need(0), site.out, site.arg(1)
    site.same_quantisation(x, y)
    if shape is not None and shape.data is None:
        site.problem("the new shape must be constant, but is computed at run time", "convert with a fixed input shape", shape)
    if math.prod(x.shape) != math.prod(y.shape) or not y.shape:
        site.contradiction(f"{list(x.shape)} can't become {list(y.shape)}")


def _pad(site: Site) -> None:
    x, y = site.need(0), site.out
    site.same_quantisation(x, y)
    widths = site.constant(1, "the padding")
    if widths is None:
        return
    if widths.shape != (len(x.shape), 2) or np.any(widths < 0):
        site.contradiction(f"padding {widths.tolist()} of an input of shape {list(x.shape)}")
        return
    value = site.arg(2)
    if value is not None:
        data = site.constant(2, "the padding value", x.dtype)
        site.same_quantisation(x, value)
        if data is not None and data.size != 1:
            site.contradiction(f"{data.size} padding values")
    site.expect_shape([int(e + a + b) for e, (a, b) in zip(x.shape, widths.tolist(), strict=True)])


def _transpose(site: Site) -> None:
    x = site.need(0)
    site.same_quantisation(x, site.out)
    axes = site.constant(1, "the permutation")
    if axes is None:
        return
    order = [int(a) for a in axes.ravel()]
    if sorted(order) != list(range(len(x.shape))):
        site.contradiction(f"permutation {order} of an input of shape {list(x.shape)}")
        return
    site.expect_shape([x.shape[a] for a in order])


def _concatenation(site: Site) -> None:
    site.activation(none=True)
    parts = [site.need(i) for i in range(len(site.op.inputs))]
    site.same_quantisation(site.out, *parts)
    rank, axis = len(site.out.shape), site.op.options["axis"]
    if not -rank <= axis < rank or any(len(p.shape) != rank for p in parts):
        site.contradiction(f"axis {axis} of {[list(p.shape) for p in parts]}")
        return
    axis %= rank
    shape = [*parts[0].shape]
    shape[axis] = sum(p.shape[axis] for p in parts)
    site.expect_shape(shape)
    for part in parts[1:]:
        site.expect_shape([*parts[0].shape[:axis], part.shape[axis], *parts[0].shape[axis + 1 :]], part)


def _resize(site: Site) -> None:
    x, options = site.need(0), site.op.options
    site.same_quantisation(x, site.out)
    size = site.constant(1, "the size")
    if options["align_corners"] and options["half_pixel_centers"]:
        site.problem("align_corners together with half_pixel_centers", "choose one of the two")
    if size is None:
        return
    if len(x.shape) != 4 or size.size != 2 or np.any(size < 1):
        site.contradiction(f"size {size.tolist()} for an input of shape {list(x.shape)}")
        return
    site.expect_shape((x.shape[0], *(int(s) for s in size.ravel()), x.shape[3]))


def _strided_slice(site: Site) -> None:
    x, options = site.need(0), site.op.options
    site.same_quantisation(x, site.out)
    vectors = [site.constant(i, what) for i, what in ((1, "begin"), (2, "end"), (3, "strides"))]
    if any(v is None for v in vectors):
        return
    begin, end, strides = (v.ravel() for v in vectors if v is not None)
    if not begin.size == end.size == strides.size <= len(x.shape) or np.any(strides == 0):
        site.contradiction(f"begin {begin.tolist()}, end {end.tolist()}, strides {strides.tolist()} of {len(x.shape)} dimensions")
        return
    if np.any(strides < 0) or options["ellipsis_mask"] or options["new_axis_mask"] or options["offset"]:
        site.problem("negative strides, ellipsis, new axis and offset are not supported", "write the slice with plain begin and end")
        return
    _slice_shape(site)


def _slice_shape(site: Site) -> None:
    shrink = site.op.options["shrink_axis_mask"]
    extents = [-(-(e - b) // s) for b, e, s in zip(*slice_bounds(site.graph, site.op), strict=True)]
    if min(extents) < 1 or any(b >= e for b, e in zip(slice_bounds(site.graph, site.op)[0], site.need(0).shape, strict=True)):
        site.contradiction(f"the slice takes {extents} elements")
        return
    site.expect_shape([e for axis, e in enumerate(extents) if not shrink >> axis & 1])


def _split(site: Site) -> None:
    x = site.need(1)
    parts = [site.graph.tensors[i] for i in site.op.outputs]
    site.same_quantisation(x, *parts)
    data = site.constant(0, "the axis")
    if data is None:
        return
    axes = _axes(site, data, len(x.shape))
    if axes is None:
        return
    if len(axes) != 1 or site.op.options["num_splits"] != len(parts) or x.shape[axes[0]] % len(parts):
        site.contradiction(f"{list(x.shape)} into {len(parts)} parts (num_splits {site.op.options['num_splits']}) along {axes}")
        return
    for part in parts:
        site.expect_shape([e // len(parts) if i == axes[0] else e for i, e in enumerate(x.shape)], part)


_SHARED = "input and output share scale and zero point"
_CLAMPS = "fused RELU, RELU6, RELU_N1_TO_1"
_CONSTANT = "constant weights and bias (int32), zero point 0, per tensor or per output channel"

RULES: dict[str, Rule] = {
    "ADD": Rule(_binary, (2, 2), (0, 1), notes=f"broadcasting up to four dimensions; {_CLAMPS}"),
    "AVERAGE_POOL_2D": Rule(_pool, (1, 1), notes=f"{_SHARED}; {_CLAMPS}"),
    "CONCATENATION": Rule(_concatenation, (1, 64), range(64), notes=f"{_SHARED}; no fused activation"),
    "CONV_2D": Rule(_conv2d, (2, 3), notes=f"{_CONSTANT}; no groups; {_CLAMPS}"),
    "DEPTHWISE_CONV_2D": Rule(_depthwise, (2, 3), notes=f"{_CONSTANT}; any depth multiplier; {_CLAMPS}"),
    "DEQUANTIZE": Rule(_dequantize, (1, 1), mixed=True, notes="int8 or uint8 to float32"),
    "EXPAND_DIMS": Rule(_reshape, (2, 2), notes=_SHARED),
    "FULLY_CONNECTED": Rule(_fully_connected, (2, 3), notes=f"{_CONSTANT}; input of any rank; {_CLAMPS}"),
    "HARD_SWISH": Rule(_same_shape, (1, 1)),
    "LEAKY_RELU": Rule(_leaky_relu, (1, 1)),
    "LOGISTIC": Rule(_unit_output, (1, 1), notes="output scale 1/256, zero point -128"),
    "MAX_POOL_2D": Rule(_pool, (1, 1), notes=f"{_SHARED}; {_CLAMPS}"),
    "MEAN": Rule(_mean, (2, 2), notes="constant axes; at least one dimension stays"),
    "MUL": Rule(_binary, (2, 2), (0, 1), notes=f"broadcasting up to four dimensions; {_CLAMPS}"),
    "PAD": Rule(_pad, (2, 2), notes=f"constant padding; {_SHARED}"),
    "PADV2": Rule(_pad, (3, 3), notes=f"constant padding and value; {_SHARED}"),
    "QUANTIZE": Rule(_quantize, (1, 1), mixed=True, notes="float32, int8 or uint8 to int8; int8 to uint8"),
    "RELU": Rule(_same_shape, (1, 1)),
    "RELU6": Rule(_relu_clamp, (1, 1), notes=_SHARED),
    "RELU_N1_TO_1": Rule(_relu_clamp, (1, 1), notes=_SHARED),
    "RESHAPE": Rule(_reshape, (1, 2), notes=f"constant shape; {_SHARED}"),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_resize, (2, 2), notes=f"constant size; align_corners or half_pixel_centers; {_SHARED}"),
    "SOFTMAX": Rule(_softmax, (1, 1), notes="along the last axis; output scale 1/256, zero point -128"),
    "SPLIT": Rule(_split, (2, 2), (1,), outputs=0, notes=f"constant axis, equal parts; {_SHARED}"),
    "SQUEEZE": Rule(_reshape, (1, 1), notes=_SHARED),
    "STRIDED_SLICE": Rule(_strided_slice, (4, 4), notes=f"constant bounds, positive strides, no ellipsis or new axis; {_SHARED}"),
    "SUB": Rule(_binary, (2, 2), (0, 1), notes=f"broadcasting up to four dimensions; {_CLAMPS}"),
    "TANH": Rule(_fixed_output(1 / 128, 0), (1, 1), notes="output scale 1/128, zero point 0"),
    "TRANSPOSE": Rule(_transpose, (2, 2), notes=f"constant permutation; {_SHARED}"),
}
