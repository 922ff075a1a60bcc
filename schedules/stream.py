# SPDX-License-Identifier: Apache-2.0
"""Streamed stages (`tiny.stage` as `stream-rows` makes it): row kernels driven by tables over ring buffers.

The C is one small interpreter, shared by all stages of all networks in the image, and per stage three constant tables: operators (kernel,
constants, scratch), operands (where rows lie, which rows a firing reads), and the firing program as loops of operator numbers. Scratch
holds, in this order, the kernels' common scratch, the sums of reductions, and the rings.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.errors import DialectError
from tvm_tiny.memory.rows import RowGraph, RowOp
from tvm_tiny.memory.stream_scratch import place_thoroughly, regions_of
from tvm_tiny.memory.streams import Repeat, Stage, StreamedSegment
from tvm_tiny.memory.tiny_rows import geometry
from tvm_tiny.ops import stage as stage_op
from tvm_tiny.schedules import fetch, resize
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.code_size import operator_entry
from tvm_tiny.schedules.microkernels import CFunction, Core, MicroKernel, RegisterPressureError
from tvm_tiny.schedules.row_form import SIGNATURE, RowKernel
from tvm_tiny.schedules.row_kernels import BANDS, row_kernel
from tvm_tiny.schedules.space import Choice
from tvm_tiny.schedules.stage_layers import StageLayers
from tvm_tiny.schedules.tensorize import named_by_content, tensorized
from tvm_tiny.target import TinyTarget
from tvm_tiny.tuning.workload import Workload

_ALIGN = 4
_LONGEST = 255  # operator numbers, loop counts and body lengths of the program are bytes


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.stage` with a streaming schedule."""
    layer = Layer.of(func)
    if layer is None or layer.op != stage_op.NAME or "program" not in json.loads(layer.attrs["schedule"]):
        return None
    chosen = json.loads(str(func.attrs.get("tiny.row_choices", "{}")))
    stage = StreamedStage(layer, Core.of(target.mcpu), chosen, target)
    kernel = stage.kernel()
    notes: dict[str, Any] = {"operators": len(stage.ops), "rings": sum(stage.rings.values()), "program": len(stage.program_bytes())}
    if stage.tuned:
        notes["recorded_rows"] = stage.tuned
    rights = {i: [["ascending", d]] for i, d in stage.distances.items()}
    slide = {stage.number(name): [["ascending", d]] for name, d in stage.layout.distances.items()} if stage.layout.nbytes else {}
    fetched = [stage.activations[k] for k in stage.fetched]
    made = tensorized(kernel, func, "stream", rights=rights, scratch_rights=slide, fetched=fetched, **notes)
    return Schedule(tvm.IRModule({"main": made.mod["main"].with_attr("tiny.operators", json.dumps(stage.operators()))}))


def inner_layers(stage: Layer) -> list[Layer]:
    """The operators of a stage as layers of their own, computed by rows."""
    layers = StageLayers.of(stage)
    return [layers.layer_of(j) for j in range(len(layers.inner))]


@dataclass(frozen=True)
class _Place:
    """Where rows lie: `base` 0 is scratch, 1 the output, 2 + i input i; `slots` rows are kept, row r in slot r mod `slots`."""

    base: int
    offset: int
    row_bytes: int
    height: int
    slots: int


class StreamedStage:
    """A stage read back from its function: operators as rows, their kernels, and where every tensor lies."""

    def __init__(
        self, layer: Layer, core: Core, chosen: Mapping[str, Sequence[Choice]] | None = None, target: TinyTarget | None = None
    ) -> None:
        self.layer, self.core, self.target = layer, core, target
        schedule = json.loads(layer.attrs["schedule"])
        self.inner = stage_op.program_of(layer.attrs)
        if len(self.inner) > _LONGEST:
            raise DialectError(
                f"tiny.stage streams {len(self.inner)} operators, the program in C numbers {_LONGEST}", remedy="cut the stage in two"
            )
        self.rings = {int(k): int(v) for k, v in schedule["rings"].items()}
        self.distances = {int(k): int(v) for k, v in schedule["distances"].items()}
        self.stages = [list(members) for members in schedule["stages"]]
        self.groups = [int(g) for g in schedule.get("groups", [1] * len(self.inner))]
        self.firings = [(int(count), [int(s) for s in body]) for count, body in schedule["program"]]
        self.program = [(count, [op for s in body for op in self._fired(s)]) for count, body in self.firings]
        layers = StageLayers.of(layer)
        self.infos, self.results, self.activations, self.fetched = layers.infos, layers.results, layers.activations, layers.fetched
        graph = layers.graph()
        self.ops = [replace(op, group=group) for op, group in zip(graph.ops, self.groups, strict=True)]
        self.graph = RowGraph(graph.tensors, tuple(self.ops), graph.inputs, graph.outputs)
        self.tuned, self.layers = 0, inner_layers(layer)
        self.home = {j: members[-1] for members in self.stages for j in members}
        self.kernels = [self._kernel(j, core, chosen or {}) for j in range(len(self.inner))]
        self._lay_out()

    def _fired(self, stage: int) -> list[int]:
        """The operators of a stage, as often as one firing of the stage fires them."""
        most = max(self.groups[j] for j in self.stages[stage])
        return [j for j in self.stages[stage] for _ in range(most // self.groups[j])]

    def _kernel(self, j: int, core: Core, chosen: Mapping[str, Sequence[Choice]]) -> RowKernel:
        """The operator's row kernel: the default, or the fastest recorded one that takes no more scratch."""
        layer = self.layers[j]
        if self.ops[j].kind == "resize":
            return resize.row_kernel_of(layer, self._slots(self.ops[j].inputs[0]))
        if self.groups[j] > 1:
            return row_kernel(layer, core, group=self.groups[j])
        default = row_kernel(layer, core)
        if BANDS in default.kernel:
            return default
        recorded = chosen.get(Workload.of(layer, self.target).key, ()) if chosen and self.target is not None else ()
        for choice in recorded if not layer.small_code else ():
            with contextlib.suppress(RegisterPressureError, KeyError, ValueError):  # the rule has changed since
                made = row_kernel(layer, core, choice)
                if made.scratch_bytes <= default.scratch_bytes:
                    self.tuned += 1
                    return made
        return default

    # -- memory

    def _lay_out(self) -> None:
        scratch = {op.name: kernel.scratch_bytes for op, kernel in zip(self.ops, self.kernels, strict=True)}
        fetched = [f"arg{self.activations[k]}" for k in self.fetched]
        self.layout = place_thoroughly(regions_of(self.graph, self._segment(), scratch), _ALIGN, fetched)

    def _segment(self) -> StreamedSegment:
        """The segment as `stream-rows` planned it."""
        stages = tuple(Stage(tuple(self.ops[j] for j in members)) for members in self.stages)
        rings = {f"node{j}": rows for j, rows in self.rings.items()}
        program = tuple(Repeat(count, tuple(body)) for count, body in self.firings)
        return StreamedSegment(stages, self.graph.inputs, self.graph.outputs, rings, (), program, {})

    @staticmethod
    def _row_bytes(shape: Sequence[int]) -> int:
        _, width, channels = geometry(shape)
        return width * channels

    def number(self, name: str) -> int:
        """Which activation tensor "arg<i>" is."""
        return self.activations.index(int(name.removeprefix("arg")))

    def _place(self, name: str) -> _Place:
        """Where tensor "arg<i>" or "node<j>" lies; a tensor inside a stage lies where the stage's output does."""
        if name.startswith("arg"):
            shape = self.infos[int(name.removeprefix("arg"))].shape
            return _Place(2 + self.number(name), 0, self._row_bytes(shape), geometry(shape)[0], geometry(shape)[0])
        j = self.home[int(name.removeprefix("node"))]
        shape = self.results[j].shape
        base, offset = (0, self.layout.offsets[f"node{j}.ring"]) if j in self.rings else (1, 0)
        return _Place(base, offset, self._row_bytes(shape), geometry(shape)[0], self._slots(name))

    def _slots(self, name: str) -> int:
        """Rows of a tensor that are kept."""
        home = self.home[int(name.removeprefix("node"))] if name.startswith("node") else -1
        return self.rings.get(home, self.graph.tensors[name].height)

    # -- C

    def kernel(self) -> MicroKernel:
        """The whole stage as a kernel `name(inputs…, out, packed, scratch)`."""
        functions: dict[str, CFunction] = {}
        names, blob, starts = [], b"", []
        for kernel in self.kernels:
            made, renamed = named_by_content(kernel.functions)
            functions |= {f.name: f for f in made}
            names.append(renamed[kernel.name])
            starts.append(len(blob))
            blob += kernel.packed + bytes(-len(kernel.packed) % _ALIGN)
        interpreter = _interpreter()
        driver = CFunction(f"{PREFIX}stream_rows", self._driver(names, starts, interpreter.name))
        return MicroKernel(
            name=driver.name,
            functions=(*functions.values(), interpreter, driver),
            packed=blob,
            scratch_bytes=self.layout.nbytes,
            input_shape=self.infos[0].shape,
            output_shape=self.results[-1].shape,
            macs=sum(op.macs for op in self.ops),
            reference=lambda x: x,
            inputs=len(self.activations),
        )

    def operators(self) -> list[dict[str, object]]:
        """`tiny.operators`: what each operator's code is made of."""
        names = ([f.name for f in named_by_content(kernel.functions)[0]] for kernel in self.kernels)
        return [operator_entry(self.layers[j], own, len(self.kernels[j].packed), self.core) for j, own in enumerate(names)]

    def program_bytes(self) -> list[int]:
        """The firing program: count, length, operators; longer loops are unrolled into several."""
        out: list[int] = []
        for count, body in self.program:
            if len(body) > _LONGEST:
                pieces = [(1, body[k : k + _LONGEST]) for _ in range(count) for k in range(0, len(body), _LONGEST)]
            else:
                pieces = [(min(_LONGEST, count - done), body) for done in range(0, count, _LONGEST)]
            for times, piece in pieces:
                out += [times, len(piece), *piece]
        return out

    def _operands(self) -> list[list[str]]:
        """For every operator the table lines of its output and its inputs."""
        return [
            [_line(self._place(op.output), op.group, 0, 0), *(self._input(op, node.op, k) for k in range(len(op.inputs)))]
            for op, node in zip(self.ops, self.inner, strict=True)
        ]

    def _input(self, op: RowOp, kind: str, position: int) -> str:
        place = self._place(op.inputs[position])
        if kind == fetch.NAME or op.kind == "resize":
            return _line(place, 0, 0, 1)  # not a row but what makes rows, or where all rows lie
        if op.kind == "window" and position == 0:
            return _line(place, op.group * op.rows.stride, op.rows.before, _window_rows(op))
        return _line(place, 0, 0, 1) if place.height == 1 else _line(place, op.group, 0, op.group)

    def _driver(self, names: Sequence[str], starts: Sequence[int], interpreter: str) -> str:
        operands = self._operands()
        first = [sum(len(lines) for lines in operands[:j]) for j in range(len(operands))]
        rows = max(sum(_window_rows(op) if op.kind == "window" and k == 0 else op.group for k in range(len(op.inputs))) for op in self.ops)
        at = self.layout.offsets
        scratch = [at.get(f"{op.output}.sums", at.get(op.name, 0)) for op in self.ops]
        entries = [(names[j], starts[j], scratch[j], first[j], len(operands[j]) - 1) for j in range(len(names))]
        table = [f"{{{', '.join(map(str, entry))}}}" for entry in entries]
        program = self.program_bytes()
        ins = [f"x{i}" for i in range(len(self.activations))]
        name = f"{PREFIX}stream_rows"
        types = ["const void *" if k in self.fetched else "const int8_t *" for k in range(len(ins))]
        parameters = ", ".join(f"{t}{x}" for t, x in zip(types, ins, strict=True))
        signature = f"void {name}({parameters}, int8_t *out, const void *packed, void *scratch)"
        status = f"((const {fetch.STRUCT} *)x{self.fetched[0]})->status" if self.fetched else "0"
        return (
            f"{signature};\n{signature} {{\n"
            f"  static const tiny_row_op ops[{len(table)}] = {{\n    " + ",\n    ".join(table) + "};\n"
            f"  static const tiny_rows operands[{sum(map(len, operands))}] = {{\n    "
            + ",\n    ".join(line for lines in operands for line in lines)
            + "};\n"
            f"  static const uint8_t program[{len(program)}] = {{\n{_wrapped(program)}}};\n"
            f"  const int8_t *rows[{rows}];\n  uint16_t fired[{len(self.ops)}] = {{0}};\n"
            f"  const int8_t *const bases[{2 + len(ins)}] = {{scratch, out, {', '.join(ins)}}};\n"
            f"  int8_t *const writable[2] = {{scratch, out}};\n"
            f"  const tiny_stream stream = {{ops, operands, program, program + {len(program)}, bases, writable, packed, scratch,\n"
            f"    {status}}};\n"
            f"  {interpreter}(&stream, fired, rows);\n}}\n"
        )


def _window_rows(op: RowOp) -> int:
    """Input rows a firing of an operator on windows reads."""
    return op.rows.extent + (op.group - 1) * op.rows.stride


def _line(place: _Place, stride: int, before: int, count: int) -> str:
    fields = (place.offset, place.row_bytes, place.height, place.slots, before, place.base, stride, count)
    return f"{{{', '.join(str(f) for f in fields)}}}"


def _wrapped(numbers: Sequence[int], width: int = 32) -> str:
    return ",\n".join("    " + ", ".join(str(n) for n in numbers[k : k + width]) for k in range(0, len(numbers), width))


def _interpreter() -> CFunction:
    name = f"{PREFIX}stream"
    return CFunction(
        name,
        f"typedef void tiny_row_kernel({SIGNATURE});\n"
        "/* Rows of a tensor: row r lies in slot r % slots from offset on. Firing f reads rows f * stride - before and\n"
        " * following; of an output, `stride` is the rows it makes, two by Winograd's kernels, whose `begin` counts firings. */\n"
        "typedef struct {\n  uint32_t offset, row_bytes;\n  int32_t height;\n  uint16_t slots;\n  int16_t before;\n"
        "  uint8_t base, stride, count;\n} tiny_rows;\n"
        "/* An operator: its output is operand number `operands`, its inputs follow. */\n"
        "typedef struct {\n  tiny_row_kernel *kernel;\n  uint32_t packed, scratch;\n"
        "  uint16_t operands, inputs;\n} tiny_row_op;\n"
        "typedef struct {\n  const tiny_row_op *ops;\n  const tiny_rows *operands;\n  const uint8_t *program, *end;\n"
        "  const int8_t *const *bases;\n  int8_t *const *writable;\n  const uint8_t *packed;\n  uint8_t *scratch;\n"
        "  const int32_t *status; /* of the application's functions; none: a null pointer */\n} tiny_stream;\n"
        f"static void {name}(const tiny_stream *s, uint16_t *fired, const int8_t **rows) {{\n"
        "  for (const uint8_t *part = s->program; part != s->end; part += 2 + part[1]) {\n"
        "    for (uint32_t step = 0, left = (uint32_t)part[0] * part[1]; left != 0; --left) {\n"
        "      const tiny_row_op *op = s->ops + part[2 + step];\n"
        "      const tiny_rows *at = s->operands + op->operands;\n"
        "      const int32_t f = fired[part[2 + step]]++;\n"
        "      int8_t *out = s->writable[at->base] + at->offset + (uint32_t)(f * at->stride) % at->slots * at->row_bytes;\n"
        "      const int8_t **next = rows;\n"
        "      for (uint32_t k = op->inputs; k != 0; --k) {\n"
        "        ++at;\n"
        "        int32_t r = f * at->stride - at->before;\n"
        "        for (uint32_t n = at->count; n != 0; --n, ++r) {\n"
        "          const uint32_t slot = r < 0 || r >= at->height ? 0 : (uint32_t)r % at->slots;\n"
        "          *next++ = s->bases[at->base] + at->offset + slot * at->row_bytes;\n        }\n      }\n"
        "      op->kernel(rows, out, f, f + 1, s->packed + op->packed, s->scratch + op->scratch);\n"
        "      if (s->status != 0 && *s->status != 0) return;\n"
        "      if (++step == part[1]) step = 0;\n    }\n  }\n}\n",
    )
