# SPDX-License-Identifier: Apache-2.0
"""Wrong targets and boards: each message names what is wrong and lists what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvm_tiny.boards import find_board, load_boards
from tvm_tiny.errors import TargetError
from tvm_tiny.target import TinyTarget, parse_target


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("c -mcpu=cortex-m8", ["unknown core 'cortex-m8'", "did you mean cortex-m85?", "cortex-m0plus"]),
        ("c -mcp=cortex-m7", ["unknown target option -mcp", "did you mean mcpu?", "march"]),
        ("cortex-m4", ["does not start with the kind c", "c -mcpu=cortex-m4"]),
        ("", ["does not start with the kind c"]),
        ("llvm -mcpu=cortex-m4", ["does not start with the kind c"]),
        ("c cortex-m4", ["'cortex-m4' is not an option"]),
        ("c -mcpu=cortex-m4 -mcpu=cortex-m7", ["-mcpu twice"]),
        ('c -mcpu="cortex-m4', ["can't be read"]),
        ("c -mcpu=cortex-m3+dsp", ["cortex-m3 has no dsp"]),
        ("c -mcpu=cortex-m4+fp.dp", ["cortex-m4 has no fp.dp", "dsp, fpu"]),
        ("c -mcpu=cortex-m7+crypto", ["unknown feature suffix +crypto", "fp.dp"]),
        ("c -mcpu=cortex-m7 -march=armv8-m.main", ["not the architecture of cortex-m7", "armv7e-m"]),
        ("c -march=armv7-m", ["takes no -march", "name a core"]),
        ("c -mcpu=cortex-m4 -workspace-byte-alignment=3", ["not a power of two"]),
        ({"kind": "cuda"}, ["kind 'cuda' is not supported"]),
        ({"kind": "c", "mcpu": "cortex-m3", "features": ["mve"]}, ["cortex-m3 has no mve"]),
        (5, ["not a target: 5"]),
    ],
)
def test_wrong_target(target: Any, words: list[str]) -> None:
    """The error says what is wrong and what is known."""
    with pytest.raises(TargetError) as caught:
        parse_target(target)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_target_validated_at_construction() -> None:
    """A TinyTarget made by hand is checked too."""
    with pytest.raises(TargetError, match="not the architecture"):
        TinyTarget("cortex-m4", "armv7-m")


def test_unknown_board() -> None:
    """Lists the boards and the closest name."""
    with pytest.raises(TargetError, match=r"unknown board 'nucleo_f746'[^$]*did you mean nucleo_f746zg\?[^$]*mps2_an500"):
        find_board("nucleo_f746")


GOOD = """[boards.x]
title = "x"
target = "c -mcpu=cortex-m4"
clock_hz = 1
template = "mps2"
source = "s"
memory = [{ name = "f", kind = "flash", base = 0, size = 4 }, { name = "r", kind = "ram", base = 8, size = 4 }]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('template = "mps2"', 'template = "mps9"', "unknown template 'mps9'"),
        ("cortex-m4", "cortex-m6", "unknown core 'cortex-m6'"),
        ("base = 8", "base = 2", "memories f and r overlap"),
        ('kind = "ram"', 'kind = "rum"', "unknown kind 'rum'"),
        ("size = 4", "size = 0", "do not fit 32-bit addresses"),
        ('source = "s"', 'source = ""', "no source"),
        ('source = "s"', "", "source"),
        ("clock_hz", "clock", "clock"),
        ('title = "x"', 'title = "x"\naliases = ["x"]', "belongs to both"),
        ("[boards.x]", "[boards.x", "can't be read"),
    ],
)
def test_wrong_boards_file(tmp_path: Path, old: str, new: str, words: str) -> None:
    """A fact that is wrong or missing names the file and the board."""
    path = tmp_path / "boards.toml"
    path.write_text(GOOD)
    assert list(load_boards(path)) == ["x"]
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(TargetError) as caught:
        load_boards(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
