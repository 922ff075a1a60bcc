# SPDX-License-Identifier: Apache-2.0
"""How much flash the code of kernels takes, estimated from its text, and which layers give up speed for less of it.

The estimate is good to some per cent of a network and the same on every machine: no compiler is asked.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm_ffi import structural_walk

from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.microkernels.gemm_shared import UNROLL

# Fitted to arm-none-eabi-gcc 12.2 -O2 on the MLPerf Tiny networks.
_BYTES_PER_STATEMENT = 10.0
_BYTES_PER_CALL = 36  # a layer's function and its call by the entry
_BYTES_PER_BLOCK = 40  # a call of a block from a layer's loops
_LOOP_KERNEL = 150
_ASSEMBLY = re.compile(r'^\s*"([^".:]+)\\n"$', re.MULTILINE)
_LOW, _ANY = r"(?:r[0-7])", r"(?:r\d+|lr|sp)"
# What Thumb-2 encodes in two bytes without setting flags; everything else takes four.
_NARROW = re.compile(
    rf"(?:ldr|str) {_LOW}, \[{_LOW}(?:, #(?:\d\d?|1[01]\d|12[0-4]))?\]|(?:ldr|str) {_LOW}, \[sp, #\d{{1,3}}\]|b(?:ne|eq)? \d[bf]|bx lr"
    rf"|mov {_ANY}, {_ANY}|cmp {_ANY}, {_ANY}|subs {_LOW}, {_LOW}, #\d{{1,2}}|add ({_ANY}), \1, {_ANY}"
)
_TYPES = re.compile(r"#ifndef TINY_\w+\n.*?\n#endif\n", re.DOTALL)

HAS_SMALL_FORM = ("tiny.conv2d", "tiny.depthwise_conv2d")
"""Operators whose kernels can share their code."""


@dataclass(frozen=True)
class Move:
    """One operator whose kernel has a form with less code of its own.

    Attributes
    ----------
    call, operator : str, int
        The call's result, and the operator's number where the call is a stage, else 0.
    lost : float
        Estimated cycles of the small form beyond the fast one's.
    fast, small : dict
        Bytes by function of both forms.
    constants : tuple of int
        Bytes of weights and other constants of both forms.
    """

    call: str
    operator: int
    lost: float
    fast: Mapping[str, int]
    small: Mapping[str, int]
    constants: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Contents:
    """What a network brings into flash: operators with two forms; functions and constants of everything else."""

    moves: Sequence[Move]
    functions: Mapping[str, int]
    constants: int = 0

    def code(self, small: AbstractSet[int]) -> int:
        """Bytes of all functions, each once, with the moves `small` made."""
        functions = dict(self.functions)
        for i, move in enumerate(self.moves):
            functions.update(move.small if i in small else move.fast)
        return sum(functions.values())

    def flash(self, small: AbstractSet[int]) -> int:
        """Bytes of code and constants."""
        return self.code(small) + self.constants + sum(m.constants[i in small] for i, m in enumerate(self.moves))


def choose_small(contents: Contents, code: int | None, flash: int | None = None) -> set[int]:
    """Numbers of the moves to make so that code, and code with constants, keep to their budgets: those that lose the least cycles a byte.

    All that can be made when even they don't suffice.
    """
    chosen: set[int] = set()
    for budget, size, constants in ((code, contents.code, 0), (flash, contents.flash, 1)):
        if budget is not None and size(chosen) > budget:
            chosen = _fewest(_by_price(contents, constants, chosen), size, budget, chosen)
    return chosen


def _by_price(contents: Contents, constants: int, chosen: AbstractSet[int]) -> list[int]:
    """Moves left to make that free bytes, cheapest cycles a byte first; a function of several layers is freed by all of them."""
    users = Counter(name for move in contents.moves for name in move.fast)
    price = {}
    for i, move in enumerate(contents.moves):
        freed = sum(size / users[name] for name, size in move.fast.items() if name not in move.small)
        freed += constants * (move.constants[0] - move.constants[1])
        if freed > 0 and i not in chosen:
            price[i] = move.lost / freed
    return sorted(price, key=price.__getitem__)


def _fewest(order: Sequence[int], size: Callable[[AbstractSet[int]], int], budget: int, chosen: set[int]) -> set[int]:
    """`chosen` and the fewest of `order`, from the first on, that keep to the budget."""
    fewest, most = 0, len(order)
    while fewest < most:
        middle = (fewest + most) // 2
        if size(chosen | set(order[:middle])) <= budget:
            most = middle
        else:
            fewest = middle + 1
    while fewest < len(order) and size(chosen | set(order[:fewest])) > budget:
        fewest += 1  # the first layer that shares brings the shared functions along, so sizes only nearly fall
    return chosen | set(order[:fewest])


def lost_cycles(layer: Layer, rule: str) -> float:
    """Estimated cycles a layer loses with shared code, for ranking: fitted to layers measured on the emulated Cortex-M7; an M4 loses more.

    Convolutions lose the padding of their sums to whole iterations and a little for each sum; depthwise layers a little for each row and
    group of outputs; convolutions by Winograd the algorithm.
    """
    if rule == "winograd":
        return 0.35 * layer.macs
    if layer.op == "tiny.depthwise_conv2d":
        _, height, _, channels = layer.shapes[-1]
        return (45 if layer.by_rows else 20) * height * channels + 0.12 * layer.macs
    terms = math.prod(layer.shapes[1][1:])
    return (0.55 * (-terms % (4 * UNROLL)) / terms + 3 / terms + 0.02) * layer.macs


def operator_entry(layer: Layer, functions: Iterable[str], constants: int) -> dict[str, object]:
    """One operator of `tiny.operators` (see `schedules/base.py`)."""
    lost = lost_cycles(layer, "") if layer.op in HAS_SMALL_FORM else 0.0
    return {"op": layer.op, "lost": lost, "functions": sorted(set(functions)), "constants": constants}


@dataclass(frozen=True)
class OperatorCode:
    """What one operator of a scheduled function brings into flash: bytes by function, and bytes of constants.

    `unpacked` is what its constants would take in the plainest packing, `lost` the cycles that sharing its code would lose.
    """

    op: str
    lost: float
    functions: dict[str, int]
    constants: int
    unpacked: int


def operators_of(func: tirx.PrimFunc, layer: Layer | None) -> tuple[list[OperatorCode], dict[str, int], int]:
    """Operators of a scheduled function that have a form with less code; functions and constants of all that has none.

    Parameters
    ----------
    layer : Layer or None
        The layer before it was scheduled; None when it is no operator of the dialect.
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
    rest = {"": functions.pop("")}
    rule = str(json.loads(str(func.attrs["tiny.kernel"]))["rule"])
    unpacked = sum(layer.constants[i].size * (1 if i == 1 else 4) for i in (1, 2, 3, 4))
    return [OperatorCode(layer.op, lost_cycles(layer, rule), functions, packed, unpacked if rule == "winograd" else packed)], rest, 0


def function_bytes(func: tirx.PrimFunc) -> dict[str, int]:
    """Estimated bytes of what a scheduled function needs: microkernels by name; under "" loops of its own and what a call costs."""
    sources = func.attrs.get("tiny.c_sources") if func.attrs is not None else None
    if sources is None:
        return {"": _BYTES_PER_CALL + _LOOP_KERNEL}
    calls: list[tvm.ir.Call] = []
    structural_walk(func.body, [(tvm.ir.Call, lambda call: calls.append(call) if _is_extern(call) else None)])
    own = _BYTES_PER_CALL + _BYTES_PER_BLOCK * (len(calls) - 1 if len(calls) > 1 else 0)
    return {"": own} | {str(name): text_bytes(str(text)) for name, text in sources if str(name) != "preamble"}


def _is_extern(call: tvm.ir.Call) -> bool:
    return isinstance(call.op, tvm.ir.Op) and call.op.name == "tirx.call_extern"


def text_bytes(text: str) -> int:
    """Estimated bytes of one C function."""
    instructions = _ASSEMBLY.findall(text)
    if instructions:
        return sum(2 if _NARROW.fullmatch(line) else 4 for line in instructions)
    return int(_TYPES.sub("", text).count(";") * _BYTES_PER_STATEMENT)
