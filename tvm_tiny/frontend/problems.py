# SPDX-License-Identifier: Apache-2.0
"""Collects everything that is wrong with a model, so that the user hears it all at once.

Two kinds: a *problem* is something a sound model asks for and the compiler does not do; a *contradiction* is something no sound model
says (a shape that does not follow from its operator), so the file is damaged. Problems are raised first: a model with an unknown operator
is better told so than called damaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm_tiny.errors import ModelFormatError, Problem, UnsupportedModelError

QUANTISE = (
    "quantise the model to int8 first: full-integer post-training quantisation with a representative dataset "
    "(TFLite: Optimize.DEFAULT with TFLITE_BUILTINS_INT8; ONNX: quantize_static with QuantFormat.QDQ, QInt8 activations and weights)"
)
_SHOWN = 20


@dataclass
class Report:
    """Problems and contradictions found so far."""

    problems: list[Problem] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)

    def raise_if_any(self) -> None:
        """Raise `UnsupportedModelError` with every problem, else `ModelFormatError` with every contradiction, else return."""
        if self.problems:
            raise UnsupportedModelError(self.problems)
        if self.contradictions:
            shown = "".join(f"\n  - {line}" for line in self.contradictions[:_SHOWN])
            more = len(self.contradictions) - _SHOWN
            tail = f"\n  … and {more} more" if more > 0 else ""
            raise ModelFormatError(f"damaged model file: it contradicts itself{shown}{tail}", remedy="export or copy the model again")
