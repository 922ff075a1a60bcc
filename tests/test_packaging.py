# SPDX-License-Identifier: Apache-2.0
"""The same imports and the same data files from a wheel, an editable install and a source checkout.

`passes/`, `schedules/` and `microtvm_projects/` stand at the top of the repository and are mapped into `tvm_tiny`. Each way of importing is
tried in an interpreter of its own, isolated from this one but for the installed third-party packages, which it is lent by a .pth file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.shared import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAPPED = {"tvm_tiny.passes": "passes", "tvm_tiny.schedules": "schedules", "tvm_tiny.microtvm_projects": "microtvm_projects"}
SOURCES = ("tvm_tiny", *MAPPED.values(), "pyproject.toml", "README.md", "LICENSE")
JUNK = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info", "build")

# Prints where tvm_tiny comes from and every data file the mapped packages find beside themselves.
PROBE = """
import json, pathlib
import tvm_tiny, tvm_tiny.passes, tvm_tiny.schedules, tvm_tiny.microtvm_projects
from tvm_tiny.boards import load_boards

def data_of(package):
    root = pathlib.Path(package.__path__[0])
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc"))

packages = (tvm_tiny.passes, tvm_tiny.schedules, tvm_tiny.microtvm_projects)
print(json.dumps({"file": tvm_tiny.__file__, "boards": len(load_boards()), "data": {p.__name__: data_of(p) for p in packages}}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of what a distribution is built from, so that nothing is written into the repository."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=JUNK)
        else:
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout, built without the network."""
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    shutil.copytree(checkout, source)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


def pip(python: str | Path, *arguments: str) -> None:
    """Run this environment's pip for the interpreter `python`."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def fresh_environment(folder: Path) -> Path:
    """A virtual environment that sees this one's third-party packages, but not what is installed here in development mode."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def probe(python: str | Path, cwd: Path, *options: str) -> dict:
    """What `PROBE` prints under `python` started in `cwd`."""
    done = subprocess.run([str(python), *options, "-c", PROBE], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data_files() -> dict[str, list[str]]:
    """Data files of the mapped packages as they stand in the repository."""
    found = {}
    for package, folder in MAPPED.items():
        files = (p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc"))
        found[package] = sorted(p.relative_to(ROOT / folder).as_posix() for p in files)
    return found


def check_found(found: dict, inside: Path) -> None:
    """The probe found the package below `inside`, the boards, and every data file."""
    assert Path(found["file"]).resolve().is_relative_to(inside.resolve())
    assert found["boards"] > 5
    assert found["data"] == data_files()


def test_wheel(wheel: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "env")
    pip(python, "install", "--no-deps", "--no-index", str(wheel))
    check_found(probe(python, tmp_path, "-I"), tmp_path / "env")
    assert (tmp_path / "env" / "bin" / "tvm-tiny").is_file()


def test_wheels_interpreter_in_the_repositorys_root(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    """There ``./tvm_tiny`` comes first on the path, and must find its neighbours."""
    python = fresh_environment(tmp_path / "env")
    pip(python, "install", "--no-deps", "--no-index", str(wheel))
    check_found(probe(python, checkout), checkout)


def test_editable(checkout: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "env")
    pip(python, "install", "--no-deps", "--no-build-isolation", "--editable", str(checkout))
    check_found(probe(python, tmp_path, "-I"), checkout)


def test_source_checkout(checkout: Path) -> None:
    check_found(probe(sys.executable, checkout), checkout)


def test_wheel_claims_no_name_but_its_own(wheel: Path) -> None:
    top = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"tvm_tiny"}


def test_every_package_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    standing = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "tvm_tiny").rglob("__init__.py")}
    for package, folder in MAPPED.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            standing.add(".".join((package, *init.parent.relative_to(ROOT / folder).parts)))
    assert set(declared["packages"]) == standing
    assert declared["package-dir"] == MAPPED
