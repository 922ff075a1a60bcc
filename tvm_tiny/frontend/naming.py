# SPDX-License-Identifier: Apache-2.0
"""Names that survive the import: Relax variables called after the source model's tensors, and the table that leads back.

The importers bind every operator's final value to a variable whose `name` is the sanitised name of the tensor it stands for. The
module attribute `tiny.model` (JSON) says what each is:

    {"name": file stem, "format": "tflite" | "onnx",
     "inputs":  [{"name", "dtype", "shape", "scale", "zero_point"}],      # the model's own names and order
     "outputs": [{"name", "dtype", "shape", "scale", "zero_point"}],
     "tensors": {variable name: {"name", "shape", "dtype", "scale", "zero_point", "op", "node"}}}

`scale` and `zero_point` are null for float tensors; `op` is the source format's operator ("CONV_2D", "Conv"; "INPUT" for a model input) and
`node` its index in the source graph (-1 for an input). Names never start like Relax's own temporaries (`lv`, `gv`).
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

import tvm
from tvm import relax

from tvm_tiny.ops.graph import substitute

ATTRIBUTE = "tiny.model"


@dataclass(frozen=True)
class TensorInfo:
    """What the source model says of one tensor. `scale` is the float32 the file holds, as a Python float."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    op: str = "INPUT"
    node: int = -1

    def port(self) -> dict[str, object]:
        """The entry in `inputs` / `outputs`."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "scale": self.scale, "zero_point": self.zero_point}


class Names:
    """Gives every source tensor a unique identifier that is legal in Python, TVMScript and C."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """`name` made an identifier; a clash gets a numbered suffix."""
        hint = re.sub(r"\W", "_", name, flags=re.ASCII)
        if not hint or not (hint[0].isalpha() or hint[0] == "_") or re.fullmatch(r"(lv|gv|main)\d*", hint):
            hint = f"t_{hint}"
        candidate, number = hint, 1
        while candidate in self._taken:
            candidate, number = f"{hint}_{number}", number + 1
        self._taken.add(candidate)
        return candidate


@dataclass(frozen=True)
class Sheet:
    """What becomes of `tiny.model`: the model's name and format, its ports, and the tensor behind every named variable."""

    name: str
    format: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    tensors: dict[str, TensorInfo]

    def json(self, names: set[str]) -> str:
        """The text of the attribute; of `tensors` only those whose variable is in `names`."""
        table = {hint: asdict(info) for hint, info in self.tensors.items() if hint in names}
        ports = {"inputs": [i.port() for i in self.inputs], "outputs": [o.port() for o in self.outputs]}
        return json.dumps({"name": self.name, "format": self.format, **ports, "tensors": table})


def finish(mod: tvm.IRModule, hints: dict[relax.Var, str], params: list[str], sheet: Sheet) -> tvm.IRModule:
    """The module as the contract wants it: named parameters and values, nothing dead, no alias at the end, no importer attributes.

    Parameters
    ----------
    hints : the name each bound variable shall carry (variables left out are temporaries).
    params : the names of `main`'s parameters in order.
    sheet : what goes into `tiny.model`.
    """
    function = mod["main"]
    builder = relax.BlockBuilder()
    fresh = [relax.Var(name, old.ty) for old, name in zip(function.params, params, strict=True)]
    renamed: dict[relax.Var, relax.Expr] = dict(zip(function.params, fresh, strict=True))
    bindings = {b.var: b.value for block in function.body.blocks for b in block.bindings}
    result = function.body.body
    while isinstance(bindings[result], relax.Var):
        result = bindings.pop(result)
    live = _live(bindings, result)
    with builder.function("main", fresh):
        with builder.dataflow():
            for var, value in bindings.items():
                if var in live:
                    emit = builder.emit_output if var.same_as(result) else builder.emit
                    renamed[var] = emit(substitute(value, renamed), name_hint=hints.get(var, ""))
        builder.emit_func_output(renamed[result])
    names = {*params, *(hint for var, hint in hints.items() if var in live)}
    return builder.get().with_attr(ATTRIBUTE, sheet.json(names))


def _live(bindings: dict[relax.Var, relax.Expr], result: relax.Var) -> set[relax.Var]:
    """The variables `result` depends on."""
    live = {result}
    for var, value in reversed(bindings.items()):
        if var in live:
            live.update(relax.analysis.free_vars(value))
    return live
