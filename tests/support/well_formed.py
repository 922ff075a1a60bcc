# SPDX-License-Identifier: Apache-2.0
"""A check of Relax well-formedness before and after every pass, whoever opens the pass context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import tvm
from tvm import relax
from tvm.ir.instrument import pass_instrument
from tvm.ir.transform import PassContext


@pass_instrument
class WellFormed:
    """Ask `relax.analysis.well_formed` about the module on both sides of every pass."""

    def run_before_pass(self, mod: tvm.IRModule, info: Any) -> None:
        """Check what the pass is given."""
        _check(mod, f"given to pass {info.name}")

    def run_after_pass(self, mod: tvm.IRModule, info: Any) -> None:
        """Check what the pass made."""
        _check(mod, f"made by pass {info.name}")


def _check(mod: tvm.IRModule, what: str) -> None:
    """Raise AssertionError, a kind of error that keeps its class on its way through TVM's C++, and name the pass."""
    if not relax.analysis.check_well_formed(mod):
        try:
            relax.analysis.well_formed(mod)
        except Exception as why:
            raise AssertionError(f"ill-formed Relax {what}: {why}") from why


@contextmanager
def checking_every_pass() -> Iterator[None]:
    """Add the check to the current pass context and to every one opened inside, whatever instruments those bring."""
    plain = PassContext.__init__

    def with_check(self: PassContext, *args: Any, instruments: Any = None, **kwargs: Any) -> None:
        plain(self, *args, instruments=[*(instruments or ()), WellFormed()], **kwargs)

    current = PassContext.current()
    before = list(current.instruments or ())
    with mock.patch.object(PassContext, "__init__", with_check):
        current.override_instruments([*before, WellFormed()])
        try:
            yield
        finally:
            current.override_instruments(before)
