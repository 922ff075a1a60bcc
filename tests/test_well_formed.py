# SPDX-License-Identifier: Apache-2.0
"""The check around every pass catches a pass that breaks the IR, inside nested pass contexts too, and can be switched off."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax
from tvm.ir.transform import PassContext, module_pass
from tvm.script import ir as I
from tvm.script import relax as R

from tests.support.well_formed import WellFormed


@I.ir_module
class Sound:
    @R.function
    def main(x: R.Tensor((2,), "int8")) -> R.Tensor((2,), "int8"):
        y: R.Tensor((2,), "int8") = R.add(x, x)
        return y


@module_pass(opt_level=0, name="break-it")
def break_it(mod: tvm.IRModule, _: PassContext) -> tvm.IRModule:
    """Make a function return a variable that nothing binds."""
    loose = relax.Var("loose", mod["main"].ret_ty)
    broken = tvm.IRModule(dict(mod.functions_items()))
    broken["main"] = relax.Function(mod["main"].params, loose, mod["main"].ret_ty)
    return broken


def test_sound_pass_passes() -> None:
    assert relax.transform.LegalizeOps()(Sound).get_global_vars()


def test_broken_result_is_named() -> None:
    with pytest.raises(AssertionError, match="made by pass break-it"):
        break_it(Sound)


def test_nested_context_is_checked_too() -> None:
    with pytest.raises(AssertionError, match="made by pass break-it"), PassContext(opt_level=3):
        break_it(Sound)


@pytest.mark.ill_formed
def test_marker_opts_out() -> None:
    assert not any(isinstance(i, WellFormed) for i in PassContext.current().instruments or ())
    assert not relax.analysis.check_well_formed(break_it(Sound))
