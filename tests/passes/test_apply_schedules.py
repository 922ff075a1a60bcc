# SPDX-License-Identifier: Apache-2.0
"""apply-schedules: calls get the arguments their kernels want, scratch shows as an output, equal kernels are one function."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tvm
from tvm import relax

import tvm_tiny
from benchmarks.measure import DEMO_MODEL
from tests.support.tiny_builder import TinyBuilder
from tvm_tiny.errors import OptionError
from tvm_tiny.memory.program import Program, extract
from tvm_tiny.memory.room import scratch_room
from tvm_tiny.passes.apply_schedules import ApplySchedules
from tvm_tiny.passes.lower_ops import LowerOps
from tvm_tiny.passes.plan_memory import plan_program

LAYER_ONLY = ("tiny.constants", "tiny.packed", "tiny.args", "tiny.attrs", "tiny.source")


def scheduled(mod: tvm.IRModule, target: str = "c -mcpu=cortex-m7") -> tuple[tvm.IRModule, Program]:
    """The module after lowering and scheduling, and the program in it."""
    out = tvm.ir.transform.Sequential([LowerOps(), ApplySchedules(target)])(mod)
    return out, extract(out, "m")


def test_weights_are_packed_and_scratch_is_an_output() -> None:
    """rewrite: five arguments → activations and one packed array; the scratch buffer is a second output, dead at once."""
    b = TinyBuilder((1, 8, 8, 4))
    out, program = scheduled(b.finish(b.conv(b.x, 8, 3)))
    (call,) = program.calls
    assert [kind for kind, _ in call.args] == ["buffer", "constant", "buffer", "buffer"]
    assert call.reads == ("x",)
    assert len(call.writes) == len(call.scratch) == 1
    (binding, item, *_) = out["main"].body.blocks[0].bindings
    assert [str(t.dtype) for t in binding.value.ty_args[0].fields] == ["int8", "uint8"]
    assert isinstance(item.value, relax.TupleGetItem)
    assert item.value.index == 0


@pytest.mark.parametrize("target", ["c", "c -mcpu=cortex-m3", "c -mcpu=cortex-m7"])
def test_every_function_says_which_kernel_it_is(target: str) -> None:
    b = TinyBuilder((1, 8, 8, 4))
    _, program = scheduled(b.finish(b.depthwise(b.conv(b.x, 8), x_zp=5)), target)
    for func in program.kernels.values():
        assert {"rule", "kernel"} <= set(json.loads(str(func.attrs["tiny.kernel"])))
        assert not [key for key in LAYER_ONLY if key in func.attrs]


def test_equal_layers_share_a_function_and_keep_their_weights() -> None:
    b = TinyBuilder((1, 8, 8, 8))
    y = b.x
    for _ in range(3):
        y = b.conv(y, 8, 1, x_zp=5)
    _, program = scheduled(b.finish(y))
    assert len({call.kernel for call in program.calls}) == 1
    assert len({dict(call.args)["constant"] for call in program.calls}) == 3


def test_layers_of_other_shapes_do_not_share() -> None:
    b = TinyBuilder((1, 8, 8, 8))
    _, program = scheduled(b.finish(b.conv(b.conv(b.x, 8), 12, x_zp=5)))
    assert len({call.kernel for call in program.calls}) == 2


def test_module_attributes_stay_and_reshape_is_left() -> None:
    b = TinyBuilder((1, 4, 4, 4))
    mod = b.finish(b.dense(b.call("reshape", b.x, shape=[1, 64]), 3)).with_attr("tiny.model", '{"name": "m"}')
    out, program = scheduled(mod)
    assert str(out.attrs["tiny.model"]) == '{"name": "m"}'
    assert [call.op for call in program.calls] == ["tiny.dense"]
    assert program.calls[0].reads == ("x",)


@pytest.mark.parametrize("target", ["c", "c -mcpu=cortex-m4", "c -mcpu=cortex-m7"])
def test_fully_connected_layers_cost_no_memory_beside_their_tensors(target: str) -> None:
    """The widest layers take no scratch; the narrow one between them widens its inputs in bytes that are free at that step."""
    b = TinyBuilder((1, 8, 8, 8))
    mod = b.finish(b.dense(b.dense(b.dense(b.call("reshape", b.x, shape=[1, 512]), 64), 64), 512))
    _, program = scheduled(mod, target)
    assert [program.buffers[name].nbytes for call in program.calls for name in call.scratch] == [128]
    assert plan_program(program).arena_bytes == 512 + 64


def test_another_name_or_shape_is_no_further_tensor() -> None:
    b = TinyBuilder((1, 4, 4, 4))
    room = scratch_room(b.finish(b.call("reshape", b.call("reshape", b.x, shape=[1, 64]), shape=[1, 4, 16]))["main"])
    assert set(room.values()) == {0}


def test_constants_are_not_lost(rng: np.random.Generator) -> None:
    """An operator no rule but the fallback takes keeps its own arguments."""
    table = rng.integers(-128, 128, 256).astype(np.int8)
    b = TinyBuilder((1, 4, 4, 4))
    _, program = scheduled(b.finish(b.call("lookup", b.x, table, x_layout="NCHW")))
    (array,) = program.constants.values()
    np.testing.assert_array_equal(array, table)


def test_a_build_takes_the_forms_of_another() -> None:
    """Shared code that a budget asked for once is taken without one; forms of another network are refused."""
    target, model = "c -mcpu=cortex-m4", DEMO_MODEL
    plain = tvm_tiny.build(model, target, optimize="balanced")
    chosen, forms = plain.report.decisions["curve"]["chosen"], plain.report.decisions["code"]["forms"]
    again = tvm_tiny.build(model, target, optimize="balanced", design={**chosen, "forms": [[2, False] for _ in forms]})
    assert again.report.decisions["code"]["sharing"] == len(forms)
    assert again.report.decisions["code"]["code_bytes"] < plain.report.decisions["code"]["code_bytes"]
    with pytest.raises(OptionError, match=f"1 forms of code for {len(forms)} operators"):
        tvm_tiny.build(model, target, design={**chosen, "forms": [[0, False]]})
