# SPDX-License-Identifier: Apache-2.0
"""How much flash the code of kernels takes, estimated from its text, and the cycles that operators lose by sharing it.

The estimate is good to some per cent of a network and the same on every machine: no compiler is asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels import Core
from tvm_tiny.schedules.microkernels.depthwise_groups_choice import MOST_TAPS, row_groups
from tvm_tiny.schedules.microkernels.gemm_shared import LONGEST, MULTIPLE, UNROLL, multiple_of
from tvm_tiny.schedules.row_blocks import CACHE_BYTES, LINE_BYTES, LINE_CYCLES
from tvm_tiny.target import TinyTarget

# Fitted to arm-none-eabi-gcc 12.2 -O2 on the MLPerf Tiny and MCUNet networks.
_BYTES_PER_STATEMENT = 8.0
_LONG_STATEMENTS = {"depthwise_rows": 14.0, "gemm_rows": 14.0, "quantize": 24.0}
BYTES_PER_CALL, BYTES_OF_ENTRY = 34, 150
"""Bytes of a call by the entry with the function that is the layer, and of the entry itself."""
_BYTES_PER_KERNEL = 13  # a function of loops around one call
_BYTES_PER_BLOCK = 40  # a call of a block from a layer's loops
_LOOP_KERNEL = 110
_DRIVERS = {"gemm_driver": 436, "depthwise_strips": 410, "stream": 376, "depthwise_blank": 12}
"""Bytes of C functions that are the same in every network, by the stem of their names."""
_ASSEMBLY = re.compile(r'^\s*"([^".:]+)\\n"$', re.MULTILINE)
_LOW, _ANY = r"(?:r[0-7])", r"(?:r\d+|lr|sp)"
# What Thumb-2 encodes in two bytes without setting flags; everything else takes four.
_NARROW = re.compile(
    rf"(?:ldr|str) {_LOW}, \[{_LOW}(?:, #(?:\d\d?|1[01]\d|12[0-4]))?\]|(?:ldr|str) {_LOW}, \[sp, #\d{{1,3}}\]|b(?:ne|eq)? \d[bf]|bx lr"
    rf"|mov {_ANY}, {_ANY}|cmp {_ANY}, {_ANY}|subs {_LOW}, {_LOW}, #\d{{1,2}}|add ({_ANY}), \1, {_ANY}"
)
_TYPES = re.compile(r"#ifndef TINY_\w+\n.*?\n#endif\n", re.DOTALL)

HAS_SMALL_FORM = ("tiny.conv2d", "tiny.depthwise_conv2d", "tiny.dense")
"""Operators whose kernels can share their code."""


def lost_cycles(layer: Layer, rule: str, core: Core) -> float:
    """Estimated cycles a layer loses in the form its `small_code` and `short_code` ask for, against its own code; for ranking.

    Fitted to layers measured on the emulated cores: convolutions lose the padding of their sums and a little a block and a group of
    pixels, in the form for sums of any length also the loops; depthwise layers a little for each row and group of
    outputs, less in the form for rows of their width; convolutions by Winograd the algorithm.
    """
    if not layer.small_code:
        return 0.0
    if rule == "winograd":
        return (0.22 if core.dual_issue else 0.45) * layer.macs + _read_again(layer, core)
    if layer.op == "tiny.depthwise_conv2d":
        return _lost_depthwise(layer, core)
    if layer.op == "tiny.dense":
        return 0.4 * layer.macs
    terms, (_, height, width, outputs) = math.prod(layer.shapes[1][1:]), layer.shapes[-1]
    multiple = multiple_of(-(-terms // 4), fixed=bool(layer.short_code))
    groups = -(-terms // (4 * multiple)) * multiple
    triples = height * -(-width // 3) if layer.by_rows else -(-height * width // 3)
    padding = 24 * (groups - terms / 4) * (0.52 if core.dual_issue else 1.0)
    block = padding + (10 if core.dual_issue else 14)
    if groups <= LONGEST:  # own code of short sums has more pixels together
        block += 0.4 * max(0, terms - 20) if core.dual_issue else (1.0 if layer.by_rows else 0.6) * terms
    if not layer.short_code or groups > LONGEST:
        whole, pairs = divmod(groups, UNROLL)
        loops = (whole > 1) + (pairs > MULTIPLE)
        block += (5 * whole + 2.5 * pairs + 8 * loops + 10) if core.dual_issue else (7 * whole + 3.5 * pairs + 16)
    gathered = 0 if layer.shapes[1][1:3] == (1, 1) else 9 * terms if layer.shapes[0][3] % 4 else 2 * terms
    return triples * (50 + gathered + -(-outputs // 2) * block) + _read_again(layer, core)


def _lost_depthwise(layer: Layer, core: Core) -> float:
    """Cycles a depthwise layer loses in shared code: for each row of a channel, group of outputs, output too many, turn of a loop of kernel
    rows, and pixel that rows made one by one read."""
    (_, height, width, channels), (kh, kw, _) = layer.shapes[-1], layer.shapes[1]
    stride, dilation = tuple(layer.attrs["strides"]), tuple(layer.attrs.get("dilation", (1, 1)))
    made = row_groups(width, (kh, kw), stride, dilation, dual_issue=core.dual_issue, fixed=bool(layer.short_code))
    if made is None:  # it has code of its own in every form
        return 0.0
    over, sy, read = kh * kw * (made.outputs - width), stride[0], kh * layer.shapes[0][2] if layer.by_rows else 0
    turns = (18 if core.dual_issue and sy > 1 else 10) * made.groups * (kh // 2) * made.looped
    shifts = 0.0 if layer.short_code or kh * kw > MOST_TAPS else (0.6 if core.dual_issue else 1.1) * made.outputs
    if core.dual_issue:
        row = 15.5 * made.groups - 24 + 20 * sy + 0.55 * over + 0.3 * read
    else:
        row = 40 * made.groups - 35 + 25 * sy + 2.5 * over + 0.5 * read
    return (row + turns + shifts + (15 if layer.by_rows else 0)) * height * channels


def _read_again(layer: Layer, core: Core) -> float:
    """Cycles of waiting for weights of windows, which the shared form reads for every three pixels where the cache can't hold them."""
    nbytes, pixels = layer.constants[1].nbytes if 1 in layer.constants else 0, math.prod(layer.shapes[-1][1:3])
    if layer.shapes[1][1:3] == (1, 1) or not core.dual_issue or nbytes < CACHE_BYTES or layer.by_rows:
        return 0.0
    return pixels / 3 * nbytes / LINE_BYTES * LINE_CYCLES


def operator_entry(layer: Layer, functions: Iterable[str], constants: int, core: Core) -> dict[str, object]:
    """One operator of `tiny.operators` (see `schedules/base.py`)."""
    lost = lost_cycles(layer, "", core) if layer.op in HAS_SMALL_FORM else 0.0
    return {"op": layer.op, "lost": lost, "functions": sorted(set(functions)), "constants": constants}


@dataclass(frozen=True)
class OperatorCode:
    """What one operator of a scheduled function brings into flash: bytes by function, and bytes of constants.

    `unpacked` is what its constants would take in the plainest packing, `lost` the cycles it loses in this form against the fastest.
    """

    op: str
    lost: float
    functions: dict[str, int]
    constants: int
    unpacked: int
    rule: str = ""


def operators_of(
    func: tirx.PrimFunc, layer: Layer | None, target: TinyTarget, fastest: str = ""
) -> tuple[list[OperatorCode], dict[str, int], int]:
    """Operators of a scheduled function that have a form with less code; functions and constants of all that has none.

    Parameters
    ----------
    layer : Layer or None
        The layer before it was scheduled; None when it is no operator of the dialect.
    fastest : str
        The rule of its fastest form, by default this form's.
    """
    functions = function_bytes(func)
    packed = sum(int(math.prod(a.shape)) for a in func.attrs["tiny.packed"]) if "tiny.packed" in func.attrs else 0
    if layer is not None and "tiny.args" not in func.attrs:
        packed = sum(a.nbytes for a in layer.constants.values())
    if "tiny.operators" in func.attrs:
        entries = json.loads(str(func.attrs["tiny.operators"]))
        found = [
            OperatorCode(e["op"], float(e["lost"]), {f: functions[f] for f in e["functions"]}, int(e["constants"]), int(e["constants"]))
            for e in entries
        ]
        belonging = {f for operator in found for f in operator.functions}
        rest = {f: size for f, size in functions.items() if f not in belonging}
        return found, rest, packed - sum(operator.constants for operator in found)
    if layer is None or layer.op not in HAS_SMALL_FORM:
        return [], functions, packed
    rule = str(json.loads(str(func.attrs["tiny.kernel"]))["rule"])
    layer = replace(layer, small_code=frozenset(func.attrs["tiny.small_code"]), short_code=frozenset(func.attrs["tiny.short_code"]))
    lost = lost_cycles(layer, fastest or rule, Core.of(target.mcpu))
    unpacked = sum(layer.constants[i].size * (1 if i == 1 else 4) for i in (1, 2, 3, 4))
    return [OperatorCode(layer.op, lost, functions, packed, unpacked if rule == "winograd" else packed, rule)], {}, 0


def function_bytes(func: tirx.PrimFunc) -> dict[str, int]:
    """Estimated bytes of what a scheduled function needs: microkernels by name; under "" loops of its own."""
    sources = func.attrs.get("tiny.c_sources") if func.attrs is not None else None
    if sources is None:
        return {"": _LOOP_KERNEL}
    calls: list[tvm.ir.Call] = []
    structural_walk(func.body, [(tvm.ir.Call, lambda call: calls.append(call) if _is_extern(call) else None)])
    own = _BYTES_PER_KERNEL + _BYTES_PER_BLOCK * (len(calls) - 1 if len(calls) > 1 else 0)
    return {"": own} | {str(name): text_bytes(str(text), str(name)) for name, text in sources if str(name) != "preamble"}


def _is_extern(call: tvm.ir.Call) -> bool:
    return isinstance(call.op, tvm.ir.Op) and call.op.name == "tirx.call_extern"


def text_bytes(text: str, name: str = "") -> int:
    """Estimated bytes of one C function; `name` tells drivers whose size is known."""
    stem = name.removeprefix(PREFIX).rpartition("_")[0]
    if stem in _DRIVERS:
        return _DRIVERS[stem]
    instructions = _ASSEMBLY.findall(text)
    if instructions:
        return sum(2 if _NARROW.fullmatch(line) else 4 for line in instructions)
    return int(_TYPES.sub("", text).count(";") * _LONG_STATEMENTS.get(stem, _BYTES_PER_STATEMENT))
