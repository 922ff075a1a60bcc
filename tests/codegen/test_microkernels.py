# SPDX-License-Identifier: Apache-2.0
"""What the header says of assembly: the stack it takes."""

from __future__ import annotations

import re

import tvm_tiny
from tests.support.shared import ROOT
from tvm_tiny.codegen.microkernels import deepest_frame
from tvm_tiny.schedules.microkernels.c_source import naked_function

OWN = ROOT / "examples/fashion_mnist/fashion_mnist_int8.tflite"


def test_the_frame_is_what_is_saved_and_reserved() -> None:
    small = naked_function("small", ("int a",), ("push {r4, lr}", "pop {r4, pc}"), "").source
    large = naked_function("large", ("int a",), ("push {r4-r11, lr}", "sub sp, sp, #12", "add sp, sp, #12", "pop {r4-r11, pc}"), "").source
    assert deepest_frame([small]) == 8
    assert deepest_frame([small + large]) == deepest_frame([small, large]) == 9 * 4 + 12
    assert deepest_frame(["static int plain(void) { return 0; }"]) == 0


def test_the_header_tells_of_it_where_there_is_assembly() -> None:
    def told(target: str) -> list[str]:
        header = tvm_tiny.build(OWN, target, name="net").files["codegen/host/include/tvmgen_net.h"].decode()
        return re.findall(r"up to (\d+) bytes in assembly", header)

    (taken,) = told("c -mcpu=cortex-m7")
    assert 36 <= int(taken) <= 512
    assert int(taken) % 4 == 0
