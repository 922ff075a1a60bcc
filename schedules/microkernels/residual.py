# SPDX-License-Identifier: Apache-2.0
"""Adding a residual to what a convolution has just stored: some rows or tiles at a time, in place, while both are at hand.

Exact in two multiply-accumulates where that is provable (`add.find_linear`); elsewhere plain C. One function serves any number of elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import reference
from .add import UNROLL, AddLayer, element_instructions, find_linear, plain_value
from .c_source import CFunction, function_name, naked_function
from .conv2d_shape import Conv2DShape
from .layer import Core, LayerParameters, words

LEAST = 256
"""Elements that are worth a call of their own: it costs some twenty cycles, an element four."""


@dataclass(frozen=True)
class ResidualSum:
    """`static void name(int8_t *y, const int8_t *residual, const void *constants, uint32_t count)`: y[i] = y[i] + residual[i], as `layer`.

    `packed` is what `constants` points to; `operand` is for reports.
    """

    layer: AddLayer
    function: CFunction
    packed: bytes
    operand: str

    @property
    def name(self) -> str:
        """The C function."""
        return self.function.name

    def statement(self, name: str, constants_at: int, *, many: bool) -> str:
        """C that sums what was stored from `summed` to `out`; `constants_at` is where `packed` lies in the layer's blob.

        With `many` only when that is worth a call, and then `summed` and `residual` go on to what is stored next.
        """
        call = f"{name}(summed, residual, (const uint8_t *)packed + {constants_at}, (uint32_t)(out - summed));"
        if not many:
            return f"  if (out != summed) {call}\n"
        return f"    if (out - summed >= {LEAST}) {{\n      {call}\n      residual += out - summed;\n      summed = out;\n    }}\n"


def input_shape(shape: Conv2DShape, residual: AddLayer | None) -> tuple[int, ...]:
    """Of what `with_residual` takes."""
    x, y = shape.height * shape.width * shape.channels, shape.out_height * shape.out_width * shape.outputs
    return (shape.height, shape.width, shape.channels) if residual is None else (x + y,)


def with_residual(x: np.ndarray, shape: Conv2DShape, layer: LayerParameters, residual: AddLayer | None) -> np.ndarray:
    """The layer's meaning; with a residual its bytes follow the input's in `x`."""
    size = shape.height * shape.width * shape.channels
    image = x.reshape(-1)[:size].reshape(shape.height, shape.width, shape.channels)
    y = reference.conv2d(image, layer, shape.stride, shape.padding, shape.dilation)
    return y if residual is None else residual(y, x[size:].reshape(y.shape)).astype(np.int8)


def residual_sum(prefix: str, layer: AddLayer, core: Core) -> ResidualSum:
    """Generate the function of an addition."""
    linear = find_linear(layer)
    if linear is None:
        name = function_name(prefix, "sum", layer)
        text = f"  (void)constants;\n  for (uint32_t i = 0; i < count; ++i) {{\n{plain_value(layer, 'y', 'residual', 'y')}  }}\n"
        return ResidualSum(layer, CFunction(name, f"static void {name}({', '.join(_PARAMETERS)}) {{\n{text}}}\n"), b"", "plain C")
    name = function_name(prefix, "sum", (linear.shift, core.dual_issue))
    function = naked_function(name, _PARAMETERS, _assembly(linear.shift, core.dual_issue), _portable(linear.shift))
    return ResidualSum(layer, function, words(np.array([linear.ma, linear.mb, linear.constant])), "linear")


_PARAMETERS = ("int8_t *y", "const int8_t *residual", "const void *constants", "uint32_t count")


def _portable(shift: int) -> str:
    return (
        f"  const uint8_t *c = constants;\n"
        f"  const int32_t ma = (int32_t)tiny_load(c), mb = (int32_t)tiny_load(c + 4), constant = (int32_t)tiny_load(c + 8);\n"
        f"  for (uint32_t i = 0; i < count; ++i)\n"
        f"    y[i] = (int8_t)tiny_clamp((y[i] * ma + residual[i] * mb + constant) >> {shift}, -128, 127);\n"
    )


@lru_cache(maxsize=64)
def _assembly(shift: int, dual_issue: bool) -> tuple[str, ...]:
    """Blocks of eight elements, then one by one."""
    block = element_instructions(UNROLL, shift, out="r0", dual_issue=dual_issue)
    single = element_instructions(1, shift, out="r0", dual_issue=dual_issue)
    step = [f"add r0, r0, #{UNROLL}", f"add r1, r1, #{UNROLL}"]
    return (
        *("push {r4-r11, lr}", "ldr r4, [r2, #0]", "ldr r5, [r2, #4]", "ldr r6, [r2, #8]", f"subs r3, r3, #{UNROLL}", "blo 2f"),
        *("1:", *block, *step, f"subs r3, r3, #{UNROLL}", "bhs 1b"),
        *("2:", f"adds r3, r3, #{UNROLL}", "beq 4f"),
        *("3:", *single, "add r0, r0, #1", "add r1, r1, #1", "subs r3, r3, #1", "bne 3b"),
        *("4:", "pop {r4-r11, pc}"),
    )
