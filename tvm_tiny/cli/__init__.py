# SPDX-License-Identifier: Apache-2.0
"""The command line `tvm-tiny`: one command a module, registered in `tvm_tiny.cli.app`.

TVM is imported inside the commands, not here, so that `tvm-tiny --help` and `tvm-tiny doctor` answer at once and without it.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from tvm_tiny.cli.app import app

    app()
