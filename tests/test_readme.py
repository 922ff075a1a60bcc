# SPDX-License-Identifier: Apache-2.0
"""What README.md shows works as it stands: the Python, the C, the commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_tiny
from tests.support.cli import invoke
from tests.support.demo import MODEL, demo_samples
from tests.support.shared import ROOT
from tvm_tiny.cli.app import COMMANDS

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, word: str) -> str:
    """The first code block in `language` that has `word`."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return next(text for text in blocks if word in text)


@pytest.mark.qemu
def test_python(tmp_path: Path) -> None:
    """Run where the model is at the path the text names; what it saves lands beside it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    program = block("python", "tvm_tiny.build") + "\nassert outputs['probabilities'].shape == (1, 10)\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env={**_environment()}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build/fashion/codegen/host/include/tvmgen_fashion.h").is_file()


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.host_cc
def test_c(tmp_path: Path) -> None:
    """Compiles without a warning and classifies the first labelled image as the reference does."""
    model = tvm_tiny.build(MODEL, "c", name="fashion")
    artifact = model.save(tmp_path / "model")
    images, labels = demo_samples(1)
    pixels = ", ".join(str(v) for v in images.ravel())
    use = f"#include <string.h>\nstatic const int8_t pixels[] = {{ {pixels} }};\n"
    use += "int main(void)\n{\n    memcpy(image, pixels, sizeof image);\n    return classify();\n}\n"
    (tmp_path / "main.c").write_text(block("c", "tvmgen_fashion") + use, encoding="utf-8")
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-I", str(artifact / "codegen/host/include")]
    sources = [str(artifact / source) for source in model.metadata()["sources"]]
    subprocess.run(["gcc", *flags, str(tmp_path / "main.c"), *sources, "-lm", "-o", str(tmp_path / "demo")], check=True, timeout=120)
    assert subprocess.run([str(tmp_path / "demo")], check=False, timeout=60).returncode == labels[0]


def test_figures_of_the_demo() -> None:
    rows = re.findall(r"^\| `make demo(?: ARGS=\"--optimize (\w+)\")?` \| ([\d,]+) bytes \| ([\d,]+) bytes \|", README, re.MULTILINE)
    assert [goal for goal, _arena, _constants in rows] == ["", "speed"]
    for goal, arena, constants in rows:
        model = tvm_tiny.build(MODEL, board="mps2_an500", optimize=goal or "balanced")
        assert (arena, constants) == (f"{model.workspace_size:,}", f"{model.report.constants_bytes:,}")


def test_commands_and_their_options_exist() -> None:
    lines = [line.partition("#")[0] for line in block("sh", "tvm-tiny check").splitlines()]
    for words in map(shlex.split, lines):
        assert words[0] == "tvm-tiny"
        assert words[1] in {*COMMANDS, "project"}
        usage = invoke(*words[1 : 3 if words[1] == "project" else 2], "--help").stdout
        assert all(word in usage for word in words if word.startswith("--"))


def test_every_command_is_documented() -> None:
    text = block("sh", "tvm-tiny check") + block("sh", "tvm-tiny doctor")
    assert [name for name in COMMANDS if f"tvm-tiny {name}" not in text] == []


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
