# SPDX-License-Identifier: Apache-2.0
"""Compiled networks over RPC: same bytes as TensorFlow Lite Micro, layer by layer, on the host and on an emulated M7."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_tiny
from tests.support.demo import MODEL as DEMO
from tests.support.shared import SHARED
from tvm_tiny.device.artifact import open_artifact
from tvm_tiny.device.rpc.boards import connect
from tvm_tiny.device.rpc.layers import live_bytes, run_layers
from tvm_tiny.device.rpc.registration import emit_functions_c
from tvm_tiny.errors import InputError
from tvm_tiny.reference import Reference

KWS = SHARED / "models" / "tflite" / "kws_ref_model.tflite"
MODELS = [
    pytest.param(DEMO, id="demo"),
    pytest.param(KWS, id="kws", marks=pytest.mark.skipif(not KWS.is_file(), reason="the keyword model is not beside the checkout")),
]
BOARDS = [
    pytest.param("native", "c", marks=pytest.mark.host_cc),
    pytest.param("mps2_an500", "c -mcpu=cortex-m7", marks=pytest.mark.qemu),
]


def infer(remote: Any, model: Any, function: str, sample: np.ndarray, outputs: list[tuple[tuple[int, ...], str]]) -> list[np.ndarray]:
    """Call a function of the model with its one input and these outputs."""
    from tvm import runtime

    device = remote.cpu(0)
    given = runtime.tensor(sample, device=device)
    got = [runtime.empty(shape, dtype, device) for shape, dtype in outputs]
    remote.get_function(f"tvmgen_{model.name}_{function}")(given, *got)
    return [tensor.numpy() for tensor in got]


@pytest.mark.parametrize(("board", "target"), BOARDS)
@pytest.mark.parametrize("path", MODELS)
def test_a_network_over_rpc(path: Path, board: str, target: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """The outputs of `run` are the reference's; so is that of the last layer; the layers took time."""
    model = tvm_tiny.build(path, target=target)
    (tensor,) = model.inputs
    wanted = [(tuple(t.shape), t.dtype) for t in model.outputs]
    with connect(model.save(tmp_path / "mlf"), board) as remote:
        for _ in range(2):
            sample = rng.integers(-128, 128, tensor.shape, dtype=np.int8)
            reference = reference_outputs(path, sample)
            outputs = infer(remote, model, "run", sample, wanted)
            for output, expected in zip(outputs, reference, strict=True):
                np.testing.assert_array_equal(output, expected)
            layers = model.metadata()["layers"]
            ticks = struct.unpack(f"<{len(layers)}I", remote.get_function(f"tvmgen_{model.name}_layer_ticks")())
            assert all(count < 1 << 31 for count in ticks)  # a layer that only renames may take no tick
            assert sum(ticks) > len(ticks)
        evaluator = remote.system_lib().time_evaluator(f"tvmgen_{model.name}_run", remote.cpu(0), number=1, repeat=2)
        from tvm import runtime

        tensors = [runtime.tensor(sample, device=remote.cpu(0)), *(runtime.empty(s, d, remote.cpu(0)) for s, d in wanted)]
        assert evaluator(*tensors).mean > 0


@pytest.mark.parametrize(("board", "target"), BOARDS)
@pytest.mark.parametrize("path", MODELS)
def test_layers_alone(path: Path, board: str, target: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Layer after layer by its own function: every tensor the reference interpreter has too is equal, every layer is timed."""
    pytest.importorskip("tflite_micro")
    model = tvm_tiny.build(path, target=target)
    sample = rng.integers(-128, 128, model.inputs[0].shape, dtype=np.int8)
    reference = Reference(path.read_bytes(), keep_intermediates=True)
    (wanted,) = reference.run([sample])
    tensors = {t.name: t.data for t in reference.tensors()}
    with connect(model.save(tmp_path / "mlf"), board) as remote, open_artifact(tmp_path / "mlf") as artifact:
        runs = list(run_layers(remote, artifact, {artifact.inputs[0].name: sample}, number=2))
        assert [run.index for run in runs] == list(range(len(artifact.layers)))
        assert all(run.seconds is not None and run.seconds >= 0 for run in runs)
        assert sum(run.seconds or 0 for run in runs) > 0
        compared = [(name, array) for run in runs for name, array in run.outputs.items() if name in tensors]
        for name, array in compared:
            np.testing.assert_array_equal(array.ravel(), tensors[name].ravel(), err_msg=name)
        assert len(compared) > len(runs) // 2
        np.testing.assert_array_equal(next(iter(runs[-1].outputs.values())).ravel(), wanted.ravel())
        (x,), (y,) = artifact.layer_tensors(0)
        first = remote.get_function(f"tvmgen_{model.name}_layer_0")
        with pytest.raises(RuntimeError, match="layer_0 takes 2 tensors, not 1"):
            first(device_tensor(remote, np.zeros(x.shape, x.dtype)))
        with pytest.raises(RuntimeError, match="y0 has dtype"):
            first(device_tensor(remote, np.zeros(x.shape, x.dtype)), device_tensor(remote, np.zeros(y.shape, "int32")))


def device_tensor(remote: Any, array: np.ndarray) -> Any:
    from tvm import runtime

    return runtime.tensor(array, device=remote.cpu(0))


def test_models_without_layer_functions(tmp_path: Path) -> None:
    """C compiled by an older version has no function a layer: said when one is wanted."""
    from tests.support.device_model import write_crasher

    class Session:
        def cpu(self, _index: int) -> Any:
            import tvm

            return tvm.cpu(0)

        def system_lib(self) -> None:
            return None

        def get_function(self, name: str) -> Any:
            raise AttributeError(name)

    with open_artifact(write_crasher(tmp_path / "mlf", 100)) as artifact:
        assert live_bytes(artifact) == 0
        inputs = {t.name: np.zeros(t.shape, t.dtype) for t in artifact.inputs}
        with pytest.raises(InputError, match=r"layer 0 .* can't be called alone"):
            list(run_layers(Session(), artifact, inputs))


def reference_outputs(path: Path, sample: np.ndarray) -> list[np.ndarray]:
    """What TensorFlow Lite Micro computes."""
    reference = pytest.importorskip("tflite_micro").runtime.Interpreter.from_file(str(path), arena_size=1 << 20)
    reference.set_input(sample, 0)
    reference.invoke()
    return [reference.get_output(0)]


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    from tests.support.device_model import write_crasher

    with open_artifact(write_crasher(tmp_path / "mlf", 100)) as artifact:
        assert emit_functions_c([artifact]).count("crasher_run") > 1
        with pytest.raises(InputError, match="two models of one image have the same name: crasher, crasher"):
            emit_functions_c([artifact, artifact])
