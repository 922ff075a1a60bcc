# SPDX-License-Identifier: Apache-2.0
"""With a Zephyr tree: the demo network exact on native_sim and in QEMU, images of real boards, crashes, RPC, and the model as a module."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.support.demo import MODEL, demo_samples
from tests.support.device_model import BAD_WRITE, DIVIDE, OVERFLOW, expected, sample, write_crasher
from tvm_tiny.boards import find_board, load_boards
from tvm_tiny.device import DeviceFault, ProjectOptions, find_handler, load_project, measure_image, run
from tvm_tiny.device.artifact import open_artifact
from tvm_tiny.device.project import with_template
from tvm_tiny.device.rpc.boards import connect
from tvm_tiny.reference import Reference

pytestmark = [pytest.mark.zephyr, pytest.mark.qemu, pytest.mark.slow]
NAME = "fashion_mnist_int8"


def on_zephyr(name: str):
    """The board with the Zephyr template."""
    return with_template(find_board(name), "zephyr")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory):
    """Compile the demo network for a board; returns the artifact's folder."""

    def compile_for(board: str) -> Path:
        folder = tmp_path_factory.mktemp(board) / "mlf"
        return tvm_tiny.build(MODEL, str(find_board(board).target) if board != "native_sim" else "c", name=NAME).save(folder)

    return compile_for


@pytest.mark.parametrize("board", ["native_sim", "mps2_an385", "mps2_an386", "mps2_an500", "mps2_an521", "mps3_an547"])
def test_demo_network_is_exact(board: str, compiled, tmp_path: Path) -> None:
    """Twenty samples, bit for bit the reference interpreter's; the FPU is on where the core has one."""
    images, _ = demo_samples(20)
    reference = Reference(MODEL.read_bytes())
    with open_artifact(compiled(board)) as artifact:
        (tensor,), (output,) = artifact.inputs, artifact.outputs
        samples = [{tensor.name: image.reshape(tensor.shape)} for image in images]
        options = ProjectOptions(hook="times")
        result = run(artifact.directory, on_zephyr(board), samples, options=options, project_dir=tmp_path / "p", timeout=60)
        layers = len(artifact.layers)
    for inputs, outputs in zip(samples, result.outputs, strict=True):
        np.testing.assert_array_equal(outputs[output.name], reference.run([inputs[tensor.name]])[0].reshape(output.shape))
    assert all(len(times.ticks) == layers for times in result.layer_times)
    settings = (tmp_path / "p/build/zephyr/.config").read_text()
    assert ("CONFIG_FPU=y" in settings) == (board in ("native_sim", "mps2_an386", "mps2_an500", "mps3_an547"))
    if board != "native_sim":
        assert "CONFIG_HW_STACK_PROTECTION=y" in settings
        assert 0 < result.stack_used < result.stack_size == options.stack_bytes


REAL = [board.name for board in load_boards().values() if board.template == "zephyr" and not board.emulated and not board.target.is_host]
CHIPS = [*((name, "standalone") for name in REAL), ("nucleo_h743zi", "rpc"), ("nucleo_l4r5zi", "rpc")]


@pytest.mark.parametrize(("board", "app"), CHIPS)
def test_real_boards_build(board: str, app: str, compiled, tmp_path: Path) -> None:
    """The image fits the chip, its arena is the artifact's, and lies where boards.toml says it does."""
    chip = find_board(board)
    with open_artifact(compiled(board)) as artifact:
        project = find_handler(chip).generate(artifact, chip, tmp_path / "p", ProjectOptions(app))
        size = measure_image(find_handler(chip).build(project))
        assert size.workspace(NAME) == artifact.workspace_size
    assert size.flash < (chip.limits.flash or 0)
    assert project.model_objects()
    nm = subprocess.run(["arm-none-eabi-nm", str(project.elf)], capture_output=True, text=True, check=True).stdout
    arena = next(int(line.split()[0], 16) for line in nm.splitlines() if line.endswith(f"tvmgen_{NAME}_workspace"))
    assert any(region.base <= arena < region.end for region in chip.arena_regions)  # one array: compiled for the core, not for the board


def test_an_arena_in_two_memories(tmp_path: Path) -> None:
    """The image where a DMA controller reaches it, everything else in DTCM; the linker agrees with the plan."""
    chip = find_board("nucleo_h743zi")
    model = tvm_tiny.build(MODEL, board=chip, name=NAME, optimize="speed", pins={"image": "axi_sram"})
    with open_artifact(model.save(tmp_path / "mlf")) as artifact:
        project = find_handler(chip).generate(artifact, chip, tmp_path / "p", ProjectOptions())
        image = measure_image(find_handler(chip).build(project))
    for region in chip.arena_regions:
        symbol = image.symbol(f"tvmgen_{NAME}_workspace_{region.name}")
        assert symbol is not None
        assert symbol.size == model.plan.used[region.name] > 0
        assert region.base <= symbol.address < symbol.address + symbol.size <= region.end


@pytest.mark.parametrize(("mode", "words"), [(DIVIDE, "DIVBYZERO"), (BAD_WRITE, "0xf0000000"), (OVERFLOW, "stack overflow")])
def test_crash_names_the_layer(mode: int, words: str, tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DeviceFault) as caught:
        run(write_crasher(tmp_path / "mlf", 64), on_zephyr("mps2_an500"), sample(rng, 64, mode), timeout=20)
    assert words in str(caught.value)
    assert caught.value.fault.layer == 1
    assert "block/fail" in str(caught.value)


@pytest.mark.parametrize("board", ["native_sim", "mps2_an500"])
def test_rpc(board: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """The second application: TVM's own client calls the model."""
    inputs = sample(rng, 64)
    wanted = expected(inputs)
    with connect(write_crasher(tmp_path / "mlf", 64), on_zephyr(board)) as remote:
        device = remote.cpu(0)
        arguments = [tvm_tensor(array, device) for array in inputs.values()]
        results = [tvm_tensor(np.zeros_like(array), device) for array in wanted.values()]
        remote.get_function("tvmgen_crasher_run")(*arguments, *results)
        for got, array in zip(results, wanted.values(), strict=True):
            np.testing.assert_array_equal(got.numpy(), array)
        del arguments, results, got


def tvm_tensor(array: np.ndarray, device: object):
    """A tensor on the device."""
    import tvm

    return tvm.runtime.tensor(array, device)


def test_model_as_a_module_of_another_application(tmp_path: Path) -> None:
    """Someone's own native_sim application adds model/ to EXTRA_ZEPHYR_MODULES, places the arena, and calls the model."""
    with open_artifact(write_crasher(tmp_path / "mlf", 64)) as artifact:
        board = find_board("native_sim")
        project = find_handler(board).generate(artifact, board, tmp_path / "p", ProjectOptions())
    assert load_project(project.directory).board == board
    shutil.copytree(Path(__file__).parents[1] / "data/zephyr_app", tmp_path / "app")
    module = f"-DEXTRA_ZEPHYR_MODULES={project.directory / 'model'}"
    command = ["cmake", "-GNinja", "-B", "build", "-DBOARD=native_sim/native/64", "-DZEPHYR_TOOLCHAIN_VARIANT=host", module]
    for step in (command, ["ninja", "-C", "build"]):
        done = subprocess.run(step, cwd=tmp_path / "app", capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert subprocess.run([str(tmp_path / "app/build/zephyr/zephyr.exe")], timeout=20).returncode == 64
