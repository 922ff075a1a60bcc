# SPDX-License-Identifier: Apache-2.0
"""Stages streamed in strips (`tiny.stage` with `strips` rows at once): row kernels driven by tables, strip by strip.

The C is one small interpreter, shared by all stages of all networks in the image, and per stage two constant tables: operators (kernel,
constants, scratch, how far they are after each strip) and operands (where rows lie, and which of them a row of the output needs). Which
rows an operator makes in a strip follows from its entry (`tvm_tiny.memory.strips`). Scratch holds strips, kept rows, sums and what the
kernels need, as `tvm_tiny.memory.stream_scratch` places them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.memory.rows import RowOp
from tvm_tiny.memory.stream_scratch import place_thoroughly
from tvm_tiny.memory.strips import StripSegment, in_strips, strip_regions
from tvm_tiny.ops import stage as stage_op
from tvm_tiny.schedules import fetch
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.code_size import operator_entry
from tvm_tiny.schedules.microkernels import CFunction, Core, MicroKernel
from tvm_tiny.schedules.row_form import SIGNATURE, RowKernel
from tvm_tiny.schedules.row_kernels import strip_kernel
from tvm_tiny.schedules.stage_layers import StageLayers
from tvm_tiny.schedules.stream_costs import strip_rows
from tvm_tiny.schedules.tensorize import named_by_content, tensorized
from tvm_tiny.target import TinyTarget

_ALIGN = 4
_WHOLE = 255  # who makes the rows of a tensor that exists whole


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.stage` with a schedule in strips."""
    layer = Layer.of(func)
    if layer is None or layer.op != stage_op.NAME or "strips" not in json.loads(layer.attrs["schedule"]):
        return None
    stage = StripStage(layer, Core.of(target.mcpu))
    output, numbers = stage.segment.outputs[0], {name: i for i, name in enumerate(stage.graph.inputs)}
    shared = [i for name, i in numbers.items() if i not in stage.layers.fetched]
    rights = {numbers[t]: [["ascending", d]] for (out, t), d in stage.segment.distances.items() if out == output and numbers[t] in shared}
    slide = {numbers[t]: [["ascending", d]] for t, d in stage.layout.distances.items() if stage.layout.nbytes and numbers[t] in shared}
    notes: dict[str, Any] = {"operators": len(stage.graph.ops), "strips": stage.segment.count, "strip_rows": stage.segment.rows}
    fetched = [stage.layers.activations[k] for k in stage.layers.fetched]
    made = tensorized(stage.kernel(), func, "strips", rights=rights, scratch_rights=slide, fetched=fetched, **notes)
    return Schedule(tvm.IRModule({"main": made.mod["main"].with_attr("tiny.operators", json.dumps(stage.operators()))}))


def segment_of(layers: StageLayers, schedule: Mapping[str, Any]) -> StripSegment:
    """The strips of a stage, from its attribute `schedule`."""
    graph = layers.graph()
    segment = in_strips(graph, graph.ops, graph.outputs, int(schedule["strips"]), late=bool(schedule["late"]), over=schedule["over"])
    assert segment is not None, "the pass has found them"
    return segment


@dataclass(frozen=True)
class _Place:
    """Where rows lie: `base` 0 is scratch, 1 the output, 2 + i input i; `maker` is the operator whose strip begins at `offset`."""

    base: int
    offset: int
    kept: int
    slots: int
    maker: int


class StripStage:
    """A stage read back from its function, its kernels, and where every tensor lies."""

    def __init__(self, layer: Layer, core: Core) -> None:
        self.layers, self.core = StageLayers.of(layer), core
        self.graph, self.segment = self.layers.graph(), segment_of(self.layers, json.loads(layer.attrs["schedule"]))
        self.made = {op.output: j for j, op in enumerate(self.graph.ops)}
        self.inner = [self.layers.layer_of(j) for j in range(len(self.graph.ops))]
        self.most = [self._most(j) for j in range(len(self.inner))]
        self.kernels = [self._kernel(j) for j in range(len(self.inner))]
        scratch = {op.name: kernel.scratch_bytes for op, kernel in zip(self.graph.ops, self.kernels, strict=True)}
        fetched = [self.graph.inputs[k] for k in self.layers.fetched]
        self.layout = place_thoroughly(strip_regions(self.graph, self.segment, scratch), _ALIGN, fetched)

    def _most(self, j: int) -> int:
        """Rows one call of an operator's kernel makes."""
        return strip_rows(self.segment, j, self.graph, self._kind(j))

    def _kernel(self, j: int) -> RowKernel:
        over = j in self.segment.over
        made = strip_kernel(self.inner[j], self.core, self.most[j], together=self._together(j), over=over)
        assert not over or made.kernel != "plain C", "the pass has asked before"
        return made

    def _kind(self, j: int) -> str:
        return self.layers.inner[j].op.removeprefix("tiny.")

    def _together(self, j: int) -> bool:
        """Whether the input rows of a call lie together: those of a whole tensor, or of one strip."""
        return not self.segment.kept.get(self.graph.ops[j].inputs[0])

    # -- C

    def kernel(self) -> MicroKernel:
        """The whole stage as a kernel `name(inputs…, out, packed, scratch)`."""
        functions: dict[str, CFunction] = {}
        entries, blob = [], b""
        for kernel in self.kernels:
            made, renamed = named_by_content(kernel.functions)
            functions |= {f.name: f for f in made}
            entries.append((renamed[kernel.name], len(blob)))
            blob += kernel.packed + bytes(-len(kernel.packed) % _ALIGN)
        interpreter = _interpreter()
        driver = CFunction(f"{PREFIX}strips", self._driver(entries, interpreter.name))
        return MicroKernel(
            name=driver.name,
            functions=(*functions.values(), interpreter, driver),
            packed=blob,
            scratch_bytes=self.layout.nbytes,
            input_shape=self.layers.infos[0].shape,
            output_shape=self.layers.results[-1].shape,
            macs=sum(op.macs for op in self.graph.ops),
            reference=lambda x: x,
            inputs=len(self.layers.activations),
        )

    def operators(self) -> list[dict[str, object]]:
        """`tiny.operators`: what each operator's code is made of."""
        names = ([f.name for f in named_by_content(kernel.functions)[0]] for kernel in self.kernels)
        return [operator_entry(self.inner[j], own, len(self.kernels[j].packed), self.core) for j, own in enumerate(names)]

    def _place(self, tensor: str) -> _Place:
        if tensor in self.graph.inputs:
            return _Place(2 + self.graph.inputs.index(tensor), 0, 0, 1, _WHOLE)
        home = self.segment.home(tensor)
        if home in self.segment.outputs:
            return _Place(1, 0, 0, 1, _WHOLE)
        kept = self.layout.offsets.get(f"{tensor}.kept", 0)
        return _Place(0, self.layout.offsets[f"{home}.fresh"], kept, max(1, self.segment.kept[tensor]), self.made[tensor])

    def _output(self, op: RowOp) -> str:
        return self._operand(op.output, 0, 1, 1, one=op.kind == "reduce")  # what a reduction makes of all rows is one

    def _operand(self, tensor: str, before: int, stride: int, count: int, *, one: bool = False, rows: str = "", slots: str = "") -> str:
        """A line of the table; `rows` and `slots` name regions of the scratch instead of the tensor's own."""
        place, data = self._place(tensor), self.graph.tensors[tensor]
        offset, kept = (self.layout.offsets.get(name, own) for name, own in ((rows, place.offset), (slots, place.kept)))
        fields = (offset, kept, 0 if one else data.row_bytes, data.height, place.slots, before, place.base, place.maker, stride, count)
        return f"{{{', '.join(map(str, fields))}}}"

    def _input(self, j: int, position: int) -> str:
        op = self.graph.ops[j]
        tensor = op.inputs[position]
        if self._kind(j) == "fetch":
            return self._operand(tensor, 0, 0, 1)  # not a row but what makes rows
        if op.kind == "window" and position == 0:
            return self._operand(tensor, op.rows.before, op.rows.stride, op.rows.extent)
        broadcast = self.graph.tensors[tensor].height == 1
        return self._operand(tensor, 0, 0 if broadcast else 1, 1)

    def _tables(self, entries: Sequence[tuple[str, int]]) -> tuple[list[str], list[str], int]:
        """Operators, operands, and the steps of a strip: an operator without a kernel keeps rows of its operand."""
        ops: list[str] = []
        operands: list[str] = []
        copied = self.segment.copied_after()
        at = self.layout.offsets
        for j, op in enumerate(self.graph.ops):
            name, start = entries[j]
            aside = self.segment.set_aside(j)
            if aside is not None:
                ops.append(self._copy(aside, len(operands)))
                operands.append(self._operand(aside, 0, 1, 1, slots=f"{aside}.aside"))
            scratch = at.get(f"{op.output}.sums", at.get(op.name, 0))
            pace = self.segment.paces[j]
            sizes = (pace.divide, pace.shift, pace.height, len(operands), len(op.inputs), self.most[j])
            ops.append(f"{{{name}, {start}, {scratch}, {', '.join(map(str, sizes))}, {j}}}")
            operands += [self._output(op), *(self._input(j, k) for k in range(len(op.inputs)))]
            for tensor in copied.get(j, ()):
                ops.append(self._copy(tensor, len(operands), by_slots=tensor == aside))
                operands.append(self._operand(tensor, 0, 1, 1, rows=f"{tensor}.aside" if tensor == aside else ""))
        return ops, operands, len(self.graph.ops)

    def _copy(self, tensor: str, operand: int, *, by_slots: bool = False) -> str:
        """An entry without a kernel; rows lie in order, or in slots already."""
        return f"{{0, 0, 0, 1, 0, 0, {operand}, 0, {int(by_slots)}, {self.made[tensor]}}}"

    def _driver(self, entries: Sequence[tuple[str, int]], interpreter: str) -> str:
        ops, operands, count = self._tables(entries)
        ins, fetched = [f"x{i}" for i in range(len(self.layers.activations))], self.layers.fetched
        name = f"{PREFIX}strips"
        parameters = ", ".join(f"const {'void' if k in fetched else 'int8_t'} *{x}" for k, x in enumerate(ins))
        signature = f"void {name}({parameters}, int8_t *out, const void *packed, void *scratch)"
        status = f"((const {fetch.STRUCT} *)x{fetched[0]})->status" if fetched else "0"
        step = self.segment.paces[0].step
        return (
            f"{signature};\n{signature} {{\n"
            f"  static const tiny_strip_op ops[{len(ops)}] = {{\n    " + ",\n    ".join(ops) + "};\n"
            f"  static const tiny_strip_rows operands[{len(operands)}] = {{\n    " + ",\n    ".join(operands) + "};\n"
            f"  const int8_t *rows[{self._most_pointers()}];\n  uint16_t begin[{count}] = {{0}}, end[{count}] = {{0}};\n"
            f"  const int8_t *const bases[{2 + len(ins)}] = {{scratch, out, {', '.join(ins)}}};\n"
            f"  int8_t *const writable[2] = {{scratch, out}};\n"
            f"  const tiny_strips stage = {{ops, ops + {len(ops)}, operands, bases, writable, packed, scratch,\n"
            f"                             {status}, {self.segment.count * step}, {step}}};\n"
            f"  {interpreter}(&stage, begin, end, rows);\n}}\n"
        )

    def _most_pointers(self) -> int:
        """Row pointers of the call that has most."""

        def pointers(j: int) -> int:
            op, count = self.graph.ops[j], self.most[j]
            windows = (count - 1) * op.rows.stride + op.rows.extent if op.kind == "window" else count
            return windows + (len(op.inputs) - 1) * count

        return max(pointers(j) for j in range(len(self.graph.ops)))


def _interpreter() -> CFunction:
    name = f"{PREFIX}run_strips"
    return CFunction(
        name,
        f"typedef void tiny_strip_kernel({SIGNATURE});\n"
        "/* Rows of a tensor. Those that operator `maker` has made in this strip lie from `offset` on, earlier ones in the slots from\n"
        " * `kept` on, row r in slot r % slots; without a maker (255) all lie from `offset` on. Row f of an output reads `count` rows\n"
        " * from f * stride - before on. */\n"
        "typedef struct {\n  uint32_t offset, kept, row_bytes;\n  int32_t height;\n  uint16_t slots;\n  int16_t before;\n"
        "  uint8_t base, maker, stride, count;\n} tiny_strip_rows;\n"
        "/* An operator: its output is operand number `operands`, its inputs follow; it is done with (rows + shift) / divide rows of\n"
        " * `height` after `rows` of the clock, `most` a call. Without a kernel: the last rows operator `self` has made of its operand\n"
        " * are copied to its slots; where `most` is set they lie in as many slots already. */\n"
        "typedef struct {\n  tiny_strip_kernel *kernel;\n  uint32_t packed, scratch;\n  int32_t divide, shift, height;\n"
        "  uint16_t operands;\n  uint8_t inputs, most, self;\n} tiny_strip_op;\n"
        "typedef struct {\n  const tiny_strip_op *ops, *last;\n  const tiny_strip_rows *operands;\n  const int8_t *const *bases;\n"
        "  int8_t *const *writable;\n  const uint8_t *packed;\n  uint8_t *scratch;\n"
        "  const int32_t *status; /* of the application's functions; none: a null pointer */\n  int32_t rows, step;\n} tiny_strips;\n"
        f"static void {name}(const tiny_strips *s, uint16_t *begin, uint16_t *end, const int8_t **pointers) {{\n"
        "  for (int32_t clock = s->step; clock <= s->rows; clock += s->step) {\n"
        "    for (const tiny_strip_op *op = s->ops; op != s->last; ++op) {\n"
        "      const tiny_strip_rows *out = s->operands + op->operands;\n"
        "      if (op->kernel == 0) {\n"
        "        const int32_t low = begin[op->self], high = end[op->self];\n"
        "        for (int32_t r = high - low > out->slots ? high - out->slots : low; r < high; ++r) {\n"
        "          const uint32_t slot = (uint32_t)r % out->slots, from = op->most != 0 ? slot : (uint32_t)(r - low);\n"
        "          memcpy(s->scratch + out->kept + slot * out->row_bytes, s->scratch + out->offset + from * out->row_bytes,\n"
        "                 out->row_bytes);\n        }\n"
        "        continue;\n      }\n"
        "      const int32_t low = end[op->self], done = clock + op->shift < 0 ? 0 : (clock + op->shift) / op->divide;\n"
        "      const int32_t high = done < op->height ? done : op->height;\n"
        "      begin[op->self] = (uint16_t)low;\n      end[op->self] = (uint16_t)high;\n"
        "      for (int32_t f = low; f < high; f += op->most) {\n"
        "        const int32_t stop = high - f < op->most ? high : f + op->most;\n"
        "        const int8_t **next = pointers;\n"
        "        const tiny_strip_rows *in = out;\n"
        "        for (uint32_t k = op->inputs; k != 0; --k) {\n"
        "          ++in;\n"
        "          const int8_t *base = s->bases[in->base], *row = base + in->offset;\n"
        "          const int32_t first = in->maker == 255 ? 0 : begin[in->maker];\n"
        "          int32_t r = f * in->stride - in->before;\n"
        "          const int32_t after = r + (stop - f - 1) * in->stride + in->count;\n"
        "          const int32_t last = after < in->height ? after : in->height;\n"
        "          for (; r < 0 && r < after; ++r) *next++ = row; /* in the padding: not read */\n"
        "          if (r < first) {\n"
        "            uint32_t slot = (uint32_t)r % in->slots;\n"
        "            for (; r < first && r < last; ++r) {\n"
        "              *next++ = base + in->kept + slot * in->row_bytes;\n"
        "              if (++slot == in->slots) slot = 0;\n"
        "            }\n          }\n"
        "          if (r < last) row += (uint32_t)(r - first) * in->row_bytes;\n"
        "          for (; r < last; ++r, row += in->row_bytes) *next++ = row;\n"
        "          for (; r < after; ++r) *next++ = base;\n"
        "        }\n"
        "        const int32_t start = out->maker == 255 ? 0 : low;\n"
        "        int8_t *to = s->writable[out->base] + out->offset + (uint32_t)(f - start) * out->row_bytes;\n"
        "        op->kernel(pointers, to, f, stop, s->packed + op->packed, s->scratch + op->scratch);\n"
        "        if (s->status != 0 && *s->status != 0) return;\n"
        "      }\n    }\n  }\n}\n",
    )
