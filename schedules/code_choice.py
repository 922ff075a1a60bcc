# SPDX-License-Identifier: Apache-2.0
"""Which form of its code every operator gets: the fewest cycles lost that budgets of bytes allow, solved for the whole network at once.

Operators share functions, so a form's price depends on what the others take: a block of code is paid for by the first that uses it. That
is a knapsack with shared items, and CP-SAT solves it. One worker, a fixed seed and deterministic time make equal networks give equal code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

_EFFORT = 8.0  # deterministic seconds; networks of a hundred operators are proved in less than one
_SCALE = 10  # tenths of a cycle


@dataclass(frozen=True)
class Form:
    """One way to make an operator: cycles more than the fastest way, bytes by function, bytes of constants."""

    lost: float
    functions: Mapping[str, int]
    constants: int = 0


@dataclass(frozen=True)
class Operator:
    """One operator that can be made in several forms, the fastest first.

    Attributes
    ----------
    call, number : str, int
        The call's result, and the operator's number where the call is a stage, else 0.
    """

    call: str
    number: int
    forms: tuple[Form, ...]


@dataclass(frozen=True)
class Contents:
    """What a network brings into flash: operators with a choice of forms; functions and constants of everything else."""

    operators: Sequence[Operator]
    functions: Mapping[str, int]
    constants: int = 0

    def code(self, chosen: Sequence[int]) -> int:
        """Bytes of all functions, each once, with these forms."""
        functions = dict(self.functions)
        for form in self._forms(chosen):
            functions.update(form.functions)
        return sum(functions.values())

    def flash(self, chosen: Sequence[int]) -> int:
        """Bytes of code and constants."""
        return self.code(chosen) + self.constants + sum(form.constants for form in self._forms(chosen))

    def fits(self, chosen: Sequence[int], code: int | None, flash: int | None) -> bool:
        """Whether these forms keep to the budgets; None is no budget."""
        return (code is None or self.code(chosen) <= code) and (flash is None or self.flash(chosen) <= flash)

    def _forms(self, chosen: Sequence[int]) -> Iterable[Form]:
        return (operator.forms[k] for operator, k in zip(self.operators, chosen, strict=True))


def choose_forms(contents: Contents, code: int | None, flash: int | None = None) -> list[int]:
    """The number of each operator's form: the least cycles lost with code, and code with constants, within their budgets.

    Where nothing keeps to them: the least bytes beyond.
    """
    fastest = [0] * len(contents.operators)
    if contents.fits(fastest, code, flash):
        return fastest
    model = _Model(contents)
    beyond = model.beyond(code, flash)
    model.cp.minimize(beyond)
    solver = model.solve()
    model.cp.add(beyond <= round(solver.objective_value))
    model.hint(solver)
    model.cp.minimize(model.lost())
    solver = model.solve()
    return [next(k for k, taken in enumerate(forms) if solver.boolean_value(taken)) for forms in model.taken]


class _Model:
    """The choice in CP-SAT's terms."""

    def __init__(self, contents: Contents) -> None:
        self.contents, self.cp = contents, cp_model.CpModel()
        self.taken = [[self.cp.new_bool_var(f"{o.call} {o.number} {k}") for k in range(len(o.forms))] for o in contents.operators]
        self.used: dict[str, cp_model.IntVar] = {}
        self.size: dict[str, int] = {}
        for operator, forms in zip(contents.operators, self.taken, strict=True):
            self.cp.add_exactly_one(forms)
            for form, taken in zip(operator.forms, forms, strict=True):
                self._use(form, taken)

    def _use(self, form: Form, taken: cp_model.IntVar) -> None:
        for name, size in form.functions.items():
            if name not in self.contents.functions:
                self.size[name] = size
                self.cp.add_implication(taken, self.used.setdefault(name, self.cp.new_bool_var(name)))

    def beyond(self, code: int | None, flash: int | None) -> cp_model.IntVar:
        """Bytes beyond the budgets."""
        total = self.cp.new_int_var(0, 1 << 40, "beyond")
        bytes_of_code = sum(self.contents.functions.values()) + sum(self.size[name] * used for name, used in self.used.items())
        if code is not None:
            self.cp.add(total >= bytes_of_code - code)
        if flash is not None:
            constants = sum(form.constants * taken for form, taken in self._all())
            self.cp.add(total >= bytes_of_code + constants + self.contents.constants - flash)
        return total

    def lost(self) -> cp_model.LinearExprT:
        """Cycles lost, scaled."""
        return sum(round(_SCALE * form.lost) * taken for form, taken in self._all())

    def _all(self) -> Iterable[tuple[Form, cp_model.IntVar]]:
        """Every form of every operator, and whether it is taken."""
        for operator, forms in zip(self.contents.operators, self.taken, strict=True):
            yield from zip(operator.forms, forms, strict=True)

    def hint(self, solver: cp_model.CpSolver) -> None:
        """Start the next search from what the last one found."""
        self.cp.clear_hints()  # type: ignore[no-untyped-call, unused-ignore]
        for taken in (t for forms in self.taken for t in forms):
            self.cp.add_hint(taken, solver.boolean_value(taken))

    def solve(self) -> cp_model.CpSolver:
        """Search; every network has a choice, so that something is always found."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 0
        solver.parameters.max_deterministic_time = _EFFORT
        status = solver.solve(self.cp)
        assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE), solver.status_name(status)
        return solver
