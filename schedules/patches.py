# SPDX-License-Identifier: Apache-2.0
"""Stages in patches (`tiny.stage` as `patch-inference` makes it): row kernels driven by tables, tile by tile.

The C is one small interpreter, shared by all stages of all networks in the image, and per stage constant tables: operators and their
operands, the rows of every tensor in each row of tiles, and for each column of tiles where its operands begin and which kernels it takes.
Columns of tiles of equal geometry share their kernels; rows need none of their own, since row kernels know the true height and are told
which rows to compute. Padding is the kernels': they have it on the sides where a column of tiles touches the border.
Scratch holds the tile buffers and the kernels' scratch as `tvm_tiny.memory.patches.tile_plan` places them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.codegen.names import PREFIX
from tvm_tiny.memory.patches import PatchStage, Spans, TileKernels, axis_reads, patch_stage, stage_distance, tile_plan
from tvm_tiny.memory.rows import RowOp
from tvm_tiny.ops import stage as stage_op
from tvm_tiny.schedules import fetch
from tvm_tiny.schedules.base import Applied, Layer
from tvm_tiny.schedules.code_size import operator_entry
from tvm_tiny.schedules.microkernels import CFunction, Core, MicroKernel
from tvm_tiny.schedules.patch_costs import rows_together
from tvm_tiny.schedules.row_form import SIGNATURE, RowKernel
from tvm_tiny.schedules.row_kernels import tile_kernel
from tvm_tiny.schedules.stage_layers import StageLayers
from tvm_tiny.schedules.tensorize import named_by_content, tensorized
from tvm_tiny.target import TinyTarget

_ALIGN = 4


def apply(func: tirx.PrimFunc, target: TinyTarget, _tunable: bool) -> Applied:
    """Take `tiny.stage` with a patch schedule."""
    layer = Layer.of(func)
    if layer is None or layer.op != stage_op.NAME or "grid" not in json.loads(layer.attrs["schedule"]):
        return None
    stage = PatchedStage(layer, Core.of(target.mcpu))
    down, across = stage.stage.grid
    fetched = stage.layers.fetched
    shared = {i: stage_distance(stage.graph, stage.stage, name) for i, name in enumerate(stage.graph.inputs) if i not in fetched}
    rights = {i: [["ascending", d]] for i, d in shared.items()}
    notes: dict[str, Any] = {"operators": len(stage.graph.ops), "patches": f"{down}x{across}", "kernels": len(stage.kernels)}
    made = tensorized(stage.kernel(), func, "patches", rights=rights, fetched=fetched, **notes)
    return Schedule(tvm.IRModule({"main": made.mod["main"].with_attr("tiny.operators", json.dumps(stage.operators()))}))


@dataclass(frozen=True)
class _Geometry:
    """What a kernel must know of its column of tiles: widths of the activations by argument number and of the output (-1), padding at the
    sides, and, where pixels are asked for by their place, the first column."""

    op: int
    widths: tuple[tuple[int, int], ...]
    padding: tuple[int, int]
    column: int = 0


class PatchedStage:
    """A stage read back from its function, its kernels for every kind of column, and where every tile buffer lies."""

    def __init__(self, layer: Layer, core: Core) -> None:
        self.layers, self.core = StageLayers.of(layer), core
        self.graph = self.layers.graph()
        down, across = json.loads(layer.attrs["schedule"])["grid"]
        self.stage: PatchStage = patch_stage(self.graph, 0, len(self.graph.ops), (down, across))
        self.together = {op.name: rows_together(self.graph, self.stage, op, self._kind(i)) for i, op in enumerate(self.graph.ops)}
        self.kernels: dict[_Geometry, RowKernel] = {}
        self.columns = [tuple(self._geometry(j, column) for j in range(len(self.graph.ops))) for column in self.stage.columns]
        for geometry in dict.fromkeys(g for column in self.columns for g in column):
            self.kernels[geometry] = self._kernel(geometry)
        scratch = {op.name: max(k.scratch_bytes for g, k in self.kernels.items() if g.op == j) for j, op in enumerate(self.graph.ops)}
        needs = TileKernels(lambda op: scratch[op.name], lambda op: self.together[op.name])
        self.plan = tile_plan(self.graph, self.stage, needs, align=_ALIGN)
        self.classes = list(dict.fromkeys(self.columns))

    # -- kernels

    def _kind(self, j: int) -> str:
        return self.layers.inner[j].op.removeprefix("tiny.")

    def _geometry(self, j: int, column: Spans) -> _Geometry:
        op = self.graph.ops[j]
        low, high = column[op.output]
        reads = [axis_reads(self.graph, op, k, (low, high), False) for k in range(len(op.inputs))]
        at = [k for k, ref in enumerate(self.layers.inner[j].args) if ref[0] == "node" or ref[1] in self.layers.activations]
        widths = (*((k, b - a) for k, (a, b) in zip(at, reads, strict=True)), (-1, high - low))
        padding = op.columns.padding(low, high, self.graph.tensors[op.inputs[0]].width)
        return _Geometry(j, widths, padding, low if self._kind(j) == "fetch" else 0)

    def _kernel(self, geometry: _Geometry) -> RowKernel:
        attrs = self.layers.inner[geometry.op].attrs
        sides: dict[str, list[int]] = {}
        if "padding" in attrs:
            top, _, bottom, _ = attrs["padding"]
            sides = {"padding": [top, geometry.padding[0], bottom, geometry.padding[1]]}
        layer = self.layers.layer_of(geometry.op, dict(geometry.widths), sides)
        return tile_kernel(layer, self.core, self.together[self.graph.ops[geometry.op].name], geometry.column)

    # -- C

    def kernel(self) -> MicroKernel:
        """The whole stage as a kernel `name(inputs…, out, packed, scratch)`."""
        functions: dict[str, CFunction] = {}
        starts: dict[bytes, int] = {}
        blob = b""
        entries: dict[_Geometry, str] = {}
        for geometry, kernel in self.kernels.items():
            made, renamed = named_by_content(kernel.functions)
            functions |= {f.name: f for f in made}
            if kernel.packed not in starts:
                starts[kernel.packed] = len(blob)
                blob += kernel.packed + bytes(-len(kernel.packed) % _ALIGN)
            entries[geometry] = f"{{{renamed[kernel.name]}, {starts[kernel.packed]}}}"
        interpreter = _interpreter()
        driver = CFunction(f"{PREFIX}patches", self._driver(entries, interpreter.name))
        return MicroKernel(
            name=driver.name,
            functions=(*functions.values(), interpreter, driver),
            packed=blob,
            scratch_bytes=self.plan.arena_bytes,
            input_shape=self.layers.infos[0].shape,
            output_shape=self.layers.results[-1].shape,
            macs=self.stage.macs,
            reference=lambda x: x,
            inputs=len(self.layers.activations),
        )

    def operators(self) -> list[dict[str, object]]:
        """`tiny.operators`: what each operator's code is made of, for all columns of tiles."""
        names: list[set[str]] = [set() for _ in self.graph.ops]
        packed: list[set[bytes]] = [set() for _ in self.graph.ops]
        for geometry, kernel in self.kernels.items():
            names[geometry.op] |= {f.name for f in named_by_content(kernel.functions)[0]}
            packed[geometry.op].add(kernel.packed)
        sizes = [sum(map(len, blobs)) for blobs in packed]
        return [operator_entry(self.layers.layer_of(j), own, sizes[j], self.core) for j, own in enumerate(names)]

    def _resident(self, tensor: str) -> bool:
        return tensor in self.graph.inputs or tensor == self.stage.output

    def _is_fetched(self, tensor: str) -> bool:
        return tensor in self.graph.inputs and self.graph.inputs.index(tensor) in self.layers.fetched

    def _base(self, tensor: str) -> int:
        """0 is scratch, 1 the output, 2 + i input i."""
        return 1 if tensor == self.stage.output else 2 + self.graph.inputs.index(tensor) if tensor in self.graph.inputs else 0

    def _operands(self) -> list[tuple[RowOp, int | None]]:
        """(operator, None for its output or the number of an input), in the order of the tables."""
        return [(op, k) for op in self.graph.ops for k in (None, *range(len(op.inputs)))]

    def _view(self, op: RowOp, position: int | None, column: Spans) -> str:
        """Where the operand's first pixel lies in this column of tiles, and how far its rows are apart."""
        tensor = op.output if position is None else op.inputs[position]
        data, (left, right) = self.graph.tensors[tensor], column[tensor]
        first = column[tensor][0] if position is None else axis_reads(self.graph, op, position, column[op.output], False)[0]
        if self._is_fetched(tensor):
            return "{0, 0}"  # not pixels but what makes them
        if self._resident(tensor):
            return f"{{{first * data.pixel_bytes}, {data.row_bytes}}}"
        return f"{{{self.plan.offset(tensor) + (first - left) * data.pixel_bytes}, {(right - left) * data.pixel_bytes}}}"

    def _operand(self, op: RowOp, position: int | None, tensors: Sequence[str]) -> str:
        tensor = op.output if position is None else op.inputs[position]
        stride, before, count = (op.rows.stride, op.rows.before, op.rows.extent) if op.kind == "window" and position == 0 else (1, 0, 1)
        if self._is_fetched(tensor):
            stride = 0
        whole = int(self._resident(tensor))
        fields = (self.graph.tensors[tensor].height, before, count, stride, tensors.index(tensor), self._base(tensor), whole)
        return f"{{{', '.join(map(str, fields))}}}"

    def _driver(self, entries: dict[_Geometry, str], interpreter: str) -> str:
        ops, operands = self.graph.ops, self._operands()
        tensors = list(dict.fromkeys(t for op in ops for t in (op.output, *op.inputs)))
        first = [next(i for i, (o, _) in enumerate(operands) if o is op) for op in ops]
        scratch = [self.plan.placements[f"{op.name}.scratch"].offset if f"{op.name}.scratch" in self.plan.placements else 0 for op in ops]
        together = [self.together[op.name] for op in ops]
        tables = {
            "static const tiny_tile_kernel kernels": [entries[g] for kind in self.classes for g in kind],
            "static const tiny_tile_op ops": [f"{{{scratch[i]}, {first[i]}, {len(op.inputs)}, {together[i]}}}" for i, op in enumerate(ops)],
            "static const tiny_tile_operand operands": [self._operand(op, k, tensors) for op, k in operands],
            "static const tiny_tile_view views": [self._view(op, k, column) for column in self.stage.columns for op, k in operands],
            "static const int16_t rows": [f"{r[t][0]}, {r[t][1]}" for r in self.stage.rows for t in tensors],
            "static const uint8_t classes": [str(self.classes.index(column)) for column in self.columns],
        }
        lengths = {"static const int16_t rows": 2 * len(self.stage.rows) * len(tensors)}
        declared = "".join(f"  {k}[{lengths.get(k, len(v))}] = {{\n    {_lines(v)}}};\n" for k, v in tables.items())
        ins, fetched = [f"x{i}" for i in range(len(self.layers.activations))], self.layers.fetched
        name = f"{PREFIX}patches"
        parameters = ", ".join(f"const {'void' if k in fetched else 'int8_t'} *{x}" for k, x in enumerate(ins))
        signature = f"void {name}({parameters}, int8_t *out, const void *packed, void *scratch)"
        status = f"((const {fetch.STRUCT} *)x{fetched[0]})->status" if fetched else "0"
        down, across = self.stage.grid
        sizes = f"{down}, {across}, {len(ops)}, {len(tensors)}, {len(operands)}"
        return (
            f"{signature};\n{signature} {{\n{declared}"
            f"  const int8_t *pointers[{self._most_pointers(together)}];\n"
            f"  const int8_t *const bases[{2 + len(ins)}] = {{scratch, out, {', '.join(ins)}}};\n"
            f"  int8_t *const writable[2] = {{scratch, out}};\n"
            f"  const tiny_patches stage = {{kernels, ops, operands, views, rows, classes, bases, writable, packed, scratch, {status},\n"
            f"                              {sizes}}};\n"
            f"  {interpreter}(&stage, pointers);\n}}\n"
        )

    def _most_pointers(self, together: Sequence[int]) -> int:
        """Row pointers of the call that has most."""

        def pointers(op: RowOp, count: int) -> int:
            windows = (count - 1) * op.rows.stride + op.rows.extent if op.kind == "window" else count
            return windows + (len(op.inputs) - 1) * count

        return max(pointers(op, n) for op, n in zip(self.graph.ops, together, strict=True))


def _lines(entries: Sequence[str], width: int = 120) -> str:
    lines, line = [], ""
    for entry in entries:
        if line and len(line) + len(entry) > width:
            lines.append(line)
            line = ""
        line += f"{', ' if line else ''}{entry}"
    return ",\n    ".join([*lines, line])


def _interpreter() -> CFunction:
    name = f"{PREFIX}run_patches"
    return CFunction(
        name,
        f"typedef void tiny_patch_kernel({SIGNATURE});\n"
        "typedef struct {\n  tiny_patch_kernel *kernel;\n  uint32_t packed;\n} tiny_tile_kernel;\n"
        "/* An operator: its output is operand number `operands`, its inputs follow; `together` rows are computed by one call. */\n"
        "typedef struct {\n  uint32_t scratch;\n  uint16_t operands;\n  uint8_t inputs, together;\n} tiny_tile_op;\n"
        "/* Output row f reads `count` rows from f * stride - before on. `whole`: all rows of the tensor exist, not a tile's. */\n"
        "typedef struct {\n  int32_t height;\n  int16_t before;\n  uint16_t count;\n  uint8_t stride, tensor, base, whole;\n"
        "} tiny_tile_operand;\n"
        "typedef struct {\n  uint32_t offset, row_bytes;\n} tiny_tile_view;\n"
        "typedef struct {\n  const tiny_tile_kernel *kernels;\n  const tiny_tile_op *ops;\n  const tiny_tile_operand *operands;\n"
        "  const tiny_tile_view *views;\n  const int16_t *rows;\n  const uint8_t *classes;\n  const int8_t *const *bases;\n"
        "  int8_t *const *writable;\n  const uint8_t *packed;\n  uint8_t *scratch;\n"
        "  const int32_t *status; /* of the application's functions; none: a null pointer */\n"
        "  int32_t down, across, count, tensors, operand_count;\n} tiny_patches;\n"
        f"static void {name}(const tiny_patches *s, const int8_t **pointers) {{\n"
        "  for (int32_t tile = 0; tile < s->down * s->across; ++tile) {\n"
        "    const int32_t column = tile % s->across;\n"
        "    const int16_t *spans = s->rows + 2 * s->tensors * (tile / s->across);\n"
        "    const tiny_tile_view *views = s->views + s->operand_count * column;\n"
        "    const tiny_tile_kernel *kernels = s->kernels + s->count * s->classes[column];\n"
        "    for (int32_t k = 0; k < s->count; ++k) {\n"
        "      const tiny_tile_op *op = s->ops + k;\n"
        "      const tiny_tile_operand *out = s->operands + op->operands;\n"
        "      const tiny_tile_view *view = views + op->operands;\n"
        "      const int32_t low = spans[2 * out->tensor], high = spans[2 * out->tensor + 1], start = out->whole ? 0 : low;\n"
        "      for (int32_t f = low; f < high; f += op->together) {\n"
        "        const int32_t end = high - f < op->together ? high : f + op->together;\n"
        "        const int8_t **next = pointers;\n"
        "        for (int32_t n = 1; n <= op->inputs; ++n) {\n"
        "          const tiny_tile_operand *in = out + n;\n"
        "          const int8_t *base = s->bases[in->base] + view[n].offset;\n"
        "          const int32_t top = in->whole ? 0 : spans[2 * in->tensor];\n"
        "          int32_t r = f * in->stride - in->before;\n"
        "          for (int32_t left = (end - f - 1) * in->stride + in->count; left != 0; --left, ++r)\n"
        "            *next++ = base + (r < 0 || r >= in->height ? 0u : (uint32_t)(r - top) * view[n].row_bytes);\n        }\n"
        "        int8_t *to = s->writable[out->base] + view->offset + (uint32_t)(f - start) * view->row_bytes;\n"
        "        kernels[k].kernel(pointers, to, f, end, s->packed + kernels[k].packed, s->scratch + op->scratch);\n"
        "        if (s->status != 0 && *s->status != 0) return;\n"
        "      }\n    }\n  }\n}\n",
    )
