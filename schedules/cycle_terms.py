# SPDX-License-Identifier: Apache-2.0
"""What kernels do, counted from geometry in terms that have a cost on every core: groups of products in blocks, sums, words spread into
columns and planes, calls, lines of constants that the flash must give. `schedules/cycles.py` counts whole functions with them.

What a term costs is in `COEFFICIENTS`, fitted to profiles of random layers (`python -m benchmarks.cycle_fit`); a term that was never
profiled costs what its instructions do (`schedules/cycle_priors.py`), to which the fit is drawn as well.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tvm_tiny.ops.registry import Attrs
from tvm_tiny.ops.residual import residual_of
from tvm_tiny.schedules.add import described
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.cycle_columns import Blocks, column_terms
from tvm_tiny.schedules.cycle_priors import counted_cost
from tvm_tiny.schedules.microkernels.add import find_linear
from tvm_tiny.schedules.microkernels.channel_maxima import FEWEST
from tvm_tiny.schedules.microkernels.concat import COPIED
from tvm_tiny.schedules.microkernels.depthwise_block import MOST_UNROLLED
from tvm_tiny.schedules.microkernels.depthwise_groups_choice import RowGroups, row_groups
from tvm_tiny.schedules.microkernels.gemm_shared import LONGEST, MULTIPLE
from tvm_tiny.schedules.microkernels.gemm_shared import UNROLL as SHARED_UNROLL
from tvm_tiny.schedules.microkernels.pool_block import MOST_WORDS
from tvm_tiny.schedules.microkernels.resize import Map
from tvm_tiny.schedules.resize import shape_of as resize_shape

COEFFICIENTS = Path(__file__).with_name("cycles.json")
"""By core and term: cycles."""

Terms = Counter[str]
_GROUP = 4  # products a group
_TILE = 16  # products of a Winograd tile of 2x2 outputs, a channel
_CHOSEN = frozenset({"gather", "strided_slice"})  # operators that read no more than they write
_TAIL_UNROLL = 8  # groups an iteration of what is no main block, at most
CONSTANTS = 12
"""Bytes of a channel beside its weights."""
CACHES = {"cortex-m7": (16_384, 32), "cortex-m4": (512, 8)}
"""Bytes of the data cache before the flash, and of its lines (`tvm_tiny.profiler.board_terms`)."""
KEPT = 7 / 8
"""Of the cache, what constants find there again: columns and sums pass through it as well."""


@lru_cache(maxsize=1)
def coefficients() -> dict[str, dict[str, float]]:
    """Cycles of every term, by core."""
    found: dict[str, dict[str, float]] = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    return found


def cycles_of(found: Mapping[str, float], core: str = "cortex-m7") -> float:
    """Cycles of all `found` on a core."""
    costs = coefficients()[core]
    return sum((costs[name] if name in costs else counted_cost(name, core)) * count for name, count in found.items())


# -- convolutions and dense layers


def conv2d_terms(layer: Layer, blocks: Blocks, calls: Sequence[tuple[int, int]], core: str) -> Terms:
    """A convolution or a dense layer by blocks of pixels; `calls` are (pixels, times) of its kernel."""
    outputs, k = layer.shapes[1][0], math.prod(layer.shapes[1][1:])
    nbytes = outputs * (-(-k // _GROUP) * (8 if blocks.operand == "w16" else 4) + CONSTANTS)
    found: Terms = Counter()
    for pixels, times in calls:
        for count, width in blocks.cut(pixels):
            found.update(product_terms(blocks, outputs, k, count * times, width))
            found.update(column_terms(layer, replace(blocks, pixels=width), count, times))
        found["conv rows widened"] += (blocks.runs - 1) * pixels * -(-k // _GROUP) * times
        found[f"conv calls {blocks.code}"] += times
        copies = {"flash": 0, "layer": 1, "block": blocks.walks(pixels)}[blocks.weights] * times
        found["conv words copied"] += copies * nbytes // 4
        found["flash lines"] += lines(nbytes, copies or blocks.walks(pixels) * times, core)
        found.update(sum_terms(layer, pixels * times * outputs, times, rows=blocks.rows))
    return +found


def product_terms(blocks: Blocks, outputs: int, k: int, count: int, width: int) -> Terms:
    """Products and sums of `count` groups of `width` pixels, all channels."""
    groups, channels, code, found = -(-k // _GROUP), min(blocks.channels, outputs), blocks.code, Counter[str]()
    whole, tail = divmod(outputs, channels)
    if blocks.driven:
        whole, tail = -(-outputs // channels), 0
    looped = blocks.shared and not (blocks.fixed and groups <= LONGEST)
    groups += groups % MULTIPLE if looped else 0
    for together, walked in ((channels, whole), (tail, 1)):
        if not together or not walked or not count:
            continue
        kind = f"{together}x{width}"
        found[f"gemm {code} {blocks.operand} groups {kind}"] += count * walked * groups
        found[f"gemm {code} blocks {kind}"] += count * walked
        found[f"gemm sums {blocks.requantise}"] += count * walked * together * width
        found[f"gemm {code} walks"] += -(-count // blocks.tile) * (walked if blocks.tile > 1 else blocks.runs)
        unroll = blocks.unroll if (together, width) == (channels, blocks.pixels) else min(blocks.unroll, _TAIL_UNROLL)
        unroll = SHARED_UNROLL if blocks.shared else unroll
        if looped or (groups > unroll and not blocks.shared):
            found[f"gemm {code} iterations"] += count * walked * (groups // unroll)
            found[f"gemm {code} pairs"] += count * walked * (groups % unroll // MULTIPLE) if looped else 0
            found[f"gemm {code} long blocks"] += count * walked
    return found


def lines(nbytes: int, times: int, core: str) -> int:
    """Lines of constants that the flash gives when they are read so often from end to end."""
    cache, line = CACHES[core]
    return -(-nbytes // line) * (times if nbytes > KEPT * cache else min(times, 1))


def sum_terms(layer: Layer, elements: int, times: int, *, rows: bool) -> Terms:
    """The residual a convolution adds: as an addition beside it would."""
    added = residual_of(layer.attrs)
    if added is None:
        return Counter()
    return Counter({f"add {'rows' if rows else 'add'} {_sum_operand(added)}": elements, "add calls": times})


def _sum_operand(attrs: Attrs) -> str:
    """How an addition's kernel works, as it tells."""
    return "plain C" if find_linear(described(attrs)) is None else "linear"


def dense_terms(layer: Layer, blocks: Blocks, rows: int, core: str) -> Terms:
    """A dense layer by pair blocks: `rows` of inputs."""
    outputs, k = layer.shapes[1]
    name = f"dense {blocks.operand}"
    whole, tail = divmod(outputs, min(blocks.channels, outputs))
    return +Counter(
        {
            f"{name} products": rows * outputs * k,
            f"{name} blocks": rows * (whole + (1 if tail else 0)),
            f"{name} inputs": rows * k,
            f"{name} sums": rows * outputs,
            f"{name} calls": rows,
            "flash lines": lines(outputs * k, rows, core),
        }
    )


def winograd_terms(
    layer: Layer, form: str = "", tiles: int = 4, walks: int = 1, core: str = "cortex-m7", requantise: str = "single"
) -> Terms:
    """A convolution in Winograd's form.

    Parameters
    ----------
    form : str
        " rows" for two rows at once.
    tiles : int
        Together.
    walks : int
        How often the transformed weights are read.
    requantise : str
        As of `Blocks`.
    """
    _, height, width, outputs = layer.shapes[-1]
    channels = layer.shapes[0][3]
    count = (height // 2) * (width // 2) if not form else -(-height // 2) * (width // 2)
    found: Terms = Counter(
        {
            f"winograd products {tiles}": count * _TILE * channels * outputs,
            f"winograd sums {requantise}": count * outputs,
            f"winograd{form} inputs": count * channels,
            "winograd tiles": count,
            "winograd blocks": -(-count // tiles) * -(-outputs // 2),
            f"winograd{form} calls": -(-height // 2),
            "flash lines": lines(2 * _TILE * channels * outputs, walks, core),
        }
    )
    left = height * width - 4 * (height // 2) * (width // 2) if not form else height * (width % 2)
    found["winograd left products"] += left * 9 * channels * outputs
    return +found + sum_terms(layer, height * width * outputs, height if form else 1, rows=bool(form))


# -- depthwise convolutions


@dataclass(frozen=True)
class Planes:
    """How a depthwise convolution is cut.

    Attributes
    ----------
    form : str
        Whose code: "own", "shared" or "plain C".
    pixels : int
        Outputs of a row together, of code of its own.
    fixed, dual_issue : bool
        Of shared code: it serves rows of this width alone, and which core's it is.
    layout : str
        How the input lies.
    requantise : str
        As of `Blocks`.
    rows : bool
        Rows are found by pointers.
    """

    form: str = "own"
    pixels: int = 8
    fixed: bool = False
    dual_issue: bool = True
    layout: str = "NHWC"
    requantise: str = "single"
    rows: bool = False

    def row(self, layer: Layer, width: int) -> RowGroups:
        """How a row of `width` outputs is made."""
        if self.form == "shared":
            stride, dilation = tuple(layer.attrs["strides"]), tuple(layer.attrs.get("dilation", (1, 1)))
            found = row_groups(width, tuple(layer.shapes[1][:2]), stride, dilation, dual_issue=self.dual_issue, fixed=self.fixed)
            if found is not None:
                return found
        groups = -(-width // self.pixels)
        return RowGroups(groups, width, False)


def depthwise_terms(layer: Layer, planes: Planes, calls: Sequence[tuple[int, int, int]], channels: int) -> Terms:
    """A depthwise convolution; `calls` are (output rows, output columns, times), `channels` those of the input."""
    kh, kw, outputs = layer.shapes[1]
    sy, sx = layer.attrs["strides"]
    dy, dx = layer.attrs.get("dilation", (1, 1))
    if planes.form == "plain C":
        elements = sum(h * w * t for h, w, t in calls) * outputs
        return Counter({"depthwise plain products": elements * kh * kw, "depthwise plain outputs": elements})
    code, found = f"{planes.form}{'-rows' if planes.rows else ''}", Counter[str]()
    kind = "lines" if channels == 1 or planes.layout == "NCHW" else "single" if channels < 4 else "fours"
    fours, one_row = -(-channels // 4) if kind == "fours" else channels, code == "own-rows" and all(height == 1 for height, _, _ in calls)
    for height, width, times in calls:
        n = times * height * outputs
        tall, wide = (height - 1) * sy + (kh - 1) * dy + 1, (width - 1) * sx + (kw - 1) * dx + 1
        row = planes.row(layer, width)
        groups, made = row.groups, row.outputs
        found[f"depthwise {code} pairs {kw}/{sx}"] += n * made * kh * (kw // 2 + 1)
        found[f"depthwise {code} loads"] += n * kh * (made * sx + groups * (kw + 1)) // 2
        found[f"depthwise {code} taps"] += n * groups * kh * (kw + 1) // 2
        found[f"depthwise {code} outputs {planes.requantise}"] += n * made
        found[f"depthwise {code} groups"] += n * groups
        found[f"depthwise {code} looped groups"] += n * groups if planes.form == "own" and groups > MOST_UNROLLED else 0
        found[f"depthwise {code} turns"] += n * groups * (kh // 2) * row.looped
        found[f"depthwise {code} rows"] += 0 if one_row else n
        found[f"depthwise spread {kind} {code}"] += times * tall * wide * fours
        found[f"depthwise spread {kind} rows {code}"] += times * tall * fours
        found[f"depthwise {code} fours"] += times * fours
        found[f"depthwise {'one-row' if one_row else code} channels"] += times * outputs
        found[f"depthwise {code} calls"] += times
    return +found


def shares_planes(layer: Layer) -> bool:
    """Whether there is shared code for a depthwise layer, by its channels."""
    return layer.shapes[1][2] == layer.shapes[0][3] >= 4 and layer.is_nhwc


# -- the rest


def elementwise_terms(layer: Layer, rule: str, elements: int, times: int = 1) -> Terms:
    """What has no products: windows by what they read, the rest by the larger of its results and its inputs."""
    if layer.op == "tiny.fetch":  # the application writes int8 itself
        made = {"float32": {"quantize": elements}, "uint8": {"signed bytes": elements}}.get(layer.dtypes[0], {})
        return Counter({"fetch calls": times, **made})
    op, inputs = layer.op.removeprefix("tiny."), math.prod(layer.shapes[0])
    if op == "concat" and rule != "fallback":
        return _copies(layer, elements, times)
    if op in ("resize_nearest", "resize_bilinear") and rule != "fallback":
        return _resized(layer, elements, times)
    rule = f"{rule} {_sum_operand(layer.attrs)}" if (op, rule) == ("add", "rows") else rule
    window = math.prod(_window(layer))
    if window > 1 or "kernel" in layer.attrs:
        channels = layer.shapes[-1][-1]
        rule = "row maxima" if (op, rule) == ("max_pool2d", "rows") and channels >= FEWEST else rule
        pixels, (words, single) = elements // channels, divmod(channels, 4) if rule.startswith(("pool", "row maxima")) else (0, channels)
        chunks, tall = -(-words // MOST_WORDS), _window(layer)[0]
        return +Counter(
            {
                f"{op} {rule} windows": pixels,
                f"{op} {rule} chunks": pixels * chunks,
                f"{op} {rule} chunk rows": pixels * chunks * tall,
                f"{op} {rule} turns": pixels * chunks * window,
                f"{op} {rule} taps": pixels * words * window,
                f"{op} {rule} words": pixels * words,
                f"{op} {rule} single taps": pixels * single * window,
                f"{op} {rule} single": pixels * single,
                f"{op} calls": times,
            }
        )
    if op in _CHOSEN:
        inputs = 0
    work = max(elements, inputs if elements == math.prod(layer.shapes[-1]) else 0)
    return Counter({f"{op} {rule}".strip(): work, f"{op} calls": times})


def _copies(layer: Layer, elements: int, times: int) -> Terms:
    """Pieces of every input in turn."""
    sizes = [math.prod(shape[layer.attrs["axis"] :]) for shape in layer.shapes[:-1]]
    turns = elements // sum(sizes)
    pieces, words = (turns * sum(-(-size // each) for size in sizes) for each in (COPIED, 4))
    return Counter({"concat pieces": pieces, "concat words": words, "concat calls": times})


def _resized(layer: Layer, elements: int, times: int) -> Terms:
    """Pixels copied in pieces, or computed from four."""
    op, shape = layer.op.removeprefix("tiny."), resize_shape(layer)
    pixels = elements // shape.channels
    if isinstance(shape.columns, Map):
        pieces, words = (pixels * -(-shape.channels // each) for each in (COPIED, 4))
        uneven = 0 if shape.columns.times else pixels
        return +Counter({f"{op} pieces": pieces, f"{op} words": words, f"{op} uneven": uneven, f"{op} calls": times})
    fours, rest = divmod(shape.channels, 4) if shape.in_fours else (0, shape.channels)
    return +Counter({f"{op} pixels": pixels, f"{op} fours": pixels * fours, f"{op} single": pixels * rest, f"{op} calls": times})


def _window(layer: Layer) -> tuple[int, ...]:
    """The window of a pooling or a reduction; that of one element for whatever else has axes."""
    if "kernel" in layer.attrs:
        return tuple(layer.attrs["kernel"])
    if layer.op == "tiny.transpose":
        return (1,)
    return tuple(layer.shapes[0][axis] for axis in layer.attrs.get("axes", ())) or (1,)
