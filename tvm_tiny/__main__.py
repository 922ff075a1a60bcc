# SPDX-License-Identifier: Apache-2.0
"""``python -m tvm_tiny``: the command line, for a checkout that is not installed."""

from __future__ import annotations

from tvm_tiny.cli import main

main()
