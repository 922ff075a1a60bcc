# SPDX-License-Identifier: Apache-2.0
"""Target strings: every known core, its features, and the flags the cross compiler gets."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tvm_tiny.target import CORES, TinyTarget, parse_target


@pytest.mark.parametrize("core", CORES)
def test_every_core_survives_each_written_form(core: str) -> None:
    """String, dict and TVM target of a core all parse back to the same target."""
    target = parse_target(f"c -mcpu={core}")
    assert parse_target(target) is target
    assert parse_target(str(target)) == target
    assert parse_target(target.to_dict()) == target
    assert parse_target(target.tvm_target()) == target


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("c -mcpu=cortex-m0", ""),
        ("c -mcpu=cortex-m3", ""),
        ("c -mcpu=cortex-m4", "dsp fpu"),
        ("c -mcpu=cortex-m7 -march=armv7e-m", "dsp fpu dp_fpu"),
        ("c -mcpu=cortex-m7+nofp.dp", "dsp fpu"),
        ("c -mcpu=cortex-m7+nofp", "dsp"),
        ("c -mcpu cortex-m33+nodsp", "fpu"),
        ("c -mcpu=cortex-m55", "dsp mve fpu dp_fpu"),
        ("c -mcpu=cortex-m55+nomve", "dsp fpu dp_fpu"),
        ("c -keys=arm_cpu,cpu -device=arm_cpu -model=stm32f746xx -mcpu=cortex-m7", "dsp fpu dp_fpu"),
        ("c", ""),
        ("c -mcpu=native", ""),
    ],
)
def test_features(text: str, features: str) -> None:
    """Features follow the core and the suffixes, as gcc reads them."""
    target = parse_target(text)
    assert target.features == frozenset(features.split())
    assert parse_target(str(target)) == target


def test_feature_of_tvm_agrees() -> None:
    """TVM derives has_dsp and has_mve itself; our table must say the same where TVM knows the core."""
    known = 0
    for core in CORES:
        target = parse_target(f"c -mcpu={core}")
        attrs = dict(target.tvm_target().attrs)
        if "feature.has_dsp" not in attrs:
            continue  # a core TVM 0.27 does not know
        assert (bool(attrs["feature.has_dsp"]), bool(attrs["feature.has_mve"])) == (target.has_dsp, target.has_mve), core
        known += 1
    assert known >= 6


def test_architecture_facts() -> None:
    """The 32-bit Thumb set exists from ARMv7-M on, not in the Baseline profiles."""
    assert {core for core in CORES if not parse_target(f"c -mcpu={core}").has_thumb2} == {
        "cortex-m0",
        "cortex-m0plus",
        "cortex-m1",
        "cortex-m23",
    }
    assert parse_target("c").cflags == ()


@pytest.mark.qemu
@pytest.mark.parametrize(
    "core", [*CORES, "cortex-m7+nofp.dp", "cortex-m33+nodsp+nofp", "cortex-m55+nomve", "cortex-m55+nofp", "cortex-m4+nofp"]
)
def test_cross_compiler_agrees(core: str) -> None:
    """arm-none-eabi-gcc takes the flags and predefines exactly the features of the table."""
    gcc = shutil.which("arm-none-eabi-gcc")
    if gcc is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    target = parse_target(f"c -mcpu={core}")
    macros = subprocess.run(
        [gcc, *target.cflags, "-dM", "-E", "-"], input="", text=True, capture_output=True, check=True, timeout=60
    ).stdout
    assert ("__ARM_FEATURE_DSP 1" in macros) == target.has_dsp
    assert ("__ARM_FEATURE_MVE" in macros) == target.has_mve
    assert ("__ARM_FP " in macros) == target.has_fpu
    assert ("__ARM_FEATURE_UNALIGNED 1" in macros) == target.has_thumb2


def test_alignment_options() -> None:
    """TVM's byte-alignment options are kept."""
    assert parse_target("c -workspace-byte-alignment=8") == TinyTarget("native", workspace_byte_alignment=8)
