# SPDX-License-Identifier: Apache-2.0
"""apply-schedules: every TIR function gets the schedule its rule makes for the target.

Where it may stand: after `lower-ops`, before `plan-memory`.

What it matches: `R.call_tir` of any PrimFunc of the module.
What it does
  1. asks the rules (`tvm_tiny.schedules.rules`) for the function's default schedule, and the tuning records for a faster one;
  2. rebuilds the call with the arguments the scheduled function wants (`tiny.args`, `tiny.packed`; see `schedules/base.py`) and with its
     scratch buffers as further outputs, which are dead at once, so that the planner sees them;
  3. shares one function between calls whose scheduled functions are the same;
  4. grants the result the places that `in-place` asked for, where the kernel promises to be right then.
What it leaves: everything that is no call_tir.

rewrite:
    y = R.call_tir(cls.conv2d, (x, w, b, m, s), R.Tensor(…))
        →  t = R.call_tir(cls.conv2d_2, (x, packed), [R.Tensor(…), R.Tensor((512,), "uint8")])
           y = t[0]
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import tvm
from tvm import relax, tirx
from tvm_ffi import structural_equal, structural_hash

from tvm_tiny.errors import OptionError
from tvm_tiny.explain import Explainer
from tvm_tiny.memory.rights import Rights, grant, promised
from tvm_tiny.memory.room import last_readers, step_room
from tvm_tiny.ops import stage as stage_op
from tvm_tiny.schedules.base import Layer
from tvm_tiny.schedules.code_choice import Contents, Form, Operator, choose_forms
from tvm_tiny.schedules.code_size import BYTES_OF_ENTRY, BYTES_PER_CALL, HAS_SMALL_FORM, OperatorCode, operators_of
from tvm_tiny.schedules.cycles import BOARD_TERMS, added_by_streams, core_of, estimated_cycles, most_live_bytes
from tvm_tiny.schedules.memo import remembered
from tvm_tiny.schedules.recorded import recorded_schedule, row_choices
from tvm_tiny.schedules.rules import default_schedule
from tvm_tiny.target import TinyTarget, parse_target
from tvm_tiny.tuning.records import Records

WHY = Explainer("apply-schedules")
CODE_ATTR = "tiny.code"
"""Module attribute: JSON of what the code takes and why, for the report."""
CYCLES_ATTR = "tiny.cycles"
"""Module attribute: JSON of estimated cycles, in total and by the name of each call's result."""

# The forms of an operator's code: its own, that of layers of equally long sums (depthwise: of the same shift), that of all layers. In which
# of them it shares.
_SMALL, _SHORT = (False, True, True), (False, True, False)

# Attributes that describe one layer, not the code: kept on the call's side table, dropped before functions are compared.
_LAYER_ATTRS = (
    "tiny.constants",
    "tiny.packed",
    "tiny.args",
    "tiny.source",
    "tiny.attrs",
    "tiny.scratch_room",
    "tiny.small_code",
    "tiny.short_code",
    "tiny.step_room",
    "tiny.row_choices",
    "tiny.operators",
    "tiny.last_reader",
    "tiny.intrinsics",
    "tiny.direct",
)

Forms = Sequence[tuple[int, bool]]
"""Of every operator with a choice: the form of its code (own, shared by equally long sums, by all), and whether it is by Winograd."""


@tvm.transform.module_pass(opt_level=0, name="apply-schedules")
class ApplySchedules:
    """See the module's docstring.

    Parameters
    ----------
    target : str or TinyTarget
        Decides which kernels can be used.
    code_budget : int, optional
        Bytes of flash the kernels' code may take (estimated). Where it would take more, layers get kernels that share code with
        others, so that the network loses the fewest cycles by it (`tvm_tiny.schedules.code_choice`). None = no limit.
    flash : int, optional
        Bytes that code (estimated) and constants may take together; met the same way.
    records : Records, optional
        Tuning records; where one fits a layer and the memory beside it, it decides the kernel.
    forms : sequence of (int, bool), optional
        For every convolution and dense layer in order, those in streams included, the form of its code and whether it is by Winograd, as
        "forms" of `CODE_ATTR` tells of another build: so the same kernels run otherwise. No budget then counts.
    arena : int, optional
        What no kernel's scratch should make the arena exceed; where it is None, what streams or patches were chosen for.
    """

    def __init__(
        self,
        target: str | TinyTarget = "c",
        code_budget: int | None = None,
        records: Records | None = None,
        flash: int | None = None,
        arena: int | None = None,
        forms: Forms | None = None,
    ) -> None:
        self.target, self.forms = parse_target(target), forms
        self.records = records if records is not None else Records()
        self.code_budget, self.flash, self.arena = code_budget, flash, arena

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Schedule every function that `main` calls."""
        chosen = _Schedules(mod, self.target, self.records, self.arena)
        decision = chosen.keep_to(self.code_budget, self.flash) if self.forms is None else chosen.take(self.forms)
        chosen.explain()
        rewriter = _Rewriter(mod, chosen)
        for gvar, func in mod.functions_items():
            if isinstance(func, relax.Function):
                rewriter.builder_.update_func(gvar, rewriter.visit_expr(func))
        out = rewriter.builder_.get()
        out = relax.transform.DeadCodeElimination()(out)
        attrs = dict(mod.attrs.items()) if mod.attrs is not None else {}
        return out.with_attrs({**attrs, CODE_ATTR: json.dumps(decision), CYCLES_ATTR: json.dumps(chosen.cycles())})


class _Schedules:
    """The schedule of every call, by the name of its result; remembered, since some take a while to make."""

    def __init__(self, mod: tvm.IRModule, target: TinyTarget, records: Records, arena: int | None = None) -> None:
        self.target = target
        self.records = records
        arena = _planned_arena(mod) if arena is None else arena
        self.room, self.binds = step_room(mod["main"], arena), arena is not None
        self.last_readers = last_readers(mod["main"])
        bindings = [b for block in mod["main"].body.blocks for b in block.bindings]
        self.funcs = {str(b.var.name): mod[b.value.args[0]] for b in bindings if _is_call_tir(b.value)}
        self.row_choices = json.dumps(row_choices(records, target))
        self.more_flash = False
        self.small: dict[str, frozenset[int]] = {}
        self.short: dict[str, frozenset[int]] = {}
        self._made: dict[tuple[str, frozenset[int], frozenset[int], bool], tirx.PrimFunc] = {}

    def of(self, name: str) -> tirx.PrimFunc:
        """The scheduled function of the call bound to `name`."""
        return self._scheduled(name, self.small.get(name, frozenset()), self.short.get(name, frozenset()))

    def _scheduled(self, name: str, small: frozenset[int], short: frozenset[int]) -> tirx.PrimFunc:
        key = (name, small, short, self.more_flash)
        if key not in self._made:
            room = self.room.get(name, 0)
            func = self.funcs[name].with_attr({"tiny.scratch_room": max(0, room)})
            func = func.with_attr({"tiny.small_code": sorted(small), "tiny.short_code": sorted(short)})
            if self.binds:
                func = func.with_attr({"tiny.step_room": room, "tiny.last_reader": name in self.last_readers})
            func = func.with_attr("tiny.row_choices", self.row_choices) if str(func.attrs.get("tiny.op", "")) == "tiny.stage" else func
            self._made[key] = self._schedule(func, recorded=not small)
        return self._made[key]

    def _schedule(self, func: tirx.PrimFunc, *, recorded: bool) -> tirx.PrimFunc:
        def make() -> tirx.PrimFunc:
            default = default_schedule(func, self.target).mod["main"]
            return recorded_schedule(func, self.target, self.records, default, more_flash=self.more_flash) if recorded else default

        return remembered(func, (self.target, recorded, self.more_flash), make)

    def keep_to(self, code: int | None, flash: int | None) -> dict[str, object]:
        """Give operators kernels that share their code, those that lose least by it, until all is within the budgets; say what was decided.

        Recorded kernels that need more flash than the default are taken where there is no budget of code and they fit the other.

        Parameters
        ----------
        code, flash : int, optional
            Bytes of all code; of all code and constants.
        """
        fastest, contents = self._fastest(more_flash=code is None)
        chosen = [0] * len(contents.operators)
        if self.more_flash and not contents.fits(chosen, code, flash):
            fastest, contents = self._fastest(more_flash=False)
        if not contents.fits(chosen, code, flash):
            contents = replace(contents, operators=self._forms(fastest))
            chosen = choose_forms(contents, code, flash)
        return self._settle(fastest, contents, chosen) | {"budget": code, "flash": flash}

    def take(self, forms: Forms) -> dict[str, object]:
        """Give operators the forms that another build of the network gave them; say what that makes.

        Raises
        ------
        OptionError
            They are not as many.
        """
        places = [name for name, func in self.funcs.items() for op in _operators_of(func) if op in HAS_SMALL_FORM]
        if len(places) != len(forms):
            raise OptionError(f"{len(forms)} forms of code for {len(places)} operators", remedy="take those of a build of the same network")
        for name, (_, by_winograd) in zip(places, forms, strict=True):
            self.funcs[name] = self.funcs[name] if by_winograd else self.funcs[name].with_attr("tiny.direct", True)
        fastest, contents = self._fastest(more_flash=False)
        contents = replace(contents, operators=self._forms(fastest))
        return self._settle(fastest, contents, [form for form, _ in forms]) | {"budget": None, "flash": None}

    def _settle(self, fastest: Mapping[str, Mapping[int, OperatorCode]], contents: Contents, chosen: Sequence[int]) -> dict[str, object]:
        """Let operators have the `chosen` forms, and say what that makes."""
        places = [(name, j) for name, found in fastest.items() for j in found]
        for (name, j), form in zip(places, chosen, strict=True):
            self.small[name] = self.small.get(name, frozenset()) | ({j} if _SMALL[form] else set())
            self.short[name] = self.short.get(name, frozenset()) | ({j} if _SHORT[form] else set())
        own = [fastest[name][j] for (name, j), form in zip(places, chosen, strict=True) if form == 0]
        users = Counter(f for operator in own for f in operator.functions)
        return {
            "code_bytes": contents.code(chosen), "constants_bytes": contents.flash(chosen) - contents.code(chosen),
            "operators": len(places), "sharing": sum(form > 0 for form in chosen),
            "own_code_bytes": sum(n for operator in own for f, n in operator.functions.items() if users[f] == 1),
            "transformed_bytes": sum(operator.constants - operator.unpacked for operator in own),
            "forms": [
                [form, any("winograd" in f for f in fastest[name][j].functions)] for (name, j), form in zip(places, chosen, strict=True)
            ],
        }  # fmt: skip

    def _fastest(self, *, more_flash: bool) -> tuple[dict[str, dict[int, OperatorCode]], Contents]:
        """Every operator in its fastest form, and the flash of all."""
        self.more_flash = more_flash
        fastest, functions, constants = self._contents()
        operators = [Operator(name, j, (_form(name, code),)) for name, found in fastest.items() for j, code in found.items()]
        return fastest, Contents(operators, functions, constants)

    def _contents(self) -> tuple[dict[str, dict[int, OperatorCode]], dict[str, int], int]:
        """Operators with a choice of forms by call and number, in their fastest; functions and constants of all else."""
        operators: dict[str, dict[int, OperatorCode]] = {}
        functions: dict[str, int] = {"entry": BYTES_OF_ENTRY}
        constants = 0
        for name in self.funcs:
            found, own, more = self._operators(name)
            operators[name] = {j: o for j, o in enumerate(found) if o.op in HAS_SMALL_FORM}
            rest = [o for o in found if o.op not in HAS_SMALL_FORM]
            loops = name if "tiny.c_sources" in self._scheduled(name, frozenset(), frozenset()).attrs else _equal_loops(self.funcs[name])
            functions |= {function or loops: size for function, size in own.items()} | {f: n for o in rest for f, n in o.functions.items()}
            functions[f"call of {name}"] = BYTES_PER_CALL
            constants += more + sum(o.constants for o in rest)
        return operators, functions, constants

    def _forms(self, fastest: Mapping[str, Mapping[int, OperatorCode]]) -> list[Operator]:
        """Every operator in all its forms."""
        found = []
        for name, operators in fastest.items():
            every = frozenset(operators)
            rule = operators[0].rule if 0 in operators else ""
            made = [self._operators(name, every, every if _SHORT[k] else frozenset(), rule)[0] for k in (1, 2)] if every else []
            for j, own in operators.items():
                found.append(Operator(name, j, tuple(_form(name, o) for o in (own, *(forms[j] for forms in made)))))
        return found

    def _operators(
        self, name: str, small: frozenset[int] = frozenset(), short: frozenset[int] = frozenset(), fastest: str = ""
    ) -> tuple[list[OperatorCode], dict[str, int], int]:
        return operators_of(self._scheduled(name, small, short), Layer.of(self.funcs[name]), self.target, fastest)

    def cycles(self) -> dict[str, object]:
        """Estimated cycles of every call, and the core and the flash they are estimated for."""
        found, added = {}, 0.0
        layers = {name: Layer.of(func) for name, func in self.funcs.items()}
        most = max(map(most_live_bytes, layers.values()), default=0)
        streamed = any(layer is not None and layer.op == "tiny.stage" for layer in layers.values())
        for name, layer in layers.items():
            shared, short = self.small.get(name, frozenset()), self.short.get(name, frozenset())
            layer = replace(layer, small_code=shared, short_code=short) if layer is not None else None
            text = self.of(name).attrs.get("tiny.kernel")
            kernel = json.loads(str(text)) if text is not None else {}
            found[name] = round(estimated_cycles(name, layer, kernel, self.target))
            added += added_by_streams(layer, kernel, self.target, most) if streamed else 0.0
        core, total = core_of(self.target), sum(found.values())
        figures = {"total": total, "streaming": round(added / max(1.0, total - added), 4)}
        return {"core": core, "board_term": BOARD_TERMS[core], **figures, "layers": found}

    def explain(self) -> None:
        """Tell every call's kernel, what else there was and why not."""
        for name in self.funcs:
            attrs = self.of(name).attrs
            kernel = json.loads(str(attrs["tiny.kernel"])) if "tiny.kernel" in attrs else {}
            title = " ".join(str(kernel[k]) for k in ("rule", "kernel", "block") if k in kernel)
            scratch = sum(int(n) for n in attrs.get("tiny.scratch", []))
            source, cycles = kernel.get("source"), kernel.get("cycles")
            if self.small.get(name):
                WHY.accepted(name, title, "shares its code: so the network loses the fewest cycles by its code's budget", bytes=scratch)
                WHY.rejected(name, "a kernel with code of its own", "the kernels' code would exceed its budget")
            elif source is not None:
                WHY.accepted(name, title, f"the fastest measured that costs no memory (records: {source})", bytes=scratch, cycles=cycles)
                other = kernel.get("next_best", {})
                if other:
                    WHY.rejected(name, f"record {other.get('rule')}", "slower where it was measured", cycles=other["cycles"] - cycles)
            else:
                WHY.accepted(name, title, "the first rule that takes the layer", bytes=scratch)


def _form(name: str, operator: OperatorCode) -> Form:
    """A form of an operator of the call `name`; its loops are the call's own."""
    own = f"{name} {operator.functions.get('', 0)}"  # other forms have other loops
    return Form(operator.lost, {function or own: size for function, size in operator.functions.items()}, operator.constants)


def _operators_of(func: tirx.PrimFunc) -> list[str]:
    """The operator of a call, or those of a stage."""
    layer = Layer.of(func)
    if layer is None:
        return []
    return [node.op for node in stage_op.program_of(layer.attrs)] if layer.op == stage_op.NAME else [layer.op]


def _equal_loops(func: tirx.PrimFunc) -> str:
    """Equal for functions of loops alone that are one function in C."""
    return " ".join(str(func.attrs.get(key, "")) for key in ("tiny.op", "tiny.attrs")) + str([str(p.ty) for p in func.params])


def _is_call_tir(expr: relax.Expr) -> bool:
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name == "relax.call_tir"


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, mod: tvm.IRModule, schedules: _Schedules) -> None:
        super().__init__(mod)
        self.mod = mod
        self.schedules = schedules
        self.name = ""
        self.shared: dict[int, list[tuple[tirx.PrimFunc, relax.GlobalVar]]] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        self.name = str(binding.var.name)
        super().visit_var_binding_(binding)

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        return self._new_call(call, self.schedules.of(self.name)) if _is_call_tir(call) else call

    def _new_call(self, call: relax.Call, scheduled: tirx.PrimFunc) -> relax.Expr:
        attrs = scheduled.attrs
        args = list(call.args[1].fields)
        if "tiny.args" in attrs:
            args = [_argument(str(a), args, attrs) for a in attrs["tiny.args"]]
        outs = list(call.ty_args)
        scratch = [int(n) for n in attrs.get("tiny.scratch", [])]
        outs += [relax.TensorType((n,), "uint8") for n in scratch]
        outputs = [p.name for p in scheduled.params[len(args) :]]
        clean = scheduled.with_attr("tiny.outputs", outputs)
        for key in _LAYER_ATTRS:
            clean = clean.without_attr(key) if key in clean.attrs else clean
        gvar = self._share(clean, call.args[0].name_hint)
        new = grant(relax.call_tir(gvar, args, outs if len(outs) > 1 else outs[0]), _in_place(scheduled))
        if not scratch:
            return new
        return relax.TupleGetItem(self.builder_.emit(new, name_hint=self.name), 0)

    def _share(self, func: tirx.PrimFunc, hint: str) -> relax.GlobalVar:
        """Return the function equal to `func` that the module holds already, or add it."""
        candidates = self.shared.setdefault(structural_hash(func), [])
        for known, gvar in candidates:
            if structural_equal(known, func):
                return gvar
        gvar = self.builder_.add_func(func, f"{hint}_k")
        candidates.append((func, gvar))
        return gvar


def _in_place(func: tirx.PrimFunc) -> Rights:
    """What the kernel promises for the arguments whose places the pass `in-place` gave to the result."""
    wanted = json.loads(str(func.attrs["tiny.attrs"])).get("in_place", []) if "tiny.attrs" in func.attrs else []
    order = [str(a).removeprefix("arg:") for a in func.attrs.get("tiny.args", [])]
    places = [order.index(str(i)) if order else i for i in wanted]
    return {(0, p): [("in-place", 0)] for p in places if ("in-place", 0) in promised(func).get((0, p), [])}


def _planned_arena(mod: tvm.IRModule) -> int | None:
    """The arena `stream-rows` or `patch-inference` has chosen, where they changed something: no kernel may spend what that has saved."""
    for attribute in ("tiny.stream", "tiny.patches"):
        text = mod.attrs.get(attribute) if mod.attrs is not None else None
        chosen = json.loads(str(text))["chosen"] if text is not None else {}
        if (chosen.get("segments") or chosen.get("grid")) and "arena_bytes" in chosen:
            return int(chosen["arena_bytes"])
    return None


def _argument(spec: str, args: list[relax.Expr], attrs: tvm.ir.DictAttrs) -> relax.Expr:
    kind, _, index = spec.partition(":")
    return args[int(index)] if kind == "arg" else relax.const(attrs["tiny.packed"][int(index)])
