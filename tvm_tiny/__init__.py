# SPDX-License-Identifier: Apache-2.0
"""tvm_tiny: a compiler plugin for Apache TVM that turns trained int8 networks into plain C for microcontrollers."""

from __future__ import annotations

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a source checkout `passes/`, `schedules/` and `microtvm_projects/` stand beside this package, not inside it (pyproject.toml maps
# them in for wheels and editable installs). Putting the checkout's root on the package's search path makes the same imports work there.
_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "passes" / "__init__.py").is_file():
    __path__.append(str(_root))

# The API by name, imported on first use: `import tvm_tiny` alone does not load TVM.
_EXPORTS = {"load": "api", "build": "api", "CompiledModel": "compiled", "tune": "tuning.network"}
__all__ = ["CompiledModel", "__version__", "build", "load", "tune"]


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tvm_tiny' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tvm_tiny.{_EXPORTS[name]}"), name)
