# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny kernel`: a layer's TIR, schedule, loops and blocks."""

from __future__ import annotations

from tests.support.cli import invoke, invoke_json
from tests.support.demo import MODEL


def test_a_convolution_is_shown_from_its_meaning_to_its_calls() -> None:
    found = invoke_json("kernel", str(MODEL), "--layer", "0")
    assert "T.if_then_else" in found["tir"], "padding is in what the layer computes"
    assert "sch.compute_at(" in found["schedules"][0]
    assert "sch.tensorize(" in found["schedules"][0]
    assert "T.call_extern" in found["loops"]
    assert all("T.call_extern" in block["implementation"] for block in found["blocks"])
    assert all("T.call_extern" not in block["description"] for block in found["blocks"])
    text = invoke("kernel", str(MODEL), "--layer", "0").output
    assert [text.index(f"# ---- {part}") for part in ("layer 0", "nest 0", "what is generated", "tvm_tiny.gemm_gemm")] == sorted(
        text.index(f"# ---- {part}") for part in ("layer 0", "nest 0", "what is generated", "tvm_tiny.gemm_gemm")
    )


def test_a_layer_that_is_not_there() -> None:
    result = invoke("kernel", str(MODEL), "--layer", "99")
    assert result.exit_code == 2
    assert "give one of them" in result.output + str(result.stderr)
