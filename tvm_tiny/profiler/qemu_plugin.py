# SPDX-License-Identifier: Apache-2.0
"""The counting plugin: compiled once per QEMU interface version with the host's C compiler, run, and its counts read back."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvm_tiny.errors import DeviceError, ToolchainError

_SOURCES = Path(__file__).parent / "plugin"
_FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
_INSTALL_QEMU = "install the Debian package qemu-system-arm"
_INSTALL_CC = "install the Debian packages gcc and libc6-dev, or name a compiler in the environment variable CC"


@dataclass(frozen=True, slots=True)
class BlockCount:
    """Executions of the code [start, end) in one segment, and how often its last branch was taken."""

    start: int
    end: int
    instructions: int
    executions: int
    taken: int


@dataclass(slots=True)
class SegmentCounts:
    """Counts between two cuts.

    Attributes
    ----------
    opened_by : int or None
        n of the ``dbg #n`` before it, 16 for a ``yield``, 256 + k for the k-th address of `cut_at`, None for the start of the run.
    loads, stores, misses : dict
        By memory region (top four bits of the address); misses are loads absent from the data cache, in lines.
    fetch_misses : int
        Lines of code absent from the instruction cache, when one was asked for.
    """

    opened_by: int | None
    fetch_misses: int
    blocks: list[BlockCount] = field(default_factory=list)
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    misses: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Counting:
    """What to count. Caches are (bytes, ways, bytes a line); `cut_at` are addresses before which a segment ends.

    `yield_marks` takes the hint YIELD for a marker too: Armv6-M and Armv8-M Baseline have no DBG.
    """

    memory: bool = True
    data_cache: tuple[int, int, int] | None = None
    code_cache: tuple[int, int, int] | None = None
    cut_at: tuple[int, ...] = ()
    yield_marks: bool = False

    def options(self) -> list[str]:
        """The plugin's options."""
        caches = [f"{name}={':'.join(map(str, c))}" for name, c in (("dcache", self.data_cache), ("icache", self.code_cache)) if c]
        switches = [f"memory={'on' if self.memory else 'off'}", f"yield={'on' if self.yield_marks else 'off'}"]
        return [*switches, *caches, *(f"cut={address:x}" for address in self.cut_at)]


def count(qemu_command: Sequence[str], what: Counting, timeout: float = 600.0) -> tuple[list[SegmentCounts], str]:
    """Run an image under QEMU and count.

    Parameters
    ----------
    qemu_command : sequence of str
        The complete command, e.g. ``qemu-system-arm -M mps2-an500 … -kernel prog.elf``; without ``-icount``, which makes blocks count twice
        at device reads. The image must end the run itself (semihosting exit).
    timeout : float
        Seconds.

    Returns
    -------
    segments, what QEMU wrote to its standard output (the image's console, if the command puts it there).

    Raises
    ------
    ToolchainError
        QEMU or a host compiler is missing, or this QEMU loads no plugins.
    DeviceError
        The image failed or did not end.
    """
    plugin = build_plugin(qemu_command[0])
    with tempfile.TemporaryDirectory(prefix="tvm_tiny_profile_") as scratch:
        counts = Path(scratch) / "counts.txt"
        options = [str(plugin), f"out={counts}", *what.options()]
        command = [*qemu_command, "-plugin", ",".join(o.replace(",", ",,") for o in options)]
        try:
            run = subprocess.run(command, capture_output=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            raise DeviceError(f"the emulated run did not end within {timeout:g} s", remedy="look for a hang, or wait longer") from None
        if run.returncode != 0:
            raise _failure(run.returncode, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace"))
        return _read_counts(counts), run.stdout.decode(errors="replace")


class RunFailedError(DeviceError):
    """An emulated run that failed. `exit_status` is the emulator's: its exit code, or minus the number of the signal that ended it."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def _failure(code: int, printed: str, complaint: str) -> ToolchainError | DeviceError:
    """QEMU's own complaint is the toolchain's, anything else the image's."""
    if "plugin" in complaint:
        return ToolchainError(f"this QEMU does not load the counting plugin: {complaint.strip()}", remedy=_INSTALL_QEMU)
    return RunFailedError(f"the emulated run ended with code {code}: {(printed + complaint).strip()[-500:] or 'nothing was printed'}", code)


def _read_counts(path: Path) -> list[SegmentCounts]:
    """Parse the plugin's output (format: plugin/block_counts.c)."""
    lines = path.read_text().splitlines() if path.exists() else []
    if not lines or lines[-1] != "end":
        raise DeviceError("the emulated run left no complete counts: it was killed")
    segments: list[SegmentCounts] = []
    for line in lines[:-1]:
        word, *values = line.split()
        if word == "segment":
            opened_by = int(values[0])
            segments.append(SegmentCounts(opened_by if opened_by >= 0 else None, int(values[1])))
        elif word == "block":
            segments[-1].blocks.append(BlockCount(int(values[0], 16), int(values[1], 16), *map(int, values[2:])))
        else:
            region, loads, stores, misses = map(int, values)
            segments[-1].loads[region], segments[-1].stores[region], segments[-1].misses[region] = loads, stores, misses
    return segments


# ------------------------------------------------------------------------------------------------------------ compiling


def plugin_api(qemu: str) -> int:
    """Version of the plugin interface to build for: 1 to QEMU 8.2, 2 for 9.0, 3 after."""
    program = shutil.which(qemu)
    if program is None:
        raise ToolchainError(f"{qemu} is not installed", remedy=_INSTALL_QEMU)
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)", answer)
    if found is None:
        raise ToolchainError(f"{qemu} --version says {answer.strip()[:80]!r}, which is no version of QEMU", remedy=_INSTALL_QEMU)
    version = int(found[1]), int(found[2])
    return 1 if version < (9, 0) else 2 if version < (9, 1) else 3


def cache_directory() -> Path:
    """Where compiled plugins are kept: ``$XDG_CACHE_HOME/tvm_tiny`` or ``~/.cache/tvm_tiny``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm_tiny"


def build_plugin(qemu: str = "qemu-system-arm") -> Path:
    """The plugin as a shared object for this QEMU; compiled when no copy of exactly these sources is cached.

    Raises
    ------
    ToolchainError
        QEMU or a host compiler is missing, compiling failed, or the cache can't be written.
    """
    api = plugin_api(qemu)
    sources = sorted(_SOURCES.glob("*.[ch]"))
    key = hashlib.sha256(repr((api, platform.machine(), _FLAGS)).encode() + b"".join(s.read_bytes() for s in sources)).hexdigest()[:16]
    plugin = cache_directory() / f"block_counts-{key}.so"
    if not plugin.exists():
        _compile(plugin, api)
    return plugin


def _compile(plugin: Path, api: int) -> None:
    """Compile to a temporary name and rename, so that a cached plugin is always whole."""
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CC") or "gcc", "cc", "clang"])), None)
    if compiler is None:
        raise ToolchainError("no C compiler for the host: the profiler compiles a small QEMU plugin", remedy=_INSTALL_CC)
    flags = [*_FLAGS, "-undefined", "dynamic_lookup"] if platform.system() == "Darwin" else list(_FLAGS)
    try:
        plugin.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=plugin.parent) as scratch:
            built = Path(scratch) / plugin.name
            command = [compiler, *flags, f"-DQEMU_PLUGIN_API={api}", "-o", str(built), str(_SOURCES / "block_counts.c")]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode != 0:
                raise ToolchainError(f"the QEMU plugin does not compile with {compiler}: {run.stderr.strip()[-500:]}", remedy=_INSTALL_CC)
            built.replace(plugin)
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a directory that can be written"
        raise ToolchainError(f"the compiled QEMU plugin can't be kept in {plugin.parent}: {error.strerror}", remedy=remedy) from error
