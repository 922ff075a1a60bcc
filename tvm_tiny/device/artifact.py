# SPDX-License-Identifier: Apache-2.0
"""Reading a compiled model (Model Library Format, directory or tar) for the device side, and checking arrays against it."""

from __future__ import annotations

import contextlib
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_tiny.boards import Board
from tvm_tiny.errors import InputError, TargetError
from tvm_tiny.target import TinyTarget, parse_target

DTYPES = ("int8", "uint8", "int16", "int32", "int64", "float32", "bool")


@dataclass(frozen=True)
class Tensor:
    """An input or output of the model or of a layer: name in the source model, name in C, shape and dtype.

    `buffer` is equal for an output and the inputs that read it. `fetched`: the model takes no array but a function that hands it over.
    """

    name: str
    c_name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: str = ""
    fetched: bool = False

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    `target` is what its C was made for: a host target (portable C) fits every board. `memories` are those its arena is spread over; empty
    where it lies in one, whichever.
    """

    directory: Path
    name: str
    target: TinyTarget
    workspace_size: int
    compile_flags: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[Mapping[str, Any], ...]
    memories: tuple[str, ...] = ()

    @property
    def header(self) -> Path:
        """The public header."""
        return self.directory / "codegen" / "host" / "include" / f"tvmgen_{self.name}.h"

    @property
    def sources(self) -> list[Path]:
        """C files and the private headers beside them, sorted."""
        source = self.directory / "codegen" / "host" / "src"
        return sorted(p for p in source.iterdir() if p.suffix in (".c", ".h"))

    def layer_name(self, index: int) -> str:
        """A layer as the user knows it: index, operator and the source model's tensor."""
        layer = next((entry for entry in self.layers if entry.get("index") == index), None)
        if layer is None:
            return f"layer {index}"
        source = layer.get("source") or [layer.get("name", "")]
        return f"layer {index} ({layer.get('op', '?')}: {', '.join(map(str, source))})"

    def layer_tensors(self, index: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Inputs and outputs of the function that runs layer `index` alone; both empty where the model has no such functions.

        Their `c_name` is the function's parameter.
        """
        layer = self.layers[index]
        inputs, outputs = layer.get("inputs", ()), layer.get("outputs", ())
        return (
            tuple(_tensor({**t, "c_name": f"x{i}"}) for i, t in enumerate(inputs)),
            tuple(_tensor({**t, "c_name": f"y{i}"}) for i, t in enumerate(outputs)),
        )


@contextlib.contextmanager
def open_artifact(path: str | Path) -> Iterator[Artifact]:
    """The compiled model at a directory or in a .tar; an archive is unpacked as long as the context lasts.

    Raises
    ------
    InputError
        There is no compiled model there, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        yield _load(path)
        return
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_mlf_") as folder:
        try:
            with tarfile.open(path) as archive:
                _extract(archive, Path(folder))
        except (OSError, tarfile.TarError) as error:
            raise InputError(
                f"{path}: no compiled model: {error}", remedy="give a directory or .tar written by `tvm-tiny compile`"
            ) from None
        yield _load(Path(folder))


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Regular files only, and only inside the folder."""
    for member in archive.getmembers():
        target = (folder / member.name).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"{member.name} leaves the archive's folder")
        if member.isfile() and (content := archive.extractfile(member)) is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())


def _load(directory: Path) -> Artifact:
    artifact = read_metadata(directory / "metadata.json")
    if not artifact.header.is_file():
        raise InputError(f"{artifact.header}: missing", remedy="compile the model again")
    return artifact


def read_metadata(path: Path) -> Artifact:
    """What metadata.json says of a compiled model; its sources need not lie beside it.

    Raises
    ------
    InputError
        The file is missing or damaged.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Artifact(
            directory=path.parent.resolve(),
            name=data["name"],
            target=_target(data.get("target") or {}),
            workspace_size=int(data["workspace_size"]),
            compile_flags=tuple(data.get("compile_flags", ())),
            inputs=tuple(_tensor(t) for t in data["inputs"]),
            outputs=tuple(_tensor(t) for t in data["outputs"]),
            layers=tuple(data.get("layers", ())),
            memories=tuple(data.get("workspaces", ())),
        )
    except OSError as error:
        raise InputError(f"{path}: no compiled model: {error.strerror}", remedy="give what `tvm-tiny compile` wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: the description of the compiled model is damaged: {error!r}", remedy="compile the model again") from None


def _target(data: str | Mapping[str, Any]) -> TinyTarget:
    if isinstance(data, str):
        return parse_target(data)
    return parse_target({"kind": "c", **{k: data[k] for k in ("mcpu", "march", "features") if data.get(k) is not None}})


def _tensor(data: Mapping[str, Any]) -> Tensor:
    if data["dtype"] not in DTYPES:
        raise ValueError(f"tensor {data['name']} has dtype {data['dtype']}")
    shape = tuple(int(d) for d in data["shape"])
    return Tensor(data["name"], data["c_name"], shape, data["dtype"], data.get("buffer", ""), bool(data.get("fetched", False)))


def check_board(artifact: Artifact, board: Board) -> None:
    """Refuse C made for what the board's core has not.

    Raises
    ------
    TargetError
        Naming the core and the features that are missing.
    """
    places = [r.name for r in board.arena_regions]
    if set(artifact.memories) - set(places) and not board.target.is_host:
        planned, there = ", ".join(artifact.memories), ", ".join(places)
        raise TargetError(
            f"{artifact.name} was planned for the memories {planned}; the arena of {board.name} lies in {there}",
            remedy=f"compile it for board {board.name}",
        )
    made_for = artifact.target
    if made_for.is_host:
        return
    remedy = f'compile the model for "{board.target}"'
    if board.target.is_host:
        raise TargetError(f"{artifact.name} was compiled for {made_for.mcpu}; the board {board.name} is this machine", remedy=remedy)
    missing = sorted(made_for.features & {"dsp", "mve"} - board.target.features)
    if made_for.has_thumb2 and not board.target.has_thumb2:
        missing.insert(0, f"the instructions of {made_for.march}")
    if missing:
        raise TargetError(
            f"{artifact.name} was compiled for {made_for.mcpu}; {board.name} ({board.mcpu}) has no {', no '.join(missing)}", remedy=remedy
        )


def pack_inputs(artifact: Artifact, sample: Mapping[str, np.ndarray], *, which: str = "inputs") -> bytes:
    """The bytes of one sample's inputs, in the model's order.

    Raises
    ------
    InputError
        A name is missing or unknown, or an array has the wrong dtype or shape; every problem is listed.
    """
    if not isinstance(sample, Mapping):
        raise InputError(f"{which}: a dict from input name to array is needed, not {type(sample).__name__}")
    problems = [f"no input is called {name!r}" for name in sample if name not in {t.name for t in artifact.inputs}]
    for tensor in artifact.inputs:
        problems += _problems(tensor, sample)
    if problems:
        expected = ", ".join(f"{t.name}: {t.dtype}{list(t.shape)}" for t in artifact.inputs)
        raise InputError(f"{which}: {'; '.join(problems)}", remedy=f"the model takes {expected}")
    return b"".join(
        np.ascontiguousarray(sample[t.name]).astype(np.dtype(t.dtype).newbyteorder("<"), copy=False).tobytes() for t in artifact.inputs
    )


def _problems(tensor: Tensor, sample: Mapping[str, np.ndarray]) -> list[str]:
    if tensor.name not in sample:
        return [f"input {tensor.name!r} is missing"]
    array: object = sample[tensor.name]
    if not isinstance(array, np.ndarray):
        return [f"input {tensor.name!r} is a {type(array).__name__}, not a numpy array"]
    found = []
    if array.dtype != np.dtype(tensor.dtype):
        found.append(f"input {tensor.name!r} has dtype {array.dtype}, not {tensor.dtype}")
    if array.shape != tensor.shape:
        found.append(f"input {tensor.name!r} has shape {list(array.shape)}, not {list(tensor.shape)}")
    return found


def unpack_outputs(tensors: Sequence[Tensor], data: bytes) -> dict[str, np.ndarray]:
    """Arrays by output name, from the bytes the device sent."""
    outputs: dict[str, np.ndarray] = {}
    start = 0
    for tensor in tensors:
        flat = np.frombuffer(data[start : start + tensor.nbytes], dtype=np.dtype(tensor.dtype).newbyteorder("<"))
        outputs[tensor.name] = flat.reshape(tensor.shape).astype(np.dtype(tensor.dtype), copy=True)
        start += tensor.nbytes
    return outputs
