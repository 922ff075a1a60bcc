# SPDX-License-Identifier: Apache-2.0
"""What kernels do, counted from geometry in terms that have a cost on every core: products in blocks and beside them, sums, bytes spread
into columns and planes, calls. `schedules/cycles.py` counts whole functions with them.

`COEFFICIENTS` says what a term costs. It is fitted to profiles of networks: `python -m benchmarks.curve FOLDER --fit`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median

from tvm_tiny.memory.rows import RowOp
from tvm_tiny.ops.residual import residual_of
from tvm_tiny.schedules.band_costs import band_of, bands_in_row, widened
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.conv2d import shape_of
from tvm_tiny.schedules.stream_costs import row_block, row_pixels

COEFFICIENTS = Path(__file__).with_name("cycles.json")
"""By core and term: cycles."""

Terms = Counter[str]
_GROUP = 4  # products a group
_TILE = 16  # products of a Winograd tile of 2x2 outputs, a channel
_SHARED = 16  # products to which shared code pads its sums
_SHARED_BLOCK = 3  # pixels together in shared code, at most
_ROW_OUTPUTS = 8  # of a depthwise layer's row, together


@lru_cache(maxsize=1)
def coefficients() -> dict[str, dict[str, float]]:
    """Cycles of every term, by core."""
    found: dict[str, dict[str, float]] = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    return found


def cycles_of(found: Mapping[str, float], core: str = "cortex-m7") -> float:
    """Cycles of all `found` on a core; products of a kind that was never profiled cost what products mostly do."""
    costs = coefficients()[core]
    mostly = _products(core)
    return sum(costs.get(name, mostly if "products" in name else 0.0) * count for name, count in found.items())


@lru_cache
def _products(core: str) -> float:
    return median([cost for name, cost in coefficients()[core].items() if "products" in name] or [1.0])


def conv2d_terms(layer: Layer, form: str, calls: Sequence[tuple[int, int]], block: int) -> Terms:
    """A convolution or a dense layer by blocks of pixels.

    Parameters
    ----------
    form : str
        Whose code, and how columns are widened.
    calls : sequence of (pixels, times)
        Calls of the kernel.
    block : int
        Pixels together.
    """
    weights = layer.shapes[1]
    outputs, k = weights[0], math.prod(weights[1:])
    code = form.split()[0]
    padded = -(-k // _SHARED) * _SHARED if form.startswith("shared") else -(-k // _GROUP) * _GROUP
    pointwise = len(weights) == 2 or tuple(weights[1:3]) == (1, 1)
    rounding = str(layer.attrs.get("rounding", ""))
    found: Terms = Counter()
    for pixels, times in calls:
        full, rest = pixels // block * block * times, pixels % block * times
        found[f"conv {form} products {block}"] += full * outputs * padded
        found[f"conv {code} sums {block} {rounding}"] += full * outputs
        found[f"conv {code} groups {block}"] += full // block
        found[f"conv {code} rest products"] += rest * outputs * padded
        found[f"conv {code} rest sums {rounding}"] += rest * outputs
        found[f"conv {'expand' if pointwise else 'gather'} {form}"] += (full + rest) * k
        found[f"conv {code} pixels"] += full + rest
        found["conv calls"] += times
        found["conv channels a call"] += times * outputs
        found.update(_sum_terms(layer, pixels * times * outputs, times, rows=form.endswith("rows")))
    return found


def _sum_terms(layer: Layer, elements: int, times: int, *, rows: bool) -> Terms:
    """The residual a convolution adds: as an addition beside it would."""
    return Counter({"add rows" if rows else "add add": elements, "add calls": times} if residual_of(layer.attrs) is not None else {})


def depthwise_terms(layer: Layer, form: str, calls: Sequence[tuple[int, int, int]], block: int, channels: int, spread: str) -> Terms:
    """A depthwise convolution; `calls` are (output rows, output columns, times), `block` the outputs together."""
    kh, kw, _ = layer.shapes[1]
    sy, sx = layer.attrs["strides"]
    dy, dx = layer.attrs.get("dilation", (1, 1))
    found: Terms = Counter()
    for height, width, times in calls:
        n = times * height * channels
        tall, wide = (height - 1) * sy + (kh - 1) * dy + 1, (width - 1) * sx + (kw - 1) * dx + 1
        full, rest = width // block, width % block
        found[f"depthwise {form} products"] += n * width * kh * kw
        found[f"depthwise {form} outputs {sx}"] += n * width
        found[f"depthwise {form} blocks"] += n * full
        found[f"depthwise {form} taps"] += n * (full + (1 if rest else 0)) * kh
        found[f"depthwise {form} rest"] += n * rest
        found[f"depthwise {form} rows"] += n
        found[f"depthwise spread {spread} {form}"] += times * tall * wide * channels
        found[f"depthwise spread rows {form}"] += times * tall * channels
        found["depthwise calls"] += times * channels
    return found


def elementwise_terms(layer: Layer, rule: str, elements: int, times: int = 1) -> Terms:
    """What has no products: by the larger of its results and its inputs."""
    op, inputs = layer.op.removeprefix("tiny."), math.prod(layer.shapes[0])
    work = max(elements, inputs if elements == math.prod(layer.shapes[-1]) else 0)
    kernel = layer.attrs.get("kernel")
    work = elements * math.prod(kernel) if kernel and math.prod(kernel) * elements > 2 * inputs else work
    return Counter({f"{op} {rule}".strip(): work, f"{op} calls": times})


def stream_terms(layer: Layer, width: int, firings: int, small: bool, core: str) -> Terms:
    """An operator inside a stream: `firings` rows of `width`, one at a time."""
    if layer.op != "tiny.conv2d" or not width:
        return row_terms(layer, [(1, width, firings)], small)
    if (found := _band_terms(layer, {1: firings}, core)) is not None and not small:
        return found
    outputs, k = layer.shapes[1][0], math.prod(layer.shapes[1][1:])
    most, by_words = _SHARED_BLOCK if small else _GROUP, layer.shapes[0][-1] % _GROUP == 0
    cut = row_block(width, k, outputs, by_words=by_words, dual_issue=core == "cortex-m7", most=most)
    form = f"{'shared' if small else 'own'} rows"
    found = conv2d_terms(layer, form, [(width - cut.tail, firings)], cut.pixels)
    if cut.tail:
        found.update(conv2d_terms(layer, form, [(cut.tail, firings)], cut.group))
    found["conv rows widened"] += (cut.runs - 1) * width * k * firings
    return found


def strip_terms(layer: Layer, width: int, calls: Mapping[int, int], most: int, small: bool, core: str, *, together: bool) -> Terms:
    """An operator in strips: `calls` are how often its kernel makes so many rows of `width`, at most `most`; its input rows lie `together`
    or do not."""
    if layer.op != "tiny.conv2d":
        return row_terms(layer, [(rows, width, times) for rows, times in calls.items()], small)
    if (found := _band_terms(layer, calls, core)) is not None and not small:
        return found
    outputs, k = layer.shapes[1][0], math.prod(layer.shapes[1][1:])
    by_words, limit = layer.shapes[0][-1] % _GROUP == 0, _SHARED_BLOCK if small else _GROUP
    cut = row_block(most * width, k, outputs, by_words=by_words, dual_issue=core == "cortex-m7", most=limit, even=False)
    run = together and by_words and tuple(layer.shapes[1][1:3]) == (1, 1) and tuple(layer.attrs["strides"]) == (1, 1)
    form = f"{'shared' if small else 'own'} {'r8' if run else 'rows'}"
    pixels = sum(rows * width * times for rows, times in calls.items())
    found = conv2d_terms(layer, form, [(cut.pixels, pixels // cut.pixels)], cut.pixels)
    found["conv calls"] += sum(calls.values()) - pixels // cut.pixels
    found["conv channels a call"] += (sum(calls.values()) - pixels // cut.pixels) * outputs
    rest = sum((rows * width % cut.pixels % (2 if cut.pairs else cut.pixels)) * times for rows, times in calls.items())
    found["strip rest products"] += rest * outputs * k
    found["conv rows widened"] += (cut.runs - 1) * pixels * k
    if cut.tile > 1:
        walks = sum(-(-rows * width // (cut.pixels * cut.tile)) * times for rows, times in calls.items())
        found["strip weights copied"] += walks * outputs * k
    return found


def _band_terms(layer: Layer, calls: Mapping[int, int], core: str) -> Terms | None:
    """A convolution whose rows are cut into bands; `calls` are how often its kernel makes so many rows. None where they are not."""
    shape = shape_of(layer)
    dual_issue = core == "cortex-m7"
    band = band_of(shape, dual_issue) if shape is not None else None
    if shape is None or band is None:
        return None
    rows = sum(n * times for n, times in calls.items())
    rest = shape.out_width % band.pixels
    found = conv2d_terms(layer, "own rows", [(shape.out_width - rest, rows)], band.pixels)
    if rest:
        found.update(conv2d_terms(layer, "own rows", [(rest, rows)], rest))
    found["conv calls"] = sum(calls.values())
    found["conv channels a call"] = shape.outputs * bands_in_row(shape, band) * rows
    found["conv gather own rows"] = band.runs * widened(shape, band) * rows
    if band.copied:
        found["strip weights copied"] = bands_in_row(shape, band) * shape.outputs * shape.k * rows
    return found


def row_terms(layer: Layer, calls: Sequence[tuple[int, int, int]], small: bool = False) -> Terms:
    """An operator on tiles; `calls` are (rows, columns, times)."""
    form = "shared" if small else "own"
    if layer.op == "tiny.conv2d":
        k = math.prod(layer.shapes[1][1:])
        found: Terms = Counter()
        for rows, width, times in calls:
            widest = max(r * w for r, w, _ in calls if w == width)
            block = min(row_pixels(widest, k, by_words=layer.shapes[0][-1] % _GROUP == 0), _SHARED_BLOCK if small else _GROUP)
            found.update(conv2d_terms(layer, f"{form} rows", [(rows * width, times)], block))
        return found
    if layer.op == "tiny.depthwise_conv2d":
        return depthwise_terms(layer, form, calls, _ROW_OUTPUTS, layer.shapes[-1][3], "rows")
    channels = layer.shapes[-1][-1]
    elements = sum(rows * width * times for rows, width, times in calls) * channels
    if layer.op in ("tiny.mean", "tiny.avg_pool2d") and layer.shapes[-1][1:3] in ((1, 1), ()):
        elements = math.prod(layer.shapes[0])
    return elementwise_terms(layer, "rows", elements, sum(times for _, _, times in calls))


def firing_terms(op: RowOp, firings: int) -> Terms:
    """What the driver of a stream does for an operator that fires so often."""
    return Counter({"stream firings": firings, "stream pointers": firings * _pointers(op, 1)})


def winograd_terms(layer: Layer, form: str = "") -> Terms:
    """A convolution in Winograd's form; `form` is " rows" for two rows at once."""
    _, height, width, outputs = layer.shapes[-1]
    tiles, channels = -(-height // 2) * -(-width // 2), layer.shapes[0][3]
    products = tiles * _TILE * channels * outputs
    found = {f"winograd{form} products": products, f"winograd{form} sums": tiles * outputs, f"winograd{form} inputs": tiles * channels}
    return Counter(found) + _sum_terms(layer, height * width * outputs, height if form else 1, rows=bool(form))


def call_terms(op: RowOp, calls: Mapping[tuple[int, int], int]) -> Terms:
    """What the driver of patches does for an operator: `calls` are how often its kernel computes (rows, columns)."""
    pointers = sum(n * _pointers(op, rows) for (rows, _), n in calls.items())
    return Counter({"patch calls": sum(calls.values()), "patch pointers": pointers})


def strip_call_terms(op: RowOp, calls: Mapping[int, int]) -> Terms:
    """What the driver of strips does for an operator: `calls` are how often its kernel makes so many rows."""
    pointers = sum(n * _pointers(op, rows) for rows, n in calls.items())
    return Counter({"strip calls": sum(calls.values()), "strip pointers": pointers})


def _pointers(op: RowOp, rows: int) -> int:
    elementwise = op.inputs[1:] if op.kind == "window" else op.inputs
    return rows * len(elementwise) + ((rows - 1) * op.rows.stride + op.rows.extent if op.kind == "window" else 0)
