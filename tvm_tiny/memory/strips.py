# SPDX-License-Identifier: Apache-2.0
"""Streaming in strips: every operator makes several rows in its turn, of which only those are kept that its readers want again.

A run of operators goes through the strips of its first operator's output one after the other. In each strip every operator fires once, in
order, for all rows that its inputs allow by then; windows make it lag behind, so that it ends after

    rows(strip) = min(height, max(0, (step * (strip + 1) + shift) // divide))

rows, with constants that follow from windows and strides. The rows of one strip lie together in a buffer that is needed only until their
last reader in the strip has fired: operators that take turns use the same bytes. The last rows that the next strip reads again (two of a
3x3 window) are copied to a few slots of their own, row r to slot r mod their number. So constants are read once a strip, kernels see
several rows of pixels at once, and the memory is

    kept rows of all tensors  +  the strips that are needed at once  +  scratch of the kernels

An operator whose kernel can write over what it reads does so: a strip of its output then lies where the strip of its input did, whose last
rows are put aside before. Nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_scratch import Freed, Part, Use
from tvm_tiny.memory.streams import SUM_BYTES

MOST_OPERATORS = 254  # the tables in C number them with a byte, and 255 is none (`tvm_tiny.schedules.strips`)


@dataclass(frozen=True)
class Pace:
    """How far an operator is after every strip: in rows of its output, of a "reduce" operator in rows of its input."""

    step: int
    divide: int
    shift: int
    height: int

    def end(self, strip: int) -> int:
        """Rows done after strip number `strip`."""
        return min(self.height, max(0, (self.step * (strip + 1) + self.shift) // self.divide))


@dataclass(frozen=True)
class Firing:
    """An operator's rows [begin, end) in one strip; `copies` are the tensors whose last rows are kept after it, as they were before."""

    op: int
    begin: int
    end: int
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class StripSegment:
    """Operators streamed in strips.

    Attributes
    ----------
    ops : tuple of RowOp
        In the order they fire.
    inputs, outputs : tuple of str
        Tensors that exist whole: read from outside, and made here.
    rows : int
        Rows of the first operator's output in a strip.
    late : bool
        Operators wait until a reader wants their rows.
    paces : tuple of Pace
        By operator.
    count : int
        Strips.
    kept : mapping of str to int
        Slots of rows kept for the next strip, of every tensor that is not whole.
    homes : mapping of str to str
        The tensor in whose rows a tensor's lie: sums work in the rows of an operand, operators in `over` in those they read.
    fresh : mapping of str to int
        Bytes of the buffers of a strip, by the tensor they are the home of.
    over : tuple of int
        Operators that write over their input.
    distances : mapping
        For each (output, input): the least d with out_base + d <= in_base safe.
    """

    ops: tuple[RowOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: int
    late: bool
    paces: tuple[Pace, ...]
    count: int
    kept: Mapping[str, int] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    fresh: Mapping[str, int] = field(default_factory=dict)
    over: tuple[int, ...] = ()
    distances: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def home(self, tensor: str) -> str:
        """Where a tensor's rows lie."""
        return self.homes.get(tensor, tensor)

    def most(self, op: int) -> int:
        """Rows an operator does in one strip, at most."""
        return max(end - begin for begin, end in self.turns(op))

    def turns(self, op: int) -> Iterator[tuple[int, int]]:
        """An operator's rows [begin, end) in every strip."""
        begin = 0
        for strip in range(self.count):
            end = self.paces[op].end(strip)
            yield begin, end
            begin = end

    def set_aside(self, op: int) -> str | None:
        """The tensor whose last rows must be put aside before an operator fires, which writes over them."""
        tensor = self.ops[op].inputs[0]
        return tensor if op in self.over and self.kept.get(tensor) else None

    def copied_after(self) -> dict[int, tuple[str, ...]]:
        """Tensors to copy kept rows of, by the operator that reads them last in a strip."""
        found: dict[int, tuple[str, ...]] = {}
        for tensor, slots in self.kept.items():
            if slots:
                last = max(j for j, op in enumerate(self.ops) if tensor in (op.output, *op.inputs))
                found[last] = (*found.get(last, ()), tensor)
        return found

    def firings(self) -> Iterator[tuple[int, Firing]]:
        """(strip, what happens) in order; firings without rows are left out unless something is copied after them."""
        copied, done = self.copied_after(), [0] * len(self.ops)
        for strip in range(self.count):
            for j, pace in enumerate(self.paces):
                firing = Firing(j, done[j], pace.end(strip), copied.get(j, ()))
                done[j] = firing.end
                if firing.begin < firing.end or firing.copies:
                    yield strip, firing


def in_strips(
    graph: RowGraph, ops: Sequence[RowOp], outputs: Sequence[str], rows: int, *, late: bool = False, over: Collection[int] = ()
) -> StripSegment | None:
    """Operators `ops` in strips of `rows` rows of the first one's output; None where they keep no common pace, or are too many.

    Parameters
    ----------
    outputs
        Tensors made here that must exist whole afterwards.
    late : bool
        Operators wait as long as no reader lacks their rows: that keeps fewer rows of what branches make, and more of what they read.
    over : collection of int
        Operators whose kernels can write a strip over that of input 0: pixel by pixel in ascending order (of pointwise ones), or some
        channels at a time, all their rows in one call.
    """
    ops = tuple(replace(op, group=1) for op in ops)
    shifts = _shifts(graph, ops, late)
    if shifts is None or len(ops) > MOST_OPERATORS:
        return None
    divides, first = [divide for divide, _ in shifts], shifts[0][1]
    step = rows * divides[0]
    heights = [graph.tensors[op.inputs[0] if op.kind == "reduce" else op.output].height for op in ops]
    paces = tuple(Pace(step, divide, shift - first, height) for (divide, shift), height in zip(shifts, heights, strict=True))
    count = max(-(-(p.height * p.divide - p.shift) // p.step) for p in paces)
    made = {op.output for op in ops}
    inputs = tuple(dict.fromkeys(t for op in ops for t in op.inputs if t not in made))
    bare = StripSegment(ops, inputs, tuple(outputs), rows, late, paces, max(1, count))
    inner = [op.output for op in ops if op.output not in outputs]
    bare = replace(bare, kept={t: _kept(graph, bare, t) for t in inner})
    bare = replace(bare, homes=_homes(graph, bare))
    for j in sorted(over):
        bare = _written_over(graph, bare, j)
    fresh: dict[str, int] = {}
    for t in inner:
        if (home := bare.home(t)) not in outputs:
            fresh[home] = max(fresh.get(home, 0), bare.most(_maker(bare, t)) * graph.tensors[t].row_bytes)
    bare = replace(bare, fresh=fresh)
    return replace(bare, distances=_distances(graph, bare))


def needed(graph: RowGraph, op: RowOp, position: int, begin: int, end: int) -> tuple[int, int]:
    """Rows [low, high) of input number `position` that an operator reads for its rows [begin, end)."""
    height = graph.tensors[op.inputs[position]].height
    if op.kind == "window" and position == 0:
        return op.rows.reads(begin, end, height)
    if op.kind != "reduce" and height == 1 < graph.tensors[op.output].height:
        return 0, 1
    return begin, end


# -- paces


def _shifts(graph: RowGraph, ops: Sequence[RowOp], late: bool) -> list[tuple[int, int]] | None:
    """(divide, shift) of every operator, in rows of the first input; None where two inputs of an operator go at different paces."""
    if any(op.kind not in ("window", "rows", "reduce") for op in ops):
        return None
    if any(op.kind == "reduce" and op.output in reader.inputs for op in ops for reader in ops):
        return None  # nothing has the pace of what exists in the end only
    made = {op.output: j for j, op in enumerate(ops)}
    clock = graph.tensors[ops[0].inputs[0]].height
    found: list[tuple[int, int]] = []
    for op in ops:
        inner = [(k, made[t]) for k, t in enumerate(op.inputs) if t in made]
        if not inner:
            height = graph.tensors[op.inputs[0]].height
            if clock % height:
                return None
            paces = [_after(op, 0, (clock // height, 0))]
        else:
            paces = [_after(op, k, found[j]) for k, j in inner]
        if len({divide for divide, _ in paces}) > 1:
            return None
        found.append((paces[0][0], min(shift for _, shift in paces)))
    return _delayed(ops, found) if late else found


def _after(op: RowOp, position: int, given: tuple[int, int]) -> tuple[int, int]:
    """The pace of an operator whose input number `position` comes at the pace `given`."""
    divide, shift = given
    if op.kind != "window" or position:
        return divide, shift
    return divide * op.rows.stride, shift + divide * (op.rows.before - op.rows.extent + op.rows.stride)


def _delayed(ops: Sequence[RowOp], found: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same paces, every operator as late as its readers allow."""
    out = list(found)
    for j in reversed(range(len(ops))):
        wanted = []
        for i, reader in enumerate(ops):
            for k, tensor in enumerate(reader.inputs):
                if tensor == ops[j].output:
                    wanted.append(out[i][1] - _after(reader, k, (out[j][0], 0))[1])
        if wanted:
            out[j] = (out[j][0], min(out[j][1], max(wanted)))
    return out


# -- what is kept


def _maker(segment: StripSegment, tensor: str) -> int:
    return next(j for j, op in enumerate(segment.ops) if op.output == tensor)


def _next_wanted(graph: RowGraph, segment: StripSegment, tensor: str, done: Sequence[int]) -> int:
    """The first row of a tensor that is read yet, when operators are done with `done` rows; its height where none is."""
    height = graph.tensors[tensor].height
    lows = [height]
    for j, op in enumerate(segment.ops):
        if tensor in op.inputs and done[j] < segment.paces[j].height:
            lows += [needed(graph, op, k, done[j], done[j] + 1)[0] for k, t in enumerate(op.inputs) if t == tensor]
    return min(lows)


def _made(segment: StripSegment, op: int, done: int) -> int:
    """Rows of an operator's output when it is done with `done` rows."""
    return done if segment.ops[op].kind != "reduce" else int(done == segment.paces[op].height)


def _kept(graph: RowGraph, segment: StripSegment, tensor: str) -> int:
    """Rows of a tensor that are read in a strip after the one they were made in: as many as lie between, at most."""
    maker, most = _maker(segment, tensor), 0
    for strip in range(segment.count):
        done = [pace.end(strip) for pace in segment.paces]
        most = max(most, _made(segment, maker, done[maker]) - _next_wanted(graph, segment, tensor, done))
    return most


def _homes(graph: RowGraph, segment: StripSegment) -> dict[str, str]:
    """Operands of sums whose rows the sum takes over: nobody else reads them, and none is kept."""
    homes: dict[str, str] = {}
    for i in reversed(range(len(segment.ops))):
        op = segment.ops[i]
        if op.kind != "rows" or len(op.inputs) < 2:
            continue
        for k in op.in_place:
            tensor = op.inputs[k]
            if segment.kept.get(tensor, 1) or graph.readers(tensor) != [graph.producer(op.output)]:
                continue
            maker = _maker(segment, tensor)
            if segment.paces[maker] == segment.paces[i]:
                homes[tensor] = homes.get(op.output, op.output)
                break
    return homes


def _written_over(graph: RowGraph, segment: StripSegment, j: int) -> StripSegment:
    """The segment with operator j writing over its input, where nobody reads that afterwards; else as it is."""
    op = segment.ops[j]
    tensor = op.inputs[0]
    home, own = segment.home(tensor), segment.home(op.output)
    if home not in segment.kept or own not in segment.kept or _last_users(segment)[home] > j:
        return segment
    if op.pointwise:
        wider = graph.tensors[op.output].row_bytes > graph.tensors[tensor].row_bytes
        if wider or segment.kept[tensor] or segment.paces[j] != segment.paces[_maker(segment, tensor)]:
            return segment
    moved = {t: own for t in segment.kept if segment.home(t) == home}
    return replace(segment, homes={**segment.homes, **moved}, over=(*segment.over, j))


# -- memory


def _freed(graph: RowGraph, segment: StripSegment, done: Sequence[int]) -> Freed:
    """Bytes of every input that nothing reads any more."""
    return {t: _next_wanted(graph, segment, t, done) * graph.tensors[t].row_bytes for t in segment.inputs}


def _distances(graph: RowGraph, segment: StripSegment) -> dict[tuple[str, str], int]:
    """Max over all stores of (bytes of output stored) - (bytes of input below what is still read)."""
    found: dict[tuple[str, str], int] = {}
    done = [0] * len(segment.ops)
    for _, firing in segment.firings():
        out = segment.home(segment.ops[firing.op].output)
        before = _freed(graph, segment, done) if out in segment.outputs else {}
        done[firing.op] = firing.end
        rows = _made(segment, firing.op, firing.end)
        for t, freed in before.items():
            if rows:
                most = found.get((out, t), -graph.tensors[t].nbytes)
                found[out, t] = max(most, rows * graph.tensors[out].row_bytes - freed)
    return found


def strip_regions(graph: RowGraph, segment: StripSegment, scratch: Mapping[str, int]) -> list[Part]:
    """Strips ("<tensor>.fresh"), kept rows ("<tensor>.kept", or first "<tensor>.aside"), sums ("<tensor>.sums"), kernels' scratch."""
    live: dict[str, int] = {}
    freed: dict[str, Freed] = {}
    born: dict[str, int] = {}
    done, users = [0] * len(segment.ops), _last_users(segment)
    events = list(segment.firings())
    for time, (strip, firing) in enumerate(events):
        now, used = _freed(graph, segment, done), _used(segment, firing)
        home = segment.home(segment.ops[firing.op].output)
        done[firing.op] = firing.end
        if firing.begin < firing.end and home in segment.fresh:
            born.setdefault(home, time)
            used.append(f"{home}.fresh")
        used += [f"{t}.kept" for t in firing.copies if done[_maker(segment, t)]]
        used += [f"{t}.aside" for t in firing.copies if t == segment.set_aside(firing.op)]
        for name in used:
            freed.setdefault(name, now)
            live[name] = live.get(name, 0) | 1 << time
        ends = time + 1 == len(events) or events[time + 1][0] != strip
        for tensor in [t for t in born if ends or users[t] <= firing.op]:
            live[f"{tensor}.fresh"] |= _span(born.pop(tensor), time)
    for name, bits in live.items():
        if name.endswith((".kept", ".sums")):
            live[name] = _span((bits & -bits).bit_length() - 1, bits.bit_length() - 1)
    sizes = {f"{t}.fresh": nbytes for t, nbytes in segment.fresh.items()}
    sizes |= {f"{t}.{name}": rows * graph.tensors[t].row_bytes for t, rows in segment.kept.items() for name in ("kept", "aside")}
    sizes |= {f"{op.output}.sums": SUM_BYTES * graph.tensors[op.output].channels for op in segment.ops if op.kind == "reduce"}
    sizes |= dict(scratch)
    return [Part(name, size, Use(live[name], freed[name])) for name, size in sizes.items() if size and name in live]


def _span(first: int, last: int) -> int:
    """Bits `first` to `last`."""
    return (1 << last + 1) - (1 << first)


def _used(segment: StripSegment, firing: Firing) -> list[str]:
    """Kernel scratch, sums and kept rows that a firing needs."""
    if firing.begin == firing.end:
        return []
    op = segment.ops[firing.op]
    kept = [f"{t}.kept" for t in op.inputs if segment.kept.get(t)]
    return [op.name, *kept, *([f"{op.output}.sums"] if op.kind == "reduce" else [])]


def _last_users(segment: StripSegment) -> dict[str, int]:
    """By tensor with a buffer of a strip: the last operator that makes, takes over or reads its rows."""
    last: dict[str, int] = {}
    for j, op in enumerate(segment.ops):
        for tensor in (op.output, *op.inputs):
            last[segment.home(tensor)] = j
    return last
