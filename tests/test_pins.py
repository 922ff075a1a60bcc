# SPDX-License-Identifier: Apache-2.0
"""TVM and its FFI are an exact pair: declared once, equal to pyproject.toml, installed here, and refused with a remedy when it drifts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.shared import ROOT
from tvm_tiny import pins
from tvm_tiny.errors import DependencyError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def declared() -> list[str]:
    """Dependencies of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


def test_pyproject_pins_the_same_pair() -> None:
    assert [d for d in declared() if d.startswith("apache-tvm")] == [f"{name}=={version}" for name, version in pins.PAIR.items()]


def test_this_environment_has_the_pair() -> None:
    assert pins.installed_pair() == pins.PAIR, f"TVM and its FFI drifted apart; mend it: {pins.REMEDY}"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.15.post2"}, r"apache-tvm-ffi 0\.1\.15\.post2 \(needed: 0\.1\.14\.post0\)"),
        ({"apache-tvm": None, "apache-tvm-ffi": "0.1.14.post0"}, r"apache-tvm is missing \(needed: 0\.27\.0\.post1\)"),
    ],
)
def test_drift_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, found: dict[str, str | None], message: str) -> None:
    monkeypatch.setattr(pins, "installed_pair", lambda: found)
    with pytest.raises(DependencyError, match=message) as caught:
        pins.check_pair()
    assert caught.value.remedy == 'pip install "apache-tvm==0.27.0.post1" "apache-tvm-ffi==0.1.14.post0"'


def test_the_pairs_abi_holds() -> None:
    """What breaks when the pair drifts: `save_json` of a module ends in a segmentation fault. In a process of its own for that reason."""
    program = "import tvm; tvm.ir.load_json(tvm.ir.save_json(tvm.IRModule({})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"tvm.ir.save_json fails (status {done.returncode}); mend it: {pins.REMEDY}\n{done.stderr}"
