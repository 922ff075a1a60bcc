# SPDX-License-Identifier: Apache-2.0
"""Reference models and data that are not part of this repository; tests that use them skip where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TVM_TINY_SHARED", ROOT.parent / "shared"))

needs_shared = pytest.mark.skipif(not (SHARED / "models").is_dir(), reason=f"needs the reference models in {SHARED / 'models'}")


def shared_models(pattern: str) -> list[Path]:
    """Files of ``SHARED/models`` that match `pattern` (such as ``tflite/*.tflite``), sorted; empty where they are absent."""
    return sorted((SHARED / "models").glob(pattern))
