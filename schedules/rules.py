# SPDX-License-Identifier: Apache-2.0
"""The rules in the order they are asked; the first that answers is taken, the fallback always answers.

Rules that can be tuned also say their space (`space`) and make the kernel of any of its candidates (`realise`).
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.schedules import (
    add,
    concat,
    conv2d,
    dense,
    depthwise,
    fallback,
    fetch,
    first_layer,
    flip_sign,
    float32,
    lookup,
    mul,
    patches,
    planar,
    pointwise,
    pool,
    quantize,
    resize,
    rows,
    softmax,
    stream,
    strips,
    winograd,
)
from tvm_tiny.schedules.base import Rule
from tvm_tiny.schedules.space import Choice, Space
from tvm_tiny.target import TinyTarget

RULES: tuple[tuple[str, Rule], ...] = (
    ("rows", rows.apply),
    ("winograd", winograd.apply),
    ("dense", dense.apply),
    ("pointwise", pointwise.apply),
    ("first_layer", first_layer.apply),
    ("conv2d", conv2d.apply),
    ("depthwise", depthwise.apply),
    ("planar", planar.apply),
    ("add", add.apply),
    ("mul", mul.apply),
    ("concat", concat.apply),
    ("resize", resize.apply),
    ("pool", pool.apply),
    ("lookup", lookup.apply),
    ("softmax", softmax.apply),
    ("quantize", quantize.apply),
    ("fetch", fetch.apply),
    ("flip_sign", flip_sign.apply),
    ("patches", patches.apply),
    ("stream", stream.apply),
    ("strips", strips.apply),
    ("float32", float32.apply),
    ("fallback", fallback.apply),
)

TUNABLE: dict[str, Any] = {
    "rows": rows,
    "winograd": winograd,
    "dense": dense,
    "pointwise": pointwise,
    "first_layer": first_layer,
    "conv2d": conv2d,
    "depthwise": depthwise,
}


def default_schedule(func: tirx.PrimFunc, target: TinyTarget) -> Schedule:
    """Return the default schedule of the first rule that takes `func`."""
    for _name, rule in RULES:
        applied = rule(func, target, False)
        if applied is not None:
            return applied[0] if isinstance(applied, list) else applied
    raise AssertionError("the fallback rule takes every function")


def spaces(func: tirx.PrimFunc, target: TinyTarget) -> dict[str, Space]:
    """The tuning spaces of every rule that takes `func`, by rule; empty for a layer with nothing to tune."""
    own = rows.space(func, target)
    if own is not None:
        return {"rows": own}
    found = {name: rule.space(func, target) for name, rule in TUNABLE.items()}
    return {name: space for name, space in found.items() if space is not None}


def realise(func: tirx.PrimFunc, target: TinyTarget, choice: Choice) -> Schedule | None:
    """The schedule a choice stands for; None when the rule does not take the layer or is unknown.

    Raises
    ------
    RegisterPressureError
        The candidate needs more registers than there are.
    """
    rule = TUNABLE.get(str(choice.get("rule")))
    return None if rule is None else rule.realise(func, target, choice)
