# SPDX-License-Identifier: Apache-2.0
"""Profiling images under QEMU: exact counts, segments, caches, and what can't be profiled."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.firmware import build_firmware, qemu
from tests.support.shared import ROOT
from tvm_tiny.errors import DeviceError, InputError
from tvm_tiny.profiler import Profile, UnknownInstructionError, profile_elf

pytestmark = pytest.mark.qemu
CORES = ("cortex-m7", "cortex-m4")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("firmware")


@pytest.fixture(scope="module")
def kernels(directory: Path) -> Path:
    return build_firmware(directory, "kernels", "cortex-m7")


@pytest.fixture(scope="module")
def profile(kernels: Path) -> Profile:
    return profile_elf(kernels, qemu(kernels, "cortex-m7"), CORES, "stm32f746@216")


def test_segments_are_cut_at_the_markers(profile: Profile) -> None:
    assert [s.opened_by for s in profile.segments] == [None] + [1] * 11
    names = [s.top_functions[0].name for s in profile.segments[1:11]]
    assert names == ["dot", "clamp", "requantize", "divide", "floats", "blocks", "unaligned", "stream", "choose", "fibonacci"]
    assert profile.printed == "done\n"


def test_the_total_is_the_sum_of_the_segments(profile: Profile, kernels: Path) -> None:
    """And does not depend on where the run is cut."""
    total = profile.total
    assert total.instructions == sum(s.instructions for s in profile.segments)
    for core in CORES:
        assert total.cycles[core] == pytest.approx(sum(s.cycles[core] for s in profile.segments))
    cut = profile_elf(kernels, qemu(kernels, "cortex-m7"), CORES, "stm32f746@216", cut_at=["fibonacci", "clamp"])
    assert len(cut.segments) > len(profile.segments)
    assert (cut.total.instructions, cut.total.loads, cut.total.cache_misses) == (total.instructions, total.loads, total.cache_misses)
    assert cut.total.top_functions[0].instructions == total.top_functions[0].instructions
    assert cut.total.cycles["cortex-m4"] == pytest.approx(total.cycles["cortex-m4"])


def test_a_second_run_gives_the_same_profile(profile: Profile, kernels: Path) -> None:
    assert profile_elf(kernels, qemu(kernels, "cortex-m7"), CORES, "stm32f746@216") == profile


def test_instructions_agree_with_the_emulated_clock(directory: Path) -> None:
    """One instruction is 128 ns under -icount shift=7, so 3.2 ticks of the 25 MHz timer; readings round to a tick."""
    elf = build_firmware(directory, "timed", "cortex-m7")
    clock = subprocess.run(
        [*qemu(elf, "cortex-m7"), "-icount", "shift=7,sleep=off"], capture_output=True, text=True, check=True, timeout=60
    )
    ticks = [int(word) for word in clock.stdout.split()]
    segments = [s.instructions for s in profile_elf(elf, qemu(elf, "cortex-m7"), ()).segments if s.opened_by == 1]
    assert segments[2] > 500_000
    for larger in (1, 2):
        assert (ticks[larger] - ticks[0]) / 3.2 == pytest.approx(segments[larger] - segments[0], abs=1)


def test_the_board_term_counts_lines_streamed_from_flash(profile: Profile, kernels: Path) -> None:
    """`stream` reads 1 KB of constants once: 32 lines of 32 bytes, 12 cycles each, less those `dot` has left in the cache."""
    plain = profile_elf(kernels, qemu(kernels, "cortex-m7"), CORES)
    stream, without = profile.segments[8], plain.segments[8]
    assert 24 <= stream.cache_misses <= 34
    assert without.cache_misses == 0
    extra = stream.cycles["cortex-m7"] - without.cycles["cortex-m7"]
    assert 12 * 24 <= extra <= 12 * stream.cache_misses
    assert stream.cycles["cortex-m4"] - without.cycles["cortex-m4"] == pytest.approx(extra)


def test_a_small_instruction_cache_misses_more(kernels: Path) -> None:
    def misses(size: int) -> int:
        return profile_elf(kernels, qemu(kernels, "cortex-m7"), (), code_cache=(size, 2, 32)).total.fetch_misses

    large, small = misses(16384), misses(128)
    assert 0 < large < small


def test_loads_and_stores_are_counted_exactly(profile: Profile) -> None:
    """`blocks`: 32 rounds of LDM of four and LDRD, STM of four and STRD; besides, saved registers."""
    blocks = profile.segments[6]
    assert 32 * 6 <= blocks.loads <= 32 * 6 + 16
    assert 32 * 6 <= blocks.stores <= 32 * 6 + 16


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4"])
def test_other_machines(directory: Path, core: str) -> None:
    elf = build_firmware(directory, "kernels", core)
    profile = profile_elf(elf, qemu(elf, core), core)
    assert profile.total.cycles[core] > profile.total.instructions
    assert profile.printed == "done\n"


def test_all_unknown_instructions_are_reported_at_once(directory: Path) -> None:
    elf = build_firmware(directory, "helium", "cortex-m55")
    with pytest.raises(UnknownInstructionError) as raised:
        profile_elf(elf, qemu(elf, "cortex-m55"), "cortex-m4")
    assert "vmov.i32 q0, #1" in str(raised.value)
    assert "vadd.i32 q1, q0, q0 (executed 1 times)" in str(raised.value)
    assert profile_elf(elf, qemu(elf, "cortex-m55"), ()).total.instructions > 10  # counting needs no timing


def test_instructions_the_core_lacks_are_reported(directory: Path) -> None:
    elf = build_firmware(directory, "kernels", "cortex-m3")
    with pytest.raises(UnknownInstructionError, match=r"(?s)udiv r2, r2, r3 \(executed 255 times\).*umull"):
        profile_elf(elf, qemu(elf, "cortex-m3"), "cortex-m0")


def test_a_crash_and_a_hang_are_device_errors(directory: Path) -> None:
    crashing = build_firmware(directory, "failing", "cortex-m7", "-DMODE=0")
    with pytest.raises(DeviceError, match=r"ended with code 1: fault"):
        profile_elf(crashing, qemu(crashing, "cortex-m7"))
    hanging = build_firmware(directory, "failing", "cortex-m7", "-DMODE=1")
    with pytest.raises(DeviceError, match=r"did not end within 1 s"):
        profile_elf(hanging, qemu(hanging, "cortex-m7"), timeout=1)


def test_another_image_than_the_one_that_runs_is_refused(directory: Path, kernels: Path) -> None:
    other = build_firmware(directory, "timed", "cortex-m7")
    with pytest.raises(InputError, match=r"ran code from 0x.* that .*timed-cortex-m7.elf does not hold"):
        profile_elf(other, qemu(kernels, "cortex-m7"))


def test_segments_add_up_field_by_field(profile: Profile) -> None:
    first, second = profile.segments[1:3]
    both = dataclasses.asdict(first + second)
    for name in ("instructions", "loads", "stores", "cache_misses", "fetch_misses", "mispredicts"):
        assert both[name] == getattr(first, name) + getattr(second, name)


def test_the_example_of_the_documentation_runs(
    kernels: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of docs/profiling.md, on an image called prog.elf."""
    shutil.copy(kernels, directory / "prog.elf")
    monkeypatch.chdir(directory)
    text = (ROOT / "docs" / "profiling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "docs/profiling.md", "exec"), {})
    assert re.search(r"^\d+ [\d.]+ dot$", capsys.readouterr().out, re.MULTILINE)
