# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny check`: verdict, reasons, exit code; the table of operators without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import invoke, invoke_json
from tests.support.demo import MODEL
from tvm_tiny.frontend.check import supported_operators


def test_a_sound_model() -> None:
    document = invoke_json("check", str(MODEL))
    assert document["ok"]
    assert document["problems"] == []
    counts = {o["name"]: o["count"] for o in document["operators"]}
    assert counts == {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 1, "MEAN": 1, "SOFTMAX": 1}
    assert "it can be compiled" in invoke("check", str(MODEL)).stdout


def test_without_a_model_the_table_of_operators() -> None:
    names = [o["name"] for o in invoke_json("check")["operators"]]
    assert names == [o.name for o in supported_operators()]
    assert "DEPTHWISE_CONV_2D" in invoke("check").stdout


def test_unsupported_operators_are_listed_and_exit_is_3(tmp_path: Path) -> None:
    """The demo network with its code for SOFTMAX turned into LOG_SOFTMAX's, in the FlatBuffer."""
    broken = tmp_path / "log_softmax.tflite"
    broken.write_bytes(with_operator_code(MODEL.read_bytes(), 25, 50))
    result = invoke("check", str(broken), "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert "LOG_SOFTMAX" in document["problems"][0]["node"] + document["problems"][0]["reason"]
    assert "can't be compiled" in invoke("check", str(broken)).stdout


@pytest.mark.parametrize(("content", "code"), [(b"", 3), (b"no model at all", 3), (None, 2)])
def test_not_a_model(content: bytes | None, code: int, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    if content is not None:
        path.write_bytes(content)
    result = invoke("check", str(path))
    assert result.exit_code == code
    assert "remedy:" in result.stderr
    assert "Traceback" not in result.stderr


def with_operator_code(model: bytes, old: int, new: int) -> bytes:
    """`model` with an operator code changed in place, both in the deprecated 8-bit field and in the 32-bit one."""
    from tflite.Model import Model

    data = bytearray(model)
    root = Model.GetRootAs(bytes(data), 0)
    for index in range(root.OperatorCodesLength()):
        code = root.OperatorCodes(index)
        table = code._tab
        for slot, size in ((4, 1), (10, 4)):
            offset = table.Offset(slot)
            if offset and code.BuiltinCode() == old:
                place = table.Pos + offset
                data[place : place + size] = new.to_bytes(size, "little")
    return bytes(data)
