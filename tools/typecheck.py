# SPDX-License-Identifier: Apache-2.0
"""Run mypy on the package as it is installed: a scratch tree of links in which `passes/` and its neighbours lie inside `tvm_tiny/`.

Type checkers do not read setuptools' ``package-dir``. Paths in the findings are turned back into the checkout's.

    python tools/typecheck.py [mypy options]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("passes", "schedules", "microtvm_projects")


def link_tree(into: Path) -> None:
    """Fill the folder `into` with links to the modules of the package, mapped as pyproject.toml maps them."""
    for source in (*(ROOT / "tvm_tiny").iterdir(), *(ROOT / name for name in MAPPED)):
        if source.name != "__pycache__":
            (into / source.name).symlink_to(source, target_is_directory=source.is_dir())


def restore_paths(line: str) -> str:
    """Turn ``tvm_tiny/passes/x.py`` of the scratch tree into ``passes/x.py`` of the checkout."""
    for name in MAPPED:
        if line.startswith(f"tvm_tiny/{name}/"):
            return line.removeprefix("tvm_tiny/")
    return line


def main() -> int:
    """Type-check; mypy's exit code."""
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_types_") as scratch:
        package = Path(scratch) / "tvm_tiny"
        package.mkdir()
        link_tree(package)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        done = subprocess.run([*command, *sys.argv[1:], "-p", "tvm_tiny"], cwd=scratch, capture_output=True, text=True, check=False)
    print("\n".join(restore_paths(line) for line in done.stdout.splitlines()))
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
