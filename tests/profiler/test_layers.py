# SPDX-License-Identifier: Apache-2.0
"""The join of a run's segments with a model's layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.firmware import build_firmware, qemu
from tvm_tiny.errors import InputError
from tvm_tiny.profiler import ModelProfile, profile_layers
from tvm_tiny.profiler.layers import cores_for

LAYERS = (
    {"index": 0, "name": "layer0", "op": "tiny.dense", "macs": 512, "source": ["fc/out"], "kernel": "dense"},
    {"index": 1, "name": "layer1", "op": "tiny.max_pool2d", "macs": 0, "source": ["pool/out"], "kernel": "peak"},
    {"index": 2, "name": "layer2", "op": "tiny.dense", "macs": 64, "source": ["fc2/out"], "kernel": "dense"},
)


def run(directory: Path, core: str, layers: tuple[dict[str, object], ...] = LAYERS) -> ModelProfile:
    elf = build_firmware(directory, "layers", core)
    return profile_layers(elf, qemu(elf, core), layers, model="three", board="test", mcpu=core)


@pytest.mark.qemu
@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7"])
def test_rows_of_a_small_inference(core: str, tmp_path: Path) -> None:
    profile = run(tmp_path, core)
    dense, peak, small = profile.layers
    assert [row.counts.top_functions[0].name for row in profile.layers] == ["dense", "peak", "dense"]
    assert dense.instructions == pytest.approx(8 * small.instructions, rel=0.15)
    assert dense.instructions_per_mac == dense.instructions / 512
    assert dense.cycles_per_mac[core] == pytest.approx(dense.cycles[core] / 512)
    assert (peak.instructions_per_mac, peak.cycles_per_mac) == (None, {})
    assert profile.macs == 576
    assert profile.total.instructions == dense.instructions + peak.instructions + small.instructions
    assert profile.outside.instructions > 512 * 4  # filling the input


@pytest.mark.qemu
def test_m4_and_m7_are_estimated_from_one_run(tmp_path: Path) -> None:
    profile = run(tmp_path, "cortex-m7")
    assert profile.cores == ("cortex-m7", "cortex-m4")
    assert profile.total.cycles["cortex-m7"] < profile.total.cycles["cortex-m4"]


@pytest.mark.qemu
def test_the_profile_as_json(tmp_path: Path) -> None:
    profile = run(tmp_path, "cortex-m7")
    data = json.loads(json.dumps(profile.to_dict()))
    assert data["layers"][0]["source"] == ["fc/out"]
    assert data["layers"][0]["cycles"]["cortex-m7"] == pytest.approx(profile.layers[0].cycles["cortex-m7"], abs=0.01)
    assert data["total"]["instructions"] == sum(layer["instructions"] for layer in data["layers"])
    assert "quinapalus" in data["cores"]["cortex-m7"]


@pytest.mark.qemu
def test_a_core_without_a_model_still_has_instructions(tmp_path: Path) -> None:
    profile = run(tmp_path, "cortex-m55")
    assert profile.cores == ()
    assert profile.total.cycles == {}
    assert profile.layers[0].instructions > 64


@pytest.mark.qemu
def test_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ran 4 markers; 2 layers have 3\n  remedy: build it with the hook `profile`"):
        run(tmp_path, "cortex-m7", LAYERS[:2])


def test_cores_for() -> None:
    assert cores_for("cortex-m4") == ("cortex-m4", "cortex-m7")
    assert cores_for("cortex-m33") == ("cortex-m33",)
    assert cores_for("cortex-m85") == ()
