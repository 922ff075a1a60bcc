# SPDX-License-Identifier: Apache-2.0
"""What a schedule has decided, read off its loops: extents, order and unrolling around a block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.sym import Analyzer

from tvm_tiny.errors import OptionError

REMEDY = "split and order the layer as its rule does (docs/tuning.md), or leave the choice to `Space.schedule`"


@dataclass(frozen=True)
class LoopsAround:
    """The loops around a block, outermost first, and what the block's own axes are of them."""

    block: str
    loops: tuple[tirx.For, ...]
    axes: tuple[tvm.ir.Expr, ...]

    def named(self, names: Sequence[str], axes: Sequence[Sequence[str]], unrolled: str) -> dict[str, int]:
        """Extents by name, in the order of the loops.

        Parameters
        ----------
        axes : sequence of sequences of str
            The loops that each axis of the block was split into, outermost first.
        unrolled : str
            The one loop that is unrolled.

        Raises
        ------
        OptionError
            Loops of another number, order or kind.
        """
        wanted = f"the loops around block {self.block!r} are to be {', '.join(names)} (unrolled: {unrolled})"
        if len(self.loops) != len(names):
            raise OptionError(f"{wanted}, but there are {len(self.loops)}", remedy=REMEDY)
        loops, analyzer = dict(zip(names, self.loops, strict=True)), Analyzer()
        for name, loop in loops.items():
            kind = tirx.ForKind.UNROLLED if name == unrolled else tirx.ForKind.SERIAL
            if loop.kind != kind:
                raise OptionError(f"{wanted}, but {name} is {'not ' if name == unrolled else ''}unrolled", remedy=REMEDY)
            analyzer.bind(loop.loop_var, tvm.ir.Range.from_min_extent(loop.min, loop.extent))
        for axis, parts in zip(self.axes, axes, strict=True):
            value: tvm.ir.Expr = tirx.const(0, "int32")
            for part in parts:
                value = value * loops[part].extent + loops[part].loop_var
            if not analyzer.can_prove_equal(axis, value):
                raise OptionError(f"{wanted}, but an axis of the block is {axis}", remedy=REMEDY)
        return {name: int(loop.extent) for name, loop in loops.items()}


def loops_around(func: tirx.PrimFunc, block: str) -> LoopsAround:
    """Find the loops around the block of that name.

    Raises
    ------
    OptionError
        There is no such block.
    """
    found = _search(func.body, block, ())
    if found is None:
        raise OptionError(f"the function has no block {block!r}", remedy=REMEDY)
    return found


def _search(stmt: tirx.Stmt, block: str, around: tuple[tirx.For, ...]) -> LoopsAround | None:
    if isinstance(stmt, tirx.For):
        return _search(stmt.body, block, (*around, stmt))
    if isinstance(stmt, tirx.SeqStmt):
        return next((found for found in (_search(part, block, around) for part in stmt.seq) if found is not None), None)
    if not isinstance(stmt, s_tir.SBlockRealize):
        return None
    if str(stmt.block.name_hint) == block:
        return LoopsAround(block, around, tuple(stmt.iter_values))
    return _search(stmt.block.body, block, around)
