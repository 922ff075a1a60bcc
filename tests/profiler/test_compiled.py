# SPDX-License-Identifier: Apache-2.0
"""Profiling a compiled model by way of the device templates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.device_model import sample, write_crasher
from tvm_tiny.boards import find_board, load_boards
from tvm_tiny.errors import InputError, TargetError
from tvm_tiny.profiler import profile_model
from tvm_tiny.profiler.layers import cores_for

EMULATED = [b.name for b in load_boards().values() if b.template == "mps2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers: two of them loops over 3000 bytes, the middle one a few instructions."""
    return write_crasher(tmp_path_factory.mktemp("profiled") / "mlf", 3000)


@pytest.mark.qemu
@pytest.mark.parametrize("board", EMULATED)
def test_every_emulated_board(board: str, model: Path) -> None:
    profile = profile_model(model, board)
    sums, fail, add = profile.layers
    assert [layer.name for layer in profile.layers] == ["sums", "fail", "image_out"]
    assert sums.instructions > 3000
    assert add.instructions > 3000
    assert fail.instructions < 100
    assert profile.cores == cores_for(find_board(board).mcpu)
    assert all(profile.total.cycles[core] > 3000 for core in profile.cores)


@pytest.mark.qemu
def test_a_second_profile_is_the_same(model: Path, rng: np.random.Generator) -> None:
    inputs = {**sample(rng, 3000)}
    assert profile_model(model, "mps2_an500", inputs) == profile_model(model, "mps2_an500", inputs)


class Saved:
    """What has `save`, as a compiled model."""

    def save(self, destination: Path) -> Path:
        return write_crasher(destination, 3000)


@pytest.mark.qemu
def test_a_model_that_saves_itself(model: Path) -> None:
    assert profile_model(Saved(), "an386").total == profile_model(model, "mps2_an386").total


def test_boards_and_inputs_that_can_not_be(model: Path) -> None:
    with pytest.raises(TargetError, match=r"native is not emulated.*\n  remedy: profile on an mps2 board"):
        profile_model(model, "native")
    with pytest.raises(InputError, match=r"crasher has 5 inputs\n  remedy: give a dict of arrays by input name"):
        profile_model(model, "mps2_an500", np.zeros(3, np.int8))
