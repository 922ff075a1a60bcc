# SPDX-License-Identifier: Apache-2.0
"""An arena spread over several memories of a board: the busiest tensors in the fastest, in C, in the linker map, on the emulated core."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tvm

import tvm_tiny
from tests.support.demo import MODEL, demo_samples
from tests.support.host import HostModel
from tests.support.memories import split_board
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.compiled import CompiledModel
from tvm_tiny.device import build_image, measure_image
from tvm_tiny.errors import DoesNotFitError, OptionError, TargetError

TCM = 4096


@pytest.fixture(scope="module")
def spread() -> CompiledModel:
    """The demo network over both memories, its image where a camera's DMA controller would put it."""
    return tvm_tiny.build(MODEL, board=split_board(TCM), name="net", optimize="speed", pins={"image": "sram"})


def test_the_busiest_tensors_lie_in_the_fastest_memory(spread: CompiledModel) -> None:
    plan = spread.plan
    assert 0 < plan.used["tcm"] <= TCM
    assert sum(plan.used.values()) == spread.workspace_size == spread.report.arena_bytes
    assert plan.placements[spread.inputs[0].buffer].region == "sram"
    touches = {b.name: sum(b.name in s.touches() for s in plan.steps) * b.nbytes for b in plan.buffers}
    fast = sum(n for name, n in touches.items() if plan.placements[name].region == "tcm")
    assert fast > 0
    assert f"{plan.used['tcm']:,} bytes in tcm" in str(spread.report)


def test_scratch_is_busy(spread: CompiledModel) -> None:
    """Columns that a kernel reads for every product are worth more than a tensor that is read once."""
    plan = spread.plan
    scratch = [b for b in plan.buffers if b.kind == "scratch"]
    assert max(b.accesses for b in scratch) > max(b.nbytes for b in plan.buffers)
    busiest = max(scratch, key=lambda b: b.accesses / b.nbytes)
    assert plan.placements[busiest.name].region == "tcm"


def test_what_fits_the_fastest_memory_lies_there_alone() -> None:
    board = split_board(0x1_0000)
    model = tvm_tiny.build(MODEL, board=board, name="net", optimize="speed")
    alone = tvm_tiny.build(MODEL, board="mps2_an500", name="net", optimize="speed")
    assert model.plan.used == {"tcm": alone.workspace_size, "sram": 0}
    assert model.plan.optimal


def pool() -> tvm.IRModule:
    """A network of one layer, 768 bytes of input."""
    b = TinyBuilder((1, 16, 16, 3))
    return b.finish(b.call("max_pool2d", b.x, kernel=[2, 2], strides=[2, 2]))


def test_pins_and_sizes_are_checked() -> None:
    with pytest.raises(OptionError, match="no input or output is called picture\n  remedy: there are: input_0, output_0"):
        tvm_tiny.build(pool(), board=split_board(TCM), pins={"picture": "sram"})
    with pytest.raises(OptionError, match="pinned to region ram, which the board has not"):
        tvm_tiny.build(pool(), board=split_board(TCM), pins={"input_0": "ram"})
    with pytest.raises(DoesNotFitError):
        tvm_tiny.build(pool(), board=split_board(128, 256))


def test_another_board_has_not_these_memories(spread: CompiledModel) -> None:
    with pytest.raises(TargetError, match="was planned for the memories tcm, sram"):
        spread.run(np.zeros((1, 28, 28, 1), np.int8), board="mps2_an500")


def test_one_memory_is_as_it_was() -> None:
    header = tvm_tiny.build(pool(), board="mps2_an500", name="net").files["codegen/host/include/tvmgen_net.h"].decode()
    assert "uint8_t *workspace);" in header
    assert "struct tvmgen_net_workspace" not in header


@pytest.mark.host_cc
def test_a_caller_gives_one_pointer_a_memory(tmp_path: Path) -> None:
    """Compiled without a warning, as C; a missing pointer is an error."""
    model = tvm_tiny.build(MODEL, "c", board=split_board(TCM), name="net", optimize="speed")
    artifact = model.save(tmp_path / "model")
    (tmp_path / "main.c").write_text(
        '#include "tvmgen_net.h"\n#include "tvmgen_net_layers.h"\n'
        "static uint8_t fast[TVMGEN_NET_WORKSPACE_TCM_SIZE + 16], large[TVMGEN_NET_WORKSPACE_SRAM_SIZE + 16];\n"
        "static int8_t image[TVMGEN_NET_INPUT_IMAGE_NBYTES], a[10], b[10];\n"
        "int main(void)\n{\n"
        "    struct tvmgen_net_inputs in = { image };\n    struct tvmgen_net_outputs first = { a }, second = { b };\n"
        "    const struct tvmgen_net_workspace mine = { fast, large }, none = { fast, 0 };\n"
        "    int same = tvmgen_net_run(&in, &first) == 0 && tvmgen_net_run_with_workspace(&in, &second, &mine) == 0;\n"
        "    for (int i = 0; i < 10; i++)\n        same = same && a[i] == b[i];\n"
        "    return same && tvmgen_net_run_with_workspace(&in, &second, &none) == -1 ? 0 : 1;\n}\n",
        encoding="utf-8",
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=address,undefined"]
    sources = [str(artifact / source) for source in model.metadata()["sources"]]
    command = ["gcc", *flags, "-I", str(artifact / "codegen/host/include"), str(tmp_path / "main.c"), *sources, "-lm", "-o", "demo"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    subprocess.run([str(tmp_path / "demo")], check=True, timeout=60)


@pytest.mark.qemu
def test_on_the_emulated_m7_and_in_the_linker_map(spread: CompiledModel, tmp_path: Path) -> None:
    images, _ = demo_samples(2)
    plain = HostModel(tvm_tiny.build(MODEL, "c", optimize="speed"))
    results = spread.run([{"image": image.reshape(1, 28, 28, 1)} for image in images], board=split_board(TCM))
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(plain(image)[0], result["probabilities"])
    linked = measure_image(build_image(spread.save(tmp_path / "model"), split_board(TCM), tmp_path / "project"))
    assert linked.workspace("net") == spread.report.arena_bytes
    header = spread.files["codegen/host/include/tvmgen_net.h"].decode()
    for region in split_board(TCM).arena_regions:
        symbol = linked.symbol(f"tvmgen_net_workspace_{region.name}")
        assert symbol is not None
        macro = re.search(rf"WORKSPACE_{region.name.upper()}_SIZE (\d+)u", header)
        assert macro is not None
        assert symbol.size == int(macro.group(1)) == spread.plan.used[region.name]
        assert region.base <= symbol.address < symbol.address + symbol.size <= region.end
