# SPDX-License-Identifier: Apache-2.0
"""Agreement with the reference measuring stick (an independent plugin and model), where it is at hand.

It is an implementation to compare with, not the definition. Known differences, where ours follows the manuals: it takes BLS for BL; a
store to `[r1, r2, lsl #2]` for one with an immediate offset, where the Cortex-M4 wants a cycle more; and it adds an instruction to a block
that QEMU ends at a page because the next instruction straddles it.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.firmware import build_firmware, qemu
from tests.support.shared import SHARED
from tvm_tiny.profiler import MODELS, profile_elf
from tvm_tiny.profiler.board_terms import board_term
from tvm_tiny.profiler.disassembly import Program
from tvm_tiny.profiler.instructions import Instruction, Kind

STICK = SHARED / "tools" / "cycles"
CORES = ("cortex-m7", "cortex-m4")
pytestmark = [pytest.mark.qemu, pytest.mark.skipif(not STICK.is_dir(), reason=f"needs the reference stick in {STICK}")]


@pytest.fixture(scope="module")
def stick() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cyc", STICK / "cyc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stick_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plugin = tmp_path_factory.mktemp("stick") / "mcount.so"
    subprocess.run(["gcc", "-O2", "-w", "-shared", "-fPIC", f"-I{STICK}", "-o", str(plugin), str(STICK / "mcount.c")], check=True)
    return plugin


@pytest.mark.parametrize("board", ["none", "stm32f746@216", "stm32l4r5@120"])
@pytest.mark.parametrize("core", CORES)
def test_every_segment_agrees(core: str, board: str, stick: ModuleType, stick_plugin: Path, tmp_path: Path) -> None:
    """Instructions exactly, cycles within 1 % or 5 cycles (the stick leaves the rest of a marker's block in the segment before it)."""
    elf = build_firmware(tmp_path, "kernels", core, "-fno-inline")
    profile = profile_elf(elf, qemu(elf, core), CORES, board)
    cache, flash, ram = stick.BOARDS[board]
    options = f"{stick_plugin},out={tmp_path / 'counts'},mem=1" + (f",cache={cache}" if cache else "")
    subprocess.run([*qemu(elf, core), "-plugin", options], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    _, segments, estimates = stick.run(str(elf), str(tmp_path / "counts"), [])
    assert len(profile.segments) == len(segments)
    for ours, theirs, counts in zip(profile.segments, estimates, segments, strict=True):
        memory = counts["mem"]
        term = flash * sum(memory[32:34]) + ram * sum(memory[34:])
        assert ours.instructions == theirs["insn"]
        assert (ours.loads, ours.stores, ours.cache_misses) == (sum(memory[:16]), sum(memory[16:32]), sum(memory[32:]))
        assert ours.cycles["cortex-m7"] == pytest.approx(theirs["m7"] + term, rel=0.01, abs=5)
        assert ours.cycles["cortex-m4"] == pytest.approx(theirs["m4"] + term, rel=0.01, abs=5)


@pytest.mark.parametrize("core", CORES)
def test_every_stretch_of_code_costs_the_same(core: str, stick: ModuleType, tmp_path: Path) -> None:
    """The library code linked into an image, cut into random stretches, a third of them closed to loops: equal on both models."""
    reference, ours = stick.Prog(str(_library_image(tmp_path, core))), Program(_library_image(tmp_path, core))
    rng, addresses, compared = random.Random(3), sorted(ours.lines), 0
    while addresses:
        stretch, addresses = addresses[: (n := rng.randint(1, 14))], addresses[n:]
        block = [ours.instruction(a) for a in stretch]
        theirs = [stick.parse(a, *reference.code[a]) for a in stretch]
        if any(_read_differently(i) for i in block):
            continue
        for name, model in (("cortex-m7", stick.M7()), ("cortex-m4", stick.M4())):
            assert MODELS[name].block(block) == pytest.approx(model.block(theirs)), [i.text for i in block]
            compared += 1
    assert compared > 2000


def _library_image(directory: Path, core: str) -> Path:
    elf = directory / f"library-{core}.elf"
    if not elf.exists():
        source = directory / "library.c"
        source.write_text("#include <stdio.h>\n#include <math.h>\nint main(int c, char **v) { return printf(v[0], sin(c), powf(c, 3)); }\n")
        fpu = ["-mfloat-abi=hard", "-mfpu=fpv5-d16" if core == "cortex-m7" else "-mfpu=fpv4-sp-d16"]
        compiler = [str(shutil.which("arm-none-eabi-gcc")), "-O2", f"-mcpu={core}", "-mthumb", *fpu, "--specs=nosys.specs"]
        subprocess.run([*compiler, str(source), "-lm", "-o", str(elf)], check=True, capture_output=True)
    return elf


def _read_differently(i: Instruction) -> bool:
    return (i.kind is Kind.BRANCH and i.condition == "ls") or (i.kind in (Kind.STORE, Kind.LOAD) and "lsl" in i.text)


def test_board_terms_are_the_same(stick: ModuleType) -> None:
    for name, (cache, flash, ram) in stick.BOARDS.items():
        term = board_term(name)
        assert (":".join(map(str, term.cache)) if term.cache else None, term.flash_cycles, term.ram_cycles) == (cache, flash, ram)
