# SPDX-License-Identifier: Apache-2.0
"""The RPC server as an application of the project templates: host process and emulated boards; size on the M7."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tvm_tiny
from tests.rpc.test_stock_client import CLAIMS, run_client
from tests.support.demo import MODEL as DEMO
from tests.support.device_model import DIVIDE, OK, STATUS, expected, sample, write_crasher
from tests.support.rpc import DEMO_FUNCTIONS, RawClient, wait_until
from tvm_tiny.boards import find_board, load_boards
from tvm_tiny.device import Project, find_handler, generate_project, load_project, measure_image, run
from tvm_tiny.device.faults import DeviceFault
from tvm_tiny.device.rpc.boards import connect, project_line
from tvm_tiny.device.rpc.line import Line, LineClosedError, PipesSpec, parse_line
from tvm_tiny.device.rpc.session import connect as connect_line
from tvm_tiny.device.rpc.session import running_bridge
from tvm_tiny.errors import DeviceError, OptionError

IMAGE = 3000
THOUSAND = "a_thousand_calls_leave_nothing"
QUICK = [claim for claim in CLAIMS if claim != THOUSAND]
EMULATED = [board.name for board in load_boards().values() if board.template == "mps2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_crasher(tmp_path_factory.mktemp("model") / "mlf", IMAGE)


def built(model: Path, directory: Path, board: str, *, demo: bool = False) -> Project:
    """A project with the RPC server; `demo` puts the demo functions in the place of the model's."""
    generate_project(model, directory, board, app="rpc", line="uart")
    if demo:
        shutil.copyfile(DEMO_FUNCTIONS, directory / "model_functions.c")
    project = load_project(directory)
    find_handler(project.board).build(project)
    return project


@pytest.fixture(scope="module")
def on_m7(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    project = built(model, tmp_path_factory.mktemp("m7") / "project", "mps2_an500", demo=True)
    with running_bridge(project_line(project)) as bridge:
        yield run_client(bridge, *QUICK, timeout=240)


@pytest.mark.qemu
@pytest.mark.parametrize("claim", QUICK)
def test_stock_client_on_an_emulated_m7(on_m7: dict[str, str], claim: str) -> None:
    """The same client script as against the host process."""
    assert on_m7[claim] == "holds", on_m7[claim]


@pytest.mark.qemu
@pytest.mark.slow
def test_a_thousand_calls_on_an_emulated_m7(model: Path, tmp_path: Path) -> None:
    with running_bridge(project_line(built(model, tmp_path / "project", "mps2_an500", demo=True))) as bridge:
        assert run_client(bridge, THOUSAND, timeout=300)[THOUSAND] == "holds"


def run_model(remote: object, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference by TVM's client."""
    from tvm import runtime

    device = remote.cpu(0)  # type: ignore[attr-defined]
    wanted = expected(inputs)
    given = [runtime.tensor(array, device=device) for array in inputs.values()]
    got = [runtime.empty(array.shape, str(array.dtype), device) for array in wanted.values()]
    remote.get_function("tvmgen_crasher_run")(*given, *got)  # type: ignore[attr-defined]
    return dict(zip(wanted, (tensor.numpy() for tensor in got), strict=True))


# By default a core of each instruction set; all others with -m slow.
DEFAULT = ("qemu_m0", "mps2_an386", "mps2_an500", "mps2_an521")
ON_QEMU = [pytest.param(name, marks=[pytest.mark.qemu, *([] if name in DEFAULT else [pytest.mark.slow])]) for name in EMULATED]
BOARDS = [pytest.param("native", marks=pytest.mark.host_cc), *ON_QEMU]


@pytest.mark.parametrize("board", BOARDS)
def test_a_model_runs_over_rpc(model: Path, rng: np.random.Generator, board: str) -> None:
    """Same bytes as on the host; the error of a layer arrives and the session goes on."""
    with connect(model, board) as remote:
        for _ in range(3):
            inputs = sample(rng, IMAGE)
            for name, array in run_model(remote, inputs).items():
                np.testing.assert_array_equal(array, expected(inputs)[name])
        with pytest.raises(RuntimeError, match="tvmgen_crasher_run failed in layer 1"):
            run_model(remote, sample(rng, IMAGE, STATUS))
        wrong = sample(rng, IMAGE)
        wrong["image"] = wrong["image"][:, 1:]
        with pytest.raises(RuntimeError, match="dimension 1 of image is 3000, not 2999"):
            run_model(remote, wrong)
        inputs = sample(rng, IMAGE)
        np.testing.assert_array_equal(run_model(remote, inputs)["sums"], expected(inputs)["sums"])


@pytest.mark.parametrize("board", [pytest.param("native", marks=pytest.mark.host_cc), pytest.param("mps2_an500", marks=pytest.mark.qemu)])
def test_run_over_rpc_is_run(model: Path, rng: np.random.Generator, board: str) -> None:
    """`run(transport="rpc")` gives what `run` gives, for several samples in one boot; errors are DeviceError."""
    samples = [sample(rng, IMAGE) for _ in range(3)]
    result = run(model, board, samples, transport="rpc")
    assert len(result.seconds) == 3
    for inputs, outputs in zip(samples, result.outputs, strict=True):
        wanted = expected(inputs)
        assert list(outputs) == list(wanted)
        for name, array in wanted.items():
            assert outputs[name].dtype == array.dtype
            np.testing.assert_array_equal(outputs[name], array)
    with pytest.raises(DeviceError, match=r"crasher on .*failed in layer 1"):
        run(model, board, sample(rng, IMAGE, STATUS), transport="rpc")


@pytest.mark.qemu
def test_rpc_by_semihosting(model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """The same server with another port: bytes through semihosting instead of a UART; a crash is told, the next session works."""
    generate_project(model, tmp_path / "project", "mps2_an500", app="rpc", line="semihosting")
    project = load_project(tmp_path / "project")
    find_handler(project.board).build(project)
    line = parse_line(str(project_line(project)))
    for mode in (OK, DIVIDE, OK):
        with connect_line(line) as remote:
            inputs = sample(rng, IMAGE, mode)
            if mode == DIVIDE:
                with pytest.raises(RuntimeError, match="the device crashed: UsageFault"):
                    run_model(remote, inputs)
                continue
            np.testing.assert_array_equal(run_model(remote, inputs)["image_out"], expected(inputs)["image_out"])
    with pytest.raises(DeviceError, match="can't start the device nothing"):
        PipesSpec(("nothing",)).open()
    line = PipesSpec(("true",)).open()
    assert wait_until(lambda: ended(line))
    line.close()


def ended(line: Line) -> bool:
    try:
        return line.read(0.1) != b""
    except LineClosedError:
        return True


def test_unknown_transport(model: Path, rng: np.random.Generator) -> None:
    with pytest.raises(OptionError, match="transport='usb' is not known"):
        run(model, "native", sample(rng, IMAGE), transport="usb")


TIMED = [name for name in EMULATED if find_board(name).timer]


@pytest.mark.parametrize("board", ON_QEMU)
def test_time_on_every_board(model: Path, tmp_path: Path, board: str) -> None:
    """Where boards.toml names a counter, it counts; where not, the error says so."""
    project = built(model, tmp_path / "project", board, demo=True)
    with connect_project(project) as remote:
        library = remote.system_lib()  # type: ignore[attr-defined]
        if board in TIMED:
            evaluate = library.time_evaluator("spin", remote.cpu(0), number=1, repeat=3)
            assert all(1e-6 < second < 1 for second in evaluate(5000).results)
            return
        with pytest.raises(RuntimeError, match="no cycle counter here"):
            library.time_evaluator("spin", remote.cpu(0), number=1)(1000)


def connect_project(project: Project) -> object:
    return connect_line(project_line(project))


@pytest.mark.parametrize("board", [pytest.param("native", marks=pytest.mark.host_cc), pytest.param("mps2_an500", marks=pytest.mark.qemu)])
def test_a_crash_is_told_and_the_next_session_works(model: Path, tmp_path: Path, rng: np.random.Generator, board: str) -> None:
    """The fault record travels as the call's answer: cause and layer in the exception, at once, not after a time-out."""
    with running_bridge(project_line(built(model, tmp_path / "project", board)), call_timeout=60) as bridge:
        from tvm import rpc

        remote = rpc.connect(bridge.host, bridge.port)
        with pytest.raises(RuntimeError, match=r"the device crashed: (SIGFPE|UsageFault \(DIVBYZERO).*in layer 1"):
            run_model(remote, sample(rng, IMAGE, DIVIDE))
        remote = rpc.connect(bridge.host, bridge.port)
        inputs = sample(rng, IMAGE)
        np.testing.assert_array_equal(run_model(remote, inputs)["image_out"], expected(inputs)["image_out"])
        remote._sess.get_function("CloseRPCConnection")()


@pytest.mark.host_cc
def test_the_facts_of_a_crash(model: Path, tmp_path: Path) -> None:
    line = project_line(built(model, tmp_path / "project", "native")).open()
    client = RawClient(line)
    line._process.send_signal(11)  # type: ignore[attr-defined]
    with pytest.raises(DeviceFault, match="SIGSEGV") as caught:
        client.alloc(1)
    assert caught.value.fault.layer is None
    line.close()


def bytes_by_object(link_map: Path) -> dict[tuple[str, bool], int]:
    """Bytes that the linker took of each object file (its path in the build folder), by whether they lie in RAM."""
    text = link_map.read_text().partition("Linker script and memory map")[2]
    rows = re.findall(r"^ (\.[\w.]+|COMMON)\s+(0x[0-9a-f]+)\s+(0x[0-9a-f]+) (\S+)$", text, re.MULTILINE)
    found: dict[tuple[str, bool], int] = {}
    for section, address, size, path in rows:
        if not section.startswith((".debug", ".comment", ".ARM.attributes")):
            key = path.rpartition("/build/")[2], int(address, 16) >= 0x2000_0000
            found[key] = found.get(key, 0) + int(size, 16)
    return found


@pytest.mark.qemu
def test_size_on_the_m7(tmp_path: Path) -> None:
    """An image with the demo network and all its layers, less the model: under 12 KB of flash (code, constants, vectors, initial
    values), under 4 KB of RAM beyond the arenas and the stack."""
    mlf = tvm_tiny.build(DEMO, board="mps2_an500", name="demo").save(tmp_path / "mlf")
    project = load_project(generate_project(mlf, tmp_path / "project", "mps2_an500", app="rpc", line="uart"))
    find_handler(project.board).build(project)
    sizes = {key: size for key, size in bytes_by_object(project.directory / "build/firmware.map").items() if "model" not in key[0]}
    image = measure_image(project.elf)
    flash = sum(size for (_, in_ram), size in sizes.items() if not in_ram) + image.data
    arena = image.symbol("tiny_rpc_arena").size  # type: ignore[union-attr]
    ram = sum(size for (_, in_ram), size in sizes.items() if in_ram) - arena
    print(f"flash {flash}, RAM {ram} beyond an arena of {arena}")
    assert 6000 < flash < 12288
    assert 1000 < ram < 4096


def test_projects_that_have_no_line(model: Path, tmp_path: Path) -> None:
    other = Path(generate_project(model, tmp_path / "standalone", "native"))
    with pytest.raises(OptionError, match="holds the application 'standalone'"):
        project_line(load_project(other))
    for arguments in ({}, {"mlf": model, "line": "tcp:localhost:1"}):
        with pytest.raises(OptionError, match="or a line"), connect(**arguments):  # type: ignore[arg-type]
            pass
