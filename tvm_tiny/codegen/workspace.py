# SPDX-License-Identifier: Apache-2.0
"""The memory a generated network works in, in C: one array, or one a memory of the board where its plan uses several.

one memory      uint8_t *workspace                                         workspace + 512
several         const struct tvmgen_<name>_workspace *workspace            workspace->dtcm + 512
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tvm_tiny.memory.plan import MemoryPlan


@dataclass(frozen=True)
class Workspace:
    """Where every buffer lies.

    Attributes
    ----------
    offsets : dict
        Bytes from the start of its memory, by buffer.
    sizes : dict
        Bytes of each memory by its name in C; a single entry "" where there is one.
    memory : dict
        By buffer the name in C of its memory.
    """

    offsets: dict[str, int]
    sizes: dict[str, int]
    memory: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(plan: MemoryPlan) -> Workspace:
        """What a plan decides; memories without a buffer are left out."""
        offsets = {b.name: plan.offset(b.name) for b in plan.buffers}
        if len(plan.regions) == 1:
            return Workspace(offsets, {"": max(plan.arena_bytes, 1)})
        names = {r.name: re.sub(r"\W", "_", r.name, flags=re.ASCII) for r in plan.regions}
        sizes = {names[r.name]: plan.used[r.name] for r in plan.regions if plan.used[r.name]}
        return Workspace(offsets, sizes, {b.name: names[plan.placements[b.name].region] for b in plan.buffers})

    @property
    def several(self) -> bool:
        """The network works in several memories."""
        return "" not in self.sizes

    @property
    def size(self) -> int:
        """Bytes of all memories."""
        return sum(self.sizes.values())

    def parameter(self, base: str) -> str:
        """The parameter `workspace` of a function of the network `base`, "tvmgen_<name>"."""
        return f"const struct {base}_workspace *workspace" if self.several else "uint8_t *workspace"

    def address(self, buffer: str) -> str:
        """C expression for a buffer's address, from the parameter."""
        where = f"workspace->{self.memory[buffer]}" if self.several else "workspace"
        return f"{where} + {self.offsets[buffer]}"

    def static_address(self, buffer: str, base: str) -> str:
        """C expression for a buffer's address in the library's own workspace."""
        suffix = f"_{self.memory[buffer]}" if self.several else ""
        return f"{base}_workspace{suffix} + {self.offsets[buffer]}"

    def macros(self, upper: str) -> str:
        """`#define`s of the sizes."""
        text = (
            f"/* Bytes of SRAM the network works in: activations, kernel scratch, inputs and outputs. Aligned to 16. */\n"
            f"#define {upper}_WORKSPACE_SIZE {self.size}u\n"
        )
        if not self.several:
            return text
        sizes = "".join(f"#define {upper}_WORKSPACE_{name.upper()}_SIZE {size}u\n" for name, size in self.sizes.items())
        return f"{text}/* Of these, in each memory of the board: */\n{sizes}"

    def struct(self, base: str) -> str:
        """Declaration of the struct of several memories; "" for one."""
        if not self.several:
            return ""
        upper = base.upper()
        fields = "".join(f"  uint8_t *{name}; /* {upper}_WORKSPACE_{name.upper()}_SIZE bytes */\n" for name in self.sizes)
        return f"/* The memories the network works in, each aligned to 16. */\nstruct {base}_workspace {{\n{fields}}};\n"

    def placement_macros(self, upper: str) -> str:
        """Attributes of the library's own arrays, which a user may define otherwise."""
        return "".join(
            placement(f"{upper}_WORKSPACE{suffix.upper()}", f".bss.{upper.lower()}_workspace{suffix}")
            for suffix in (f"_{name}" if name else "" for name in self.sizes)
        )

    def definitions(self, base: str) -> str:
        """The library's own arrays, and the expression `own` that is handed to `run_with_workspace`."""
        upper = base.upper()
        if not self.several:
            return f"static {upper}_WORKSPACE uint8_t {base}_workspace[{upper}_WORKSPACE_SIZE];\n"
        arrays = "".join(
            f"static {upper}_WORKSPACE_{name.upper()} uint8_t {base}_workspace_{name}[{upper}_WORKSPACE_{name.upper()}_SIZE];\n"
            for name in self.sizes
        )
        members = ", ".join(f"{base}_workspace_{name}" for name in self.sizes)
        return f"{arrays}static const struct {base}_workspace {base}_workspaces = {{{members}}};\n"

    def own(self, base: str) -> str:
        """The library's own workspace as an argument."""
        return f"&{base}_workspaces" if self.several else f"{base}_workspace"

    def own_type(self, base: str) -> str:
        """Its type."""
        return f"const struct {base}_workspace *" if self.several else "uint8_t *"

    def missing(self) -> str:
        """C condition: some of the caller's workspace is not there."""
        return " || ".join(["workspace == NULL", *(f"workspace->{n} == NULL" for n in self.sizes if n)])


def placement(macro: str, section: str) -> str:
    """C that defines `macro` as what puts an array into a section, aligned to 16, unless the user has defined it."""
    return (
        f'#ifndef {macro}\n#if defined(__ELF__)\n#define {macro} __attribute__((section("{section}"), aligned(16)))\n'
        f"#elif defined(__GNUC__)\n#define {macro} __attribute__((aligned(16)))\n"
        f"#elif __STDC_VERSION__ >= 201112L\n#define {macro} _Alignas(16)\n"
        f'#else\n#error "define {macro} as what aligns an array to 16 bytes"\n#endif\n#endif\n'
    )
