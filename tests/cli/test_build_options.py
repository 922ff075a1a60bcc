# SPDX-License-Identifier: Apache-2.0
"""Every command that takes a model file takes the options of `tvm_tiny.build`, and says so where they come too late."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import tvm_tiny
from tests.support.cli import invoke, invoke_json
from tests.support.demo import MODEL
from tvm_tiny.cli.build_options import DEFAULTS, BuildOptions

WITH_A_MODEL = ("compile", "report", "compare", "run", "profile", "device-server")


@pytest.mark.parametrize("command", [*WITH_A_MODEL, "project create"])
def test_every_option_is_there(command: str) -> None:
    listed = invoke(*command.split(), "--help").stdout
    missing = [field.name for field in fields(BuildOptions) if "--" + field.name.replace("_", "-") not in listed]
    assert missing == []


def test_defaults_are_those_of_build() -> None:
    wanted = {name: p.default for name, p in inspect.signature(tvm_tiny.build).parameters.items()}
    assert DEFAULTS.arguments() == {name: wanted[name] for name in DEFAULTS.arguments()}
    assert DEFAULTS.given() == []


@pytest.mark.host_cc
def test_options_reach_the_build(tmp_path: Path) -> None:
    """The arena of a project's model is that of its goal."""
    arenas = {}
    for goal in ("speed", "sram"):
        invoke_json("project", "create", str(MODEL), str(tmp_path / goal), "--optimize", goal)
        headers = (path.read_text(encoding="utf-8") for path in (tmp_path / goal).rglob("tvmgen_*.h"))
        (size,) = {found for text in headers for found in re.findall(r"_WORKSPACE_SIZE (\d+)u", text)}
        arenas[goal] = int(size)
    assert arenas["sram"] < arenas["speed"]
    assert arenas["sram"] == invoke_json("report", str(MODEL), "-O", "sram")["arena_bytes"]


def test_too_late_for_what_is_compiled(tmp_path: Path) -> None:
    invoke_json("compile", str(MODEL), "-o", str(tmp_path / "model"))
    result = invoke("profile", str(tmp_path / "model"), "--target", "c", "-O", "speed", "--disable", "overlap")
    assert result.exit_code == 2
    assert "--target, --optimize, --disable come too late" in " ".join(result.stderr.split())


def test_nothing_to_compile() -> None:
    result = invoke("device-server", "--optimize", "speed")
    assert result.exit_code == 2
    assert "--optimize: without a model nothing is compiled" in " ".join(result.stderr.split())
