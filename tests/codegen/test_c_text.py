# SPDX-License-Identifier: Apache-2.0
"""Array literals and identifiers in generated C."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tvm_tiny.codegen.c_text import C_TYPES, comment, literals
from tvm_tiny.memory.program import c_identifier

EXTREMES = {
    "int8": [-128, 0, 127],
    "uint8": [0, 255],
    "int16": [-32768, 32767],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "uint32": [0, 2**32 - 1],
    "float32": [0.1, -3.5e38 / 2, 1e-40, np.inf, -np.inf],
    "float64": [0.1, 1e300],
}


@pytest.mark.host_cc
@pytest.mark.parametrize("dtype", sorted(EXTREMES))
def test_literals_keep_every_bit(dtype: str, tmp_path: Path) -> None:
    values = np.array(EXTREMES[dtype], dtype)
    source = (
        "#include <stdint.h>\n#include <stdio.h>\n"
        f"static const {C_TYPES[dtype]} v[{values.size}] = {{\n{literals(values)}\n}};\n"
        "int main(void) { return fwrite(v, sizeof v, 1, stdout) == 1 ? 0 : 1; }\n"
    )
    (tmp_path / "v.c").write_text(source)
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-o", str(tmp_path / "v"), str(tmp_path / "v.c")], check=True
    )
    assert subprocess.run([tmp_path / "v"], capture_output=True, check=True).stdout == values.tobytes()


def test_identifiers_are_legal_and_unique() -> None:
    taken: set[str] = set()
    names = [c_identifier(n, taken) for n in ("input:0", "input/0", "1x", "while", "", "größe")]
    assert names == ["input_0", "input_0_2", "t_1x", "t_while", "tensor", "gr__e"]


def test_comment_can_not_be_closed_early() -> None:
    assert "*/" not in comment("a */ b /* c\n d")
