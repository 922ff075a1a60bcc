# SPDX-License-Identifier: Apache-2.0
"""Relax and TIR passes, one a file: every one is a `tvm.ir.transform` pass and works in any `tvm.ir.transform.Sequential`."""
