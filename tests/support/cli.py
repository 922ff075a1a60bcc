# SPDX-License-Identifier: Apache-2.0
"""Run the command line in this process."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from tvm_tiny.cli.app import app


def invoke(*arguments: str) -> Any:
    """Run ``tvm-tiny`` with `arguments`; exceptions that escape it are raised here. Returns the runner's Result."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def invoke_json(*arguments: str) -> Any:
    """The JSON document ``tvm-tiny … --json`` prints; the command must succeed."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
