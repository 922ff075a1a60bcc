# SPDX-License-Identifier: Apache-2.0
"""The one pair of apache-tvm and apache-tvm-ffi this library works with, and the check that it is the installed one.

pip resolves apache-tvm 0.27 to a newer apache-tvm-ffi whose ABI differs: `tvm.ir.save_json` then ends in a segmentation fault, and with it
every tuning database. A wrong pair must therefore be refused before TVM is called, with words.
"""

from __future__ import annotations

from importlib import metadata

from tvm_tiny.errors import DependencyError

PAIR = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post0"}
REMEDY = "pip install " + " ".join(f'"{name}=={version}"' for name, version in PAIR.items())


def installed_pair() -> dict[str, str | None]:
    """Version of each of the pair's distributions in this environment; None where it is not installed."""
    return {name: _version(name) for name in PAIR}


def check_pair() -> None:
    """Raise unless exactly the pinned pair is installed.

    Raises
    ------
    DependencyError
        Names each distribution that drifted, its version, the one needed, and the command that mends it.
    """
    wrong = [f"{name} {found or 'is missing'} (needed: {PAIR[name]})" for name, found in installed_pair().items() if found != PAIR[name]]
    if wrong:
        raise DependencyError(f"TVM and its FFI are not the pair tvm_tiny works with: {', '.join(wrong)}", remedy=REMEDY)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
