# SPDX-License-Identifier: Apache-2.0
"""A compiled model as files: Model Library Format, as a directory or a tar archive.

metadata.json                    what it is: target, workspace, inputs and outputs, layers, memory plan
codegen/host/src/*.c, *.h        sources (the private header stands beside them)
codegen/host/include/*.h         the public header
parameters/<name>.npz            the constants as the kernels read them
src/*.py                         the IR after each phase
report.json                      what the compiler decided
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tvm_tiny.errors import InputError

Files = Mapping[str, bytes]


def write_artifact(files: Files, destination: str | Path) -> Path:
    """Write `files` to a directory, or to a tar archive when `destination` ends in `.tar`. All or nothing.

    An earlier artifact at the same place is replaced; anything else there is left alone.

    Raises
    ------
    InputError
        The place can't be written, or holds something that is no artifact.
    """
    path = Path(destination)
    try:
        if path.suffix == ".tar":
            return _write_tar(files, path)
        return _write_directory(files, path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}", remedy="choose a directory you may write to") from error


def _write_directory(files: Files, path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file", remedy="name a directory, or an archive that ends in .tar")
    if path.is_dir() and any(path.iterdir()) and not (path / "metadata.json").is_file():
        raise InputError(f"{path}: is not empty and holds no compiled model", remedy="choose an empty or new directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as staging:
        new = Path(staging) / "new"
        for name, data in files.items():
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if path.exists():
            path.rename(Path(staging) / "old")
        new.rename(path)
    return path


def _write_tar(files: Files, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with tarfile.open(partial, "w") as archive:
            for name, data in sorted(files.items()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return path
