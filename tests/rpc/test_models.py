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
from tvm_tiny.device.rpc.registration import emit_functions_c
from tvm_tiny.errors import InputError

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
            last = infer(remote, model, f"layer_{len(layers) - 1}", sample, [wanted[-1]])
            np.testing.assert_array_equal(last[0].ravel(), reference[-1].ravel())
        first = tuple(layers[0]["shape"])
        assert infer(remote, model, "layer_0", sample, [(first, "int8")])[0].any()
        with pytest.raises(RuntimeError, match=f"the output of layer 0 has {np.prod(first)} bytes"):
            infer(remote, model, "layer_0", sample, [((3,), "int8")])
        evaluator = remote.system_lib().time_evaluator(f"tvmgen_{model.name}_run", remote.cpu(0), number=1, repeat=2)
        from tvm import runtime

        tensors = [runtime.tensor(sample, device=remote.cpu(0)), *(runtime.empty(s, d, remote.cpu(0)) for s, d in wanted)]
        assert evaluator(*tensors).mean > 0


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
