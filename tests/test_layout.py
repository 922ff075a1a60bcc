# SPDX-License-Identifier: Apache-2.0
"""Habits of the house that a machine can check: one pass is one file, one name, one test; docstrings; licence lines; sizes; imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.support.shared import ROOT

FOLDERS = ("tvm_tiny", "passes", "schedules", "microtvm_projects", "tests", "benchmarks", "examples", "tools", "notebooks")
SUFFIXES = (".py", ".c", ".h", ".s", ".S", ".ld", ".sh", ".toml", ".cmake")
FILE_LINES, FUNCTION_LINES = 400, 50  # soft: reported, not refused
CLI_IMPORT_SECONDS = 2.0


def sources(*suffixes: str) -> list[Path]:
    """Files of the repository's own folders with one of `suffixes`; generated and golden ones left out."""
    found = (p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")))
    return [p for p in found if p.suffix in suffixes and not {"__pycache__", "golden", "build"} & set(p.parts)]


def relative(path: Path) -> str:
    """`path` as seen from the repository's root."""
    return path.relative_to(ROOT).as_posix()


def passes() -> list[Path]:
    """Modules of passes/: one pass each; a leading underscore marks a helper."""
    return [p for p in sorted((ROOT / "passes").glob("*.py")) if not p.name.startswith("_")]


@pytest.mark.parametrize("path", passes(), ids=relative)
def test_a_pass_is_a_file_a_name_and_a_test(path: Path) -> None:
    names = re.findall(r'name="([a-z0-9-]+)"', path.read_text(encoding="utf-8"))
    assert path.stem.replace("_", "-") in names, f"{relative(path)} must define the pass {path.stem.replace('_', '-')!r}, found {names}"
    assert list((ROOT / "tests").rglob(f"test_{path.stem}.py")), f"{relative(path)} has no test file test_{path.stem}.py"


@pytest.mark.parametrize("path", passes(), ids=relative)
def test_a_pass_states_its_contract(path: Path) -> None:
    module = ast.parse(path.read_text(encoding="utf-8"))
    docs = " ".join(ast.get_docstring(n) or "" for n in (module, *ast.walk(module)) if isinstance(n, (ast.Module, ast.ClassDef)))
    assert "rewrite:" in docs, f"{relative(path)}: its docstring shows no `rewrite:` block (before → after)"


def test_every_module_has_a_docstring() -> None:
    bare = [relative(p) for p in sources(".py") if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert bare == []


def test_every_source_file_names_its_licence() -> None:
    """In the first three lines: a shebang may stand before it."""
    heads = {p: p.read_text(encoding="utf-8").splitlines()[:3] for p in sources(*SUFFIXES)}
    assert [relative(p) for p, head in heads.items() if not any("SPDX-License-Identifier: Apache-2.0" in line for line in head)] == []


def test_long_files_and_functions_are_reported() -> None:
    """Sizes past the soft caps are a place to look, not an error."""
    long = []
    for path in sources(".py"):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > FILE_LINES:
            long.append(f"{relative(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES:
                long.append(f"{relative(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines")
    if long:
        warnings.warn("past the soft caps:\n  " + "\n  ".join(long), stacklevel=1)


def test_the_command_line_starts_without_tvm() -> None:
    """`tvm-tiny --help` and `doctor` answer at once, and on a machine where TVM is broken."""
    program = "import sys, time; t = time.process_time(); import tvm_tiny.cli.app; print(time.process_time() - t, 'tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    seconds, has_tvm = done.stdout.split()
    assert has_tvm == "False"
    assert float(seconds) < CLI_IMPORT_SECONDS


@pytest.mark.parametrize("name", ["passes", "schedules", "microtvm_projects"])
def test_nothing_imports_a_mapped_package_by_its_folder(name: str) -> None:
    """`import passes` works in a checkout only."""
    wrong = re.compile(rf"^\s*(from|import) {name}\b", re.MULTILINE)
    assert [relative(p) for p in sources(".py") if wrong.search(p.read_text(encoding="utf-8"))] == []
