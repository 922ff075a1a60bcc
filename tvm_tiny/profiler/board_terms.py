# SPDX-License-Identifier: Apache-2.0
"""What a board's memory adds to the cycles of its core: data reads that miss the cache before the flash.

It matters where weights stream through once (fully connected layers). Not modelled: instruction fetches of large unrolled code, the
write buffer, unaligned accesses.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_tiny.errors import TargetError

FLASH_REGIONS = (0, 1)  # top four bits of a Code-region address (Armv7-M memory map: 0x0000_0000 to 0x1FFF_FFFF)


@dataclass(frozen=True)
class BoardTerm:
    """A data cache and the price of a line.

    Attributes
    ----------
    cache : tuple of int or None
        Bytes, ways and bytes a line (LRU); None when nothing is added.
    flash_cycles, ram_cycles : int
        Core cycles a line missed in the Code region and elsewhere.
    source : str
        Where the figures come from.
    """

    name: str
    cache: tuple[int, int, int] | None
    flash_cycles: int
    ram_cycles: int
    source: str

    def cycles(self, misses: dict[int, int]) -> float:
        """Cycles of `misses`, lines by memory region (top four address bits)."""
        flash = sum(lines for region, lines in misses.items() if region in FLASH_REGIONS)
        return float(self.flash_cycles * flash + self.ram_cycles * (sum(misses.values()) - flash))


_TERMS = (
    BoardTerm("none", None, 0, 0, "memory without wait states"),
    BoardTerm("stm32l4r5@120", (64, 8, 8), 5, 0, "flash accelerator of ST RM0432; with it 20 MLPerf Tiny results are met to 0.985 ± 5.4 %"),
    BoardTerm("stm32f746@216", (4096, 4, 32), 12, 0, "L1 data cache of ST RM0385; exact MLPerf Tiny binaries are met to 0.984 ± 3.3 %"),
    BoardTerm("stm32h7a3@280", (16384, 4, 32), 12, 0, "L1 data cache of ST RM0455; exact MLPerf Tiny binaries are met to 0.984 ± 3.3 %"),
)
BOARD_TERMS = {term.name: term for term in _TERMS}


def board_term(name: str) -> BoardTerm:
    """The term called `name`, e.g. ``"stm32f746@216"``; ``"none"`` adds nothing.

    Raises
    ------
    TargetError
        No such term; the message lists those there are.
    """
    if name not in BOARD_TERMS:
        raise TargetError(f"no board term {name!r}; there are: {', '.join(BOARD_TERMS)}")
    return BOARD_TERMS[name]
