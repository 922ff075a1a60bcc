# SPDX-License-Identifier: Apache-2.0
"""The choice of forms under budgets of bytes: the fewest cycles lost, shared functions paid for once, every choice the best there is."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_tiny.schedules.code_choice import Contents, Form, Operator, choose_forms


def operator(name: str, lost: float, own: int, shared: int = 100, constants: tuple[int, int] = (0, 0)) -> Operator:
    """An operator of `own` bytes, or of 10 and a function of all."""
    small = {f"{name} table": 10, "shared": shared}
    return Operator(name, 0, (Form(0.0, {f"{name} fast": own}, constants[0]), Form(lost, small, constants[1])))


def test_the_fastest_within_the_budget() -> None:
    assert choose_forms(Contents([operator("a", 1, 500)], {"entry": 100}), 600) == [0]


def test_those_that_lose_least_share() -> None:
    contents = Contents([operator("dear", 1000, 500), operator("cheap", 10, 500), operator("large", 500, 5000)], {})
    assert choose_forms(contents, 5700) == [0, 1, 0]
    assert choose_forms(contents, 1000) == [0, 1, 1]
    assert choose_forms(contents, 0) == [1, 1, 1]


def test_shared_code_counts_once() -> None:
    contents = Contents([operator("a", 1, 500), operator("b", 1, 500)], {"entry": 7})
    assert [contents.code(forms) for forms in ((0, 0), (1, 0), (1, 1))] == [1007, 617, 127]


def test_a_function_of_two_operators_is_no_gain_for_one() -> None:
    def of(name: str, lost: float, fast: dict[str, int]) -> Operator:
        return Operator(name, 0, (Form(0.0, fast), Form(lost, {"s": 90})))

    operators = [of("a", 1.0, {"both": 800}), of("b", 1.0, {"both": 800}), of("c", 1.9, {"own": 800})]
    assert choose_forms(Contents(operators, {}), 1000) == [0, 0, 1]


def test_the_middle_form_where_it_pays() -> None:
    def of(name: str, least: float) -> Operator:
        return Operator(name, 0, (Form(0.0, {name: 600}), Form(5.0, {"of this length": 300}), Form(least, {"any": 200})))

    operators = [of("a", 50), of("b", 60), of("c", 7)]
    assert choose_forms(Contents(operators, {}), 500) == [1, 1, 1]
    assert choose_forms(Contents(operators, {}), 250) == [2, 2, 2]
    assert sorted(choose_forms(Contents(operators, {}), 900)) == [0, 1, 1]


def test_flash_counts_constants_too() -> None:
    contents = Contents([operator("small", 1, 300), operator("heavy", 300, 500, constants=(9000, 2500))], {}, constants=1000)
    assert contents.flash((0, 0)) == 500 + 300 + 9000 + 1000
    assert choose_forms(contents, None, 10_700) == [1, 0]
    assert choose_forms(contents, None, 6000) == [0, 1]
    assert choose_forms(contents, 700, 10_700) == [1, 0]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nothing_better_exists(data: st.DataObject) -> None:
    """Against every combination of forms."""
    names = st.dictionaries(st.sampled_from("abcdef"), st.just(0), max_size=3)
    sizes = {name: data.draw(st.integers(1, 50)) for name in "abcdef"}

    def form() -> Form:
        return Form(data.draw(st.integers(0, 40)), {name: sizes[name] for name in data.draw(names)}, data.draw(st.integers(0, 30)))

    numbers = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    operators = [Operator(str(i), 0, tuple(form() for _ in range(count))) for i, count in enumerate(numbers)]
    contents, code, flash = Contents(operators, {"a": sizes["a"]}, 10), data.draw(st.integers(0, 200)), data.draw(st.integers(0, 300))

    def price(forms: tuple[int, ...]) -> tuple[int, float]:
        lost = sum(o.forms[k].lost for o, k in zip(operators, forms, strict=True))
        return max(0, contents.code(forms) - code, contents.flash(forms) - flash), lost

    chosen = price(tuple(choose_forms(contents, code, flash)))
    every = [price(forms) for forms in product(*(range(len(o.forms)) for o in operators))]
    fastest = price((0,) * len(operators))
    assert chosen == min(every) or (fastest[0] == 0 and chosen == fastest)  # the first form is the fastest, and taken without a search
