# SPDX-License-Identifier: Apache-2.0
"""What a user of TVM writes: nothing here knows tvm_tiny. Run as `stock_client.py HOST PORT KEY NAMES...`; prints one JSON object.

Every function below is one claim; it gets a fresh session and raises when the claim does not hold.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import Any

import numpy as np
import tvm
from tvm import rpc


def tensors_survive_both_ways(remote: Any) -> None:
    values = np.random.default_rng(0).integers(-128, 128, 20480).astype("int8")
    device = remote.cpu(0)
    there = tvm.runtime.empty(values.shape, "int8", device)
    there.copyfrom(values)
    assert np.array_equal(there.numpy(), values)
    copy = tvm.runtime.empty(values.shape, "int8", device)
    there.copyto(copy)
    assert np.array_equal(copy.numpy(), values)


def every_dtype_survives(remote: Any) -> None:
    for dtype in ("int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"):
        for shape in ((3, 5), (), (0,), (1, 1, 1, 1)):
            values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
            assert np.array_equal(tvm.runtime.tensor(values, device=remote.cpu(0)).numpy(), values), (dtype, shape)


def values_cross(remote: Any) -> None:
    echo = remote.get_function("echo")
    for value in (0, -1, 2**62, True, 1.5, None, "", "a string", "ünï", b"", b"\x00short", b"bytes " * 20):
        assert echo(value) == value, value
    assert str(echo(tvm.runtime.DataType("float32"))) == "float32"
    assert remote.get_function("sum")(*range(16)) == 120


def functions_run_on_tensors(remote: Any) -> None:
    device = remote.cpu(0)
    a, b = (np.random.default_rng(i).integers(-60, 60, 64).astype("int8") for i in (1, 2))
    there = [tvm.runtime.tensor(x, device=device) for x in (a, b)] + [tvm.runtime.empty((64,), "int8", device)]
    for function in (remote.get_function("add_int8"), remote.system_lib()["add_int8"]):
        there[2].copyfrom(np.zeros(64, "int8"))
        function(*there)
        assert np.array_equal(there[2].numpy(), a + b)


def _message(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except RuntimeError as error:
        return str(error)
    raise AssertionError("no exception")


def errors_are_exceptions_and_the_session_goes_on(remote: Any) -> None:
    device = remote.cpu(0)
    add = remote.get_function("add_int8")
    good = [tvm.runtime.tensor(np.full(64, i, "int8"), device=device) for i in (1, 2, 0)]
    wrong_type = tvm.runtime.tensor(np.zeros(64, "uint8"), device=device)
    wrong_shape = tvm.runtime.tensor(np.zeros(63, "int8"), device=device)
    assert "ValueError: asked to fail with 2 arguments" in _message(remote.get_function("fail"), 1, 2)
    assert "RuntimeError: fail_silently failed" in _message(remote.get_function("fail_silently"))
    assert "TypeError: add_int8 takes 3 tensors, not 2 arguments" in _message(add, *good[:2])
    assert "b has dtype 0:8, not 1:8 (code:bits)" in _message(add, good[0], wrong_type, good[2])
    assert "dimension 0 of b is 64, not 63" in _message(add, good[0], wrong_shape, good[2])
    assert "TypeError: add_int8: b is a tensor" in _message(add, good[0], 3, good[2])
    assert "MemoryError" in _message(tvm.runtime.empty, (1 << 20,), "int8", device)
    assert "17 arguments" in _message(remote.get_function("sum"), *range(17))
    assert "TINY_RPC_SCRATCH" in _message(remote.get_function("echo"), "x" * 5000)
    try:
        remote.get_function("no such function")
    except AttributeError:
        pass
    else:
        raise AssertionError("no exception")
    add(*good)
    assert np.array_equal(good[2].numpy(), np.full(64, 3, "int8"))


def time_is_measured_on_the_device(remote: Any) -> None:
    module, device = remote.system_lib(), remote.cpu(0)
    assert remote.get_function("tiny_rpc.cycles_hz")() > 0
    short = module.time_evaluator("spin", device, number=2, repeat=3)(20_000)
    long = module.time_evaluator("spin", device, number=2, repeat=3)(200_000)
    assert len(short.results) == 3
    assert all(second > 0 for second in short.results)
    assert 3 < np.median(long.results) / np.median(short.results) < 30
    start = time.perf_counter()
    result = module.time_evaluator("spin", device, number=1, repeat=1, min_repeat_ms=50)(1000)
    assert result.mean < 0.05 <= time.perf_counter() - start
    assert "no function nothing" in _message(lambda: module.time_evaluator("nothing", device, number=1)(1))
    assert "spin takes a count" in _message(module.time_evaluator("spin", device, number=1), "x")


def a_thousand_calls_leave_nothing(remote: Any) -> None:
    device = remote.cpu(0)
    live, free = remote.get_function("tiny_rpc.arena_live_blocks"), remote.get_function("tiny_rpc.arena_free_bytes")
    before = live(), free()
    add = remote.get_function("add_int8")
    for i in range(1000):
        a = tvm.runtime.tensor(np.full(64, i % 50, "int8"), device=device)
        c = tvm.runtime.empty((64,), "int8", device)
        add(a, a, c)
        assert c.numpy()[i % 64] == 2 * (i % 50)
        del a, c
    assert (live(), free()) == before


def damage_is_found_and_mended_by_the_next_session(remote: Any) -> None:
    device = remote.cpu(0)
    first, second = tvm.runtime.empty((64,), "int8", device), tvm.runtime.empty((64,), "int8", device)
    remote.get_function("overrun")(first)
    assert "wrote past its tensors" in _message(remote.get_function("tiny_rpc.arena_free_bytes"))
    assert "MemoryError" in _message(tvm.runtime.empty, (4096,), "int8", device)
    del second


def main() -> None:
    host, port, key, *names = sys.argv[1:]
    results = {}
    for name in names:
        remote = rpc.connect(host, int(port), key)
        try:
            globals()[name](remote)
            results[name] = "holds"
        except Exception:
            results[name] = traceback.format_exc()
        remote._sess.get_function("CloseRPCConnection")()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
