# SPDX-License-Identifier: Apache-2.0
"""The rules in the order they are asked; the first that answers is taken, the fallback always answers."""

from __future__ import annotations

from tvm import tirx
from tvm.s_tir import Schedule

from tvm_tiny.schedules import add, conv2d, depthwise, fallback, quantize, stream, winograd
from tvm_tiny.schedules.base import Rule
from tvm_tiny.target import TinyTarget

RULES: tuple[tuple[str, Rule], ...] = (
    ("winograd", winograd.apply),
    ("conv2d", conv2d.apply),
    ("depthwise", depthwise.apply),
    ("add", add.apply),
    ("quantize", quantize.apply),
    ("stream", stream.apply),
    ("fallback", fallback.apply),
)


def default_schedule(func: tirx.PrimFunc, target: TinyTarget) -> Schedule:
    """Return the default schedule of the first rule that takes `func`."""
    for _name, rule in RULES:
        applied = rule(func, target, False)
        if applied is not None:
            return applied[0] if isinstance(applied, list) else applied
    raise AssertionError("the fallback rule takes every function")
