# SPDX-License-Identifier: Apache-2.0
"""A network on a device layer by layer: every tensor at hand, every layer timed by itself, over a stock RPC session."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_tiny.device.artifact import Artifact, Tensor
from tvm_tiny.errors import InputError


@dataclass(frozen=True)
class LayerRun:
    """One layer that has run alone.

    Attributes
    ----------
    outputs : dict[str, numpy.ndarray]
        By the source model's tensor names.
    seconds : float or None
        Mean of one run by the device's cycle counter; None when it was not asked for.
    """

    index: int
    name: str
    outputs: dict[str, np.ndarray]
    seconds: float | None


def run_layers(session: Any, artifact: Artifact, sample: Mapping[str, np.ndarray], *, number: int = 0) -> Iterator[LayerRun]:
    """Run the layers of a compiled model one by one, each on what those before it left on the device.

    Parameters
    ----------
    session : tvm.rpc.RPCSession
        Of `tvm_tiny.device.connect` or of TVM itself.
    sample
        Arrays by input name.
    number
        Runs to time each layer by, after one that is not timed; 0 times nothing.

    Raises
    ------
    InputError
        The model's layers can't be called alone: it was compiled by an older version, or one has more tensors than a call carries.
    RuntimeError
        What the device reported (TVM's RPCError).
    """
    from tvm import runtime

    device, library = session.cpu(0), session.system_lib()
    live = {t.buffer: runtime.tensor(np.ascontiguousarray(sample[t.name]), device=device) for t in artifact.inputs}
    last = last_uses(artifact)
    for index in range(len(artifact.layers)):
        inputs, outputs = artifact.layer_tensors(index)
        function = _function(session, artifact, index)
        made = {t.buffer: runtime.empty(t.shape, t.dtype, device) for t in outputs}
        given = [live[t.buffer] for t in inputs]
        seconds = None
        if number:
            name = f"tvmgen_{artifact.name}_layer_{index}"
            seconds = float(library.time_evaluator(name, device, number=number)(*given, *made.values()).mean)
        function(*given, *made.values())
        arrays = {t.name: made[t.buffer].numpy() for t in outputs}
        live = {name: tensor for name, tensor in (live | made).items() if last.get(name, -1) > index}
        del given, made
        yield LayerRun(index, artifact.layer_name(index), arrays, seconds)


def last_uses(artifact: Artifact) -> dict[str, int]:
    """The last layer that reads each buffer."""
    return {tensor.buffer: i for i in range(len(artifact.layers)) for tensor in artifact.layer_tensors(i)[0]}


def live_bytes(artifact: Artifact) -> int:
    """Most bytes of tensors that `run_layers` holds on the device at a time; 0 for a model without layers to call."""
    last, live, most = last_uses(artifact), {t.buffer: t for t in artifact.inputs}, 0
    for index in range(len(artifact.layers)):
        outputs = artifact.layer_tensors(index)[1]
        live |= {t.buffer: t for t in outputs}
        most = max(most, _bytes(list(live.values()))) if outputs else most
        live = {name: tensor for name, tensor in live.items() if last.get(name, -1) > index}
    return most


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes + 32 for tensor in tensors)


def _function(session: Any, artifact: Artifact, index: int) -> Any:
    try:
        return session.get_function(f"tvmgen_{artifact.name}_layer_{index}")
    except AttributeError:
        what = f"{artifact.name}: {artifact.layer_name(index)} can't be called alone"
        raise InputError(what, remedy="compile the model again; a layer of more than 16 tensors has no function") from None
