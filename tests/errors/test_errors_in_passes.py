# SPDX-License-Identifier: Apache-2.0
"""A user's mistake found inside a pass reaches the user as the error it is, not as what TVM's runtime makes of it."""

from __future__ import annotations

import pytest
import tvm

import tvm_tiny.ops  # noqa: F401  (registers the errors with TVM)
from tvm_tiny.errors import TinyError
from tvm_tiny.tvm_errors import KINDS, rebuild


@tvm.transform.module_pass(opt_level=0, name="failing")
class Failing:
    """Raises what it was given."""

    def __init__(self, error: TinyError) -> None:
        self.error = error

    def transform_module(self, mod: tvm.IRModule, context: object) -> tvm.IRModule:
        raise self.error


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("remedy", ["", "use less"])
def test_kind_text_and_remedy_survive(kind: type[TinyError], remedy: str) -> None:
    made = rebuild(kind, f"layer conv_1: too much\n  remedy: {remedy}" if remedy else "layer conv_1: too much")
    with pytest.raises(kind) as caught:
        tvm.ir.transform.Sequential([Failing(made)])(tvm.IRModule())
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.remedy, caught.value.code) == ("layer conv_1: too much", remedy, kind.code)
