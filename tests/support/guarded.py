# SPDX-License-Identifier: Apache-2.0
"""A model on host C under guard: canaries around every memory of the arena, dead bytes poisoned and all others watched at every layer.

What it proves of a run: no kernel writes outside its outputs and scratch, and none reads a byte the plan calls dead. Together with exact
outputs that validates every overlap the planner used.
"""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

import numpy as np

from tests.support.host import HostModel
from tvm_tiny.codegen.workspace import Workspace
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
        self._workspace = Workspace.of(model.plan)
        sizes = [-(-n // 16) * 16 + CANARY for n in self._workspace.sizes.values()]
        self._memory = np.zeros(CANARY + sum(sizes) + 16, np.uint8)
        first = CANARY + -(self._memory.ctypes.data + CANARY) % 16
        self._starts = dict(zip(self._workspace.sizes, [first + sum(sizes[:i]) for i in range(len(sizes))], strict=True))

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
        memories = [self._memory.ctypes.data + start for start in self._starts.values()]
        workspace = (ctypes.c_void_p * len(memories))(*memories) if self._workspace.several else ctypes.c_void_p(memories[0])
        assert run(*structs, workspace) == 0
        return outputs

    def _noise(self) -> np.ndarray:
        return self.rng.integers(0, 256, self._memory.size, np.uint8)

    def _mask(self, names: list[str]) -> np.ndarray:
        """Which bytes of the memory the buffers cover."""
        mask = np.zeros(self._memory.size, bool)
        for name in names:
            begin = self._starts[self._workspace.memory.get(name, "")] + self.model.plan.offset(name)
            mask[begin : begin + self.model.plan.buffer(name).nbytes] = True
        return mask

    def _at_border(self, layer: int) -> None:
        """Between two layers: what did the last one write; then poison all that the plan calls dead."""
        plan = self.model.plan
        if self._before is not None:
            step = plan.steps[layer - 1]
            changed = (self._memory != self._before) & ~self._mask([*step.writes, *step.scratch])
            if changed.any():
                places = np.flatnonzero(changed)
                memory, start = max((s for s in self._starts.items() if s[1] <= places[0]), key=lambda s: s[1], default=("", 0))
                reach = f"{memory} from {places[0] - start} to {places[-1] - start}".strip()
                self.faults.append(f"{step.name} wrote {places.size} bytes that are not its own, {reach}")
        written = {b.name for b in plan.buffers if b.kind == "input"} | {w for s in plan.steps[:layer] for w in s.writes}
        alive = self._mask([b.name for b in plan.buffers if b.name in written and b.last_use >= layer])
        self._memory[~alive] = self._noise()[~alive]
        self._before = self._memory.copy()
