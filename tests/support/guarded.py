# SPDX-License-Identifier: Apache-2.0
"""A model on host C under guard: canaries around the arena, dead bytes poisoned and all others watched at every layer.

What it proves of a run: no kernel writes outside its outputs and scratch, and none reads a byte the plan calls dead. Together with exact
outputs that validates every overlap the planner used.
"""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

import numpy as np

from tests.support.host import HostModel
from tvm_tiny.compiled import CompiledModel

CANARY = 4096
_HOOK = """
void (*tvm_tiny_guard)(int layer);
#define TVMGEN_LAYER_BEGIN(layer) tvm_tiny_guard(layer)
#define TVMGEN_LAYER_END(layers) tvm_tiny_guard(layers)
"""
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int)


class GuardedModel:
    """Runs like `HostModel`; `faults` lists what the guard saw in the last run."""

    def __init__(self, model: CompiledModel, seed: int = 0, *, optimise: str = "-O1") -> None:
        self.model = model
        self.rng = np.random.default_rng(seed)
        self._dir = tempfile.TemporaryDirectory(prefix="tvm_tiny_guard_")
        hook = Path(self._dir.name) / "guard.h"
        hook.write_text(_HOOK)
        self._host = HostModel(model, flags=(optimise, f'-DTVMGEN_LAYER_HOOK_HEADER="{hook}"'))
        self._library = ctypes.CDLL(str(self._host.library))
        self.faults: list[str] = []
        raw = np.zeros(model.workspace_size + 2 * CANARY + 16, np.uint8)
        start = CANARY + -(raw.ctypes.data + CANARY) % 16
        self._memory, self._start = raw, start

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs for inputs in the model's order."""
        self.faults = []
        self._memory[:] = self._noise()
        self._before: np.ndarray | None = None
        callback = _CALLBACK(self._at_border)
        ctypes.c_void_p.in_dll(self._library, "tvm_tiny_guard").value = ctypes.cast(callback, ctypes.c_void_p).value
        arrays = [np.ascontiguousarray(a, t.dtype).reshape(t.shape) for a, t in zip(inputs, self.model.inputs, strict=True)]
        outputs = [np.zeros(t.shape, t.dtype) for t in self.model.outputs]
        structs = [(ctypes.c_void_p * len(group))(*(a.ctypes.data for a in group)) for group in (arrays, outputs)]
        run = self._library[f"tvmgen_{self.model.name}_run_with_workspace"]
        assert run(*structs, ctypes.c_void_p(self._memory.ctypes.data + self._start)) == 0
        return outputs

    def _noise(self) -> np.ndarray:
        return self.rng.integers(0, 256, self._memory.size, np.uint8)

    def _mask(self, names: list[str]) -> np.ndarray:
        """Which bytes of the memory the buffers cover."""
        mask = np.zeros(self._memory.size, bool)
        for name in names:
            begin = self._start + self.model.plan.offset(name)
            mask[begin : begin + self.model.plan.buffer(name).nbytes] = True
        return mask

    def _at_border(self, layer: int) -> None:
        """Between two layers: what did the last one write; then poison all that the plan calls dead."""
        plan = self.model.plan
        if self._before is not None:
            step = plan.steps[layer - 1]
            changed = (self._memory != self._before) & ~self._mask([*step.writes, *step.scratch])
            if changed.any():
                places = np.flatnonzero(changed) - self._start
                self.faults.append(f"{step.name} wrote {places.size} bytes that are not its own, from {places[0]} to {places[-1]}")
        written = {b.name for b in plan.buffers if b.kind == "input"} | {w for s in plan.steps[:layer] for w in s.writes}
        alive = self._mask([b.name for b in plan.buffers if b.name in written and b.last_use >= layer])
        self._memory[~alive] = self._noise()[~alive]
        self._before = self._memory.copy()
