# SPDX-License-Identifier: Apache-2.0
"""Trained model file → Relax in QDQ form (its contract: `tvm_tiny.frontend.tflite`)."""

from __future__ import annotations

from pathlib import Path

import tvm

from tvm_tiny.errors import InputError


def load(source: str | Path | bytes) -> tvm.IRModule:
    """Import a trained int8 model. The format is recognised by content, not by file name.

    Parameters
    ----------
    source : a path, or the bytes of a TFLite or ONNX model.

    Returns
    -------
    tvm.IRModule
        `main` in QDQ form, with the module attribute `tiny.model` (see `tvm_tiny.frontend.naming`).

    Errors
    ------
    InputError
        The file can't be read.
    ModelFormatError
        Not a model, truncated or damaged.
    UnsupportedModelError
        Every reason at once why the model can't be compiled.
    """
    data, name = read_source(source)
    from tvm_tiny.frontend.check import require_onnx, sniff

    if sniff(data, name) == "tflite":
        from tvm_tiny.frontend.tflite import load_tflite

        return load_tflite(data, name)
    require_onnx(name)
    from tvm_tiny.frontend.onnx import load_onnx

    return load_onnx(data, name)


def read_source(source: str | Path | bytes) -> tuple[bytes, str]:
    """The bytes and a name for the model (the file's stem; "model" for bytes)."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "model"
    path = Path(source)
    try:
        return path.read_bytes(), path.stem
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}", remedy="check the path and its permissions") from error
