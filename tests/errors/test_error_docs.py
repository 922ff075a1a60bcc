# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md lists every error class and every exit code, and nothing else."""

from __future__ import annotations

import ast
import inspect
import re

from tests.support.shared import ROOT
from tvm_tiny import errors
from tvm_tiny.cli.guard import EXIT_CODES

DOC = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def classes_in_source() -> list[tuple[str, str]]:
    """(code, class) of every error class that gives itself a code, wherever it is defined."""
    found = []
    for folder in ("tvm_tiny", "passes", "schedules", "microtvm_projects"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    values = [s.value for s in node.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == "code"]
                    found += [(v.value, node.name) for v in values if isinstance(v, ast.Constant)]
    return sorted(found)


def test_every_class_has_its_row() -> None:
    rows = re.findall(r"^\| (TINY\d+) \| (\w+) \| \d+ \|", DOC, re.MULTILINE)
    assert sorted(rows) == classes_in_source()


def test_exit_codes_of_the_rows_are_the_classes_own() -> None:
    own = {e.__name__: e.exit_code for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.TinyError)}
    rows = re.findall(r"^\| TINY\d+ \| (\w+) \| (\d+) \|", DOC, re.MULTILINE)
    assert own == {name: int(code) for name, code in rows if name in own}


def test_every_exit_code_has_its_row() -> None:
    assert dict(re.findall(r"^\| (\d+) \| ([^|]+) \|$", DOC, re.MULTILINE)) == {str(c): m for c, m in EXIT_CODES.items()}
