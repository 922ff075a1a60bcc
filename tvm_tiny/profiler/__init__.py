# SPDX-License-Identifier: Apache-2.0
"""Exact instruction counts and estimated cycles of generated code, without hardware.

An image runs in QEMU; a small plugin counts how often each basic block runs; a table or pipeline model of the core gives each block its
cycles. The counts are exact and deterministic, the cycles an estimate: the models say where their numbers come from, and a difference
under 3 % is no evidence.

- `profile_model`: a compiled model on an emulated board, layer by layer.
- `profile_layers`: an image of one inference, joined with the layers of the model.
- `profile_elf`: any image; segments cut at ``dbg #n`` markers or at functions.
- `cycles_of_block`, `read_block`, `BlockTimer`: the models alone, for schedulers of generated assembly.
"""

from __future__ import annotations

from tvm_tiny.errors import UnknownInstructionError
from tvm_tiny.profiler.compiled import profile_model
from tvm_tiny.profiler.instructions import Instruction, decode
from tvm_tiny.profiler.layers import LayerProfile, ModelProfile, profile_layers
from tvm_tiny.profiler.model import MODELS, cycles_of_block, model_for, read_block
from tvm_tiny.profiler.model_m7 import BlockTimer, may_pair
from tvm_tiny.profiler.profile import Profile, Segment, profile_elf

__all__ = [
    "MODELS",
    "BlockTimer",
    "Instruction",
    "LayerProfile",
    "ModelProfile",
    "Profile",
    "Segment",
    "UnknownInstructionError",
    "cycles_of_block",
    "decode",
    "may_pair",
    "model_for",
    "profile_elf",
    "profile_layers",
    "profile_model",
    "read_block",
]
