# SPDX-License-Identifier: Apache-2.0
"""docs/errors.md lists every error class and every exit code, and nothing else."""

from __future__ import annotations

import inspect
import re

from tests.support.shared import ROOT
from tvm_tiny import errors
from tvm_tiny.cli.guard import EXIT_CODES

DOC = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")


def test_every_class_has_its_row() -> None:
    kinds = [e for e in vars(errors).values() if inspect.isclass(e) and issubclass(e, errors.TinyError)]
    rows = re.findall(r"^\| (TINY\d+) \| (\w+) \| (\d+) \|", DOC, re.MULTILINE)
    assert sorted(rows) == sorted((k.code, k.__name__, str(k.exit_code)) for k in kinds)


def test_every_exit_code_has_its_row() -> None:
    assert dict(re.findall(r"^\| (\d+) \| ([^|]+) \|$", DOC, re.MULTILINE)) == {str(c): m for c, m in EXIT_CODES.items()}
