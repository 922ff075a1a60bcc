# SPDX-License-Identifier: Apache-2.0
"""`tvm-tiny project create|build|flash|run`: the steps, and what each says when it can't go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import invoke, invoke_json
from tests.support.device_model import expected, sample, write_crasher

SIZE = 48


@pytest.fixture
def artifact(tmp_path: Path) -> str:
    """A compiled model on disk."""
    return str(write_crasher(tmp_path / "model", SIZE))


@pytest.mark.host_cc
def test_create_build_flash_run(artifact: str, tmp_path: Path) -> None:
    project, one = str(tmp_path / "project"), sample(np.random.default_rng(0), SIZE)
    np.savez(tmp_path / "inputs.npz", **one)
    assert invoke_json("project", "create", artifact, project, "--times")["builds_with"] == "make"
    result = invoke("project", "run", project)
    assert result.exit_code == 2
    assert "not built" in result.stderr
    assert invoke_json("project", "build", project)["flash"] > 0
    assert invoke_json("project", "flash", project)["command"] == ""
    document = invoke_json("project", "run", project, "-i", str(tmp_path / "inputs.npz"))
    for name, array in expected(one).items():
        np.testing.assert_array_equal(document["outputs"][0][name], array)
    assert document["layers"][0]["ticks"] > 0
    assert "microseconds" in invoke("project", "run", project).stdout


def test_zephyr_on_an_mps2_board(artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = str(tmp_path / "project")
    document = invoke_json("project", "create", artifact, project, "--board", "an500", "--template", "zephyr", "--app", "rpc")
    assert (document["board"], document["template"]) == ("mps2_an500", "zephyr")
    assert document["builds_with"].startswith("cmake")
    monkeypatch.delenv("ZEPHYR_BASE", raising=False)
    result = invoke("project", "build", project)
    assert result.exit_code == 4
    assert "ZEPHYR_BASE is not set" in result.stderr
    assert invoke("project", "run", project).exit_code == 2


def test_flash_without_tools_is_exit_4(artifact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = str(tmp_path / "project")
    invoke_json("project", "create", artifact, project, "--board", "nucleo_f746zg")
    monkeypatch.setenv("PATH", str(tmp_path))
    result = invoke("project", "flash", project)
    assert result.exit_code == 4
    assert "west flash --build-dir build" in result.stderr


@pytest.mark.parametrize("command", ["build", "flash", "run"])
def test_no_project_there(command: str, tmp_path: Path) -> None:
    result = invoke("project", command, str(tmp_path))
    assert result.exit_code == 2
    assert "no project" in result.stderr
