# SPDX-License-Identifier: Apache-2.0
"""Building blocks are `TensorIntrin`s that mean what they say: TVM takes each in the place of its description, and the description
compiled by TVM, the portable C and the assembly on emulated cores make the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.block_cases import CASES
from tests.support.kernel_runner import mismatches_on_device, run_host
from tests.support.shared import ROOT
from tvm_tiny.schedules.blocks import FAMILIES


@pytest.mark.host_cc
@pytest.mark.parametrize("family", CASES)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_description_and_portable_form(family: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    case = CASES[family](np.random.default_rng(seed), dual_issue=bool(seed % 2))
    kernel, x = case.kernel("block")
    np.testing.assert_array_equal(run_host(kernel, x, tmp_path_factory.mktemp("block")), kernel.reference(x))


@pytest.mark.qemu
@pytest.mark.parametrize("mcpu", ["cortex-m7", "cortex-m4"])
def test_assembly(mcpu: str, rng: np.random.Generator, tmp_path: Path) -> None:
    cases = {f"{family}{n}": CASES[family](rng, dual_issue=mcpu == "cortex-m7") for family in CASES for n in range(2)}
    kernels = [case.kernel(name) for name, case in cases.items()]
    wrong = mismatches_on_device([k for k, _ in kernels], [x for _, x in kernels], mcpu, tmp_path)
    assert dict(zip(cases, wrong, strict=True)) == dict.fromkeys(cases, 0)


def test_the_guide_lists_every_block() -> None:
    table = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8").split("<!-- blocks -->\n")[1].split("\n\n")[0].splitlines()[2:]
    assert table == [f"| `{name}` | `{f.made_from}` | {f.does} | {f.used_by} |" for name, f in FAMILIES.items()]
    assert list(CASES) == list(FAMILIES)
