# SPDX-License-Identifier: Apache-2.0
"""From a fault record of the device to a sentence: what happened, where in the program, in which layer."""

from __future__ import annotations

import bisect
import signal
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tvm_tiny.device.toolchain import find_tool
from tvm_tiny.errors import DeviceError, ToolchainError

LAYER_NONE = 0xFFFFFFFF
# struct fault_record of microtvm_projects/app/fault.h
RECORD = struct.Struct("<6I4Q")
_ARM, _SIGNAL, _STACK = 1, 2, 3
_PC_VALID, _ADDRESS_VALID, _STACK_OVERFLOW = 1, 2, 4

# Configurable Fault Status Register: ARMv7-M ARM (DDI 0403) B3.2.15; STKOF: Armv8-M ARM (DDI 0553) D1.2.
CFSR_BITS = {
    0: ("IACCVIOL", "instruction fetched from where it is not allowed"),
    1: ("DACCVIOL", "access the memory protection unit forbids"),
    3: ("MUNSTKERR", "forbidden access while leaving an exception"),
    4: ("MSTKERR", "forbidden access while entering an exception"),
    5: ("MLSPERR", "forbidden access while saving floating-point registers"),
    8: ("IBUSERR", "bus error on an instruction fetch"),
    9: ("PRECISERR", "bus error on a data access"),
    10: ("IMPRECISERR", "bus error on an earlier data access"),
    11: ("UNSTKERR", "bus error while leaving an exception"),
    12: ("STKERR", "bus error while entering an exception"),
    13: ("LSPERR", "bus error while saving floating-point registers"),
    16: ("UNDEFINSTR", "undefined instruction"),
    17: ("INVSTATE", "jump to an address without the Thumb bit"),
    18: ("INVPC", "invalid exception return"),
    19: ("NOCP", "floating-point or coprocessor instruction without the unit"),
    20: ("STKOF", "stack overflow"),
    24: ("UNALIGNED", "unaligned access"),
    25: ("DIVBYZERO", "division by zero"),
}
# Hard Fault Status Register: ARMv7-M ARM B3.2.16.
HFSR_BITS = {1: ("VECTTBL", "bus error on reading the vector table"), 31: ("DEBUGEVT", "breakpoint without a debugger")}
EXCEPTIONS = {2: "NMI", 3: "HardFault", 4: "MemManage fault", 5: "BusFault", 6: "UsageFault", 7: "SecureFault", 11: "SVCall", 14: "PendSV"}


@dataclass(frozen=True)
class Fault:
    """A crash or hang as far as it is known.

    Attributes
    ----------
    what : str
        `UsageFault (DIVBYZERO: division by zero)`, `SIGSEGV`, `no answer within 2 s`.
    pc, address : int or None
        Address of the instruction, and of the data it wanted.
    layer : int or None
        Index of the layer that ran; None outside the model or unknown.
    """

    what: str
    pc: int | None = None
    address: int | None = None
    layer: int | None = None


class DeviceFault(DeviceError):
    """A crash, hang or failed layer; `fault` holds the facts of the message."""

    def __init__(self, message: str, fault: Fault, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.fault = fault


def decode(payload: bytes) -> Fault:
    """A `struct fault_record` in words."""
    if len(payload) != RECORD.size:
        return Fault(f"a fault record of {len(payload)} bytes, which can't be read")
    kind, layer, number, flags, cfsr, hfsr, pc, _lr, _sp, address = RECORD.unpack(payload)
    what = _what(kind, number, cfsr, hfsr)
    if flags & _STACK_OVERFLOW:
        what = f"stack overflow: {what}"
    return Fault(
        what,
        pc if flags & _PC_VALID else None,
        address if flags & _ADDRESS_VALID else None,
        None if layer == LAYER_NONE else layer,
    )


def _what(kind: int, number: int, cfsr: int, hfsr: int) -> str:
    if kind == _ARM:
        return _arm_words(number, cfsr, hfsr)
    return _signal_words(number) if kind == _SIGNAL else "the bytes under the stack were written during the run"


def _arm_words(number: int, cfsr: int, hfsr: int) -> str:
    causes = [bits[n] for value, bits in ((cfsr, CFSR_BITS), (hfsr, HFSR_BITS)) for n in bits if value >> n & 1]
    name = EXCEPTIONS.get(number, f"exception {number}")
    return f"{name} ({'; '.join(f'{short}: {words}' for short, words in causes)})" if causes else name


def _signal_words(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def locate(elf: Path, pc: int) -> str:
    """`function (file.c:12)` of an address, as far as the image tells; empty when it tells nothing."""
    name = _symbol(elf, pc)
    line = _source_line(elf, pc)
    return f"{name} ({line})" if name and line else name or line


def _symbol(elf: Path, pc: int) -> str:
    """The function an address lies in."""
    with elf.open("rb") as stream:
        tables = [s for s in ELFFile(stream).iter_sections() if isinstance(s, SymbolTableSection)]
        functions = sorted(
            (symbol["st_value"] & ~1, symbol["st_size"], symbol.name)
            for table in tables
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC"
        )
    at = bisect.bisect_right(functions, (pc, 1 << 62, "")) - 1
    if at < 0 or pc >= functions[at][0] + max(functions[at][1], 2):
        return ""
    return str(functions[at][2])


def _source_line(elf: Path, pc: int) -> str:
    with elf.open("rb") as stream:
        arm = ELFFile(stream)["e_machine"] == "EM_ARM"
    try:
        tool = find_tool("arm-addr2line" if arm else "addr2line")
        done = subprocess.run([str(tool), "-s", "-e", str(elf), hex(pc)], capture_output=True, text=True, timeout=20, check=False)
    except (ToolchainError, OSError, subprocess.TimeoutExpired):
        return ""
    line = done.stdout.strip().partition(" ")[0]
    return "" if line.startswith("??") or line.endswith(":?") else line
