# SPDX-License-Identifier: Apache-2.0
"""Targets: which core the C is made for, what that core can do, and how gcc is told.

TVM's own parser refuses the strings microTVM users know (`"c -mcpu=cortex-m7 -march=armv7e-m"`), so they are parsed here; the result
still gives a real TVM target (`TinyTarget.tvm_target()`). All facts about cores stand in one table, `CORES`.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_tiny.errors import TargetError

if TYPE_CHECKING:
    import tvm

HOST = "native"


@dataclass(frozen=True)
class Core:
    """One Arm Cortex-M core as its technical reference manual states it.

    Attributes
    ----------
    march : str
        Architecture, in gcc's spelling.
    mandatory, optional : frozenset[str]
        Features every instance of the core has, and those its maker may leave out. A bare `-mcpu=` means both, as in gcc.
    sp_fpu, dp_fpu : str
        gcc's `-mfpu` name of the single and of the double precision unit; empty where the core has none, or where gcc takes the unit
        from `-march` (Armv8.1-M).
    """

    march: str
    mandatory: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    sp_fpu: str = ""
    dp_fpu: str = ""

    @property
    def features(self) -> frozenset[str]:
        """Everything the core can have."""
        return self.mandatory | self.optional


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Feature words: dsp = SMLAD, SXTB16 … on general registers; mve = Helium; fpu = single, dp_fpu = also double precision arithmetic.
CORES: Mapping[str, Core] = {
    # Cortex-M0 TRM (Arm DDI 0432), §1.3: ARMv6-M, no divide, no unaligned access, no DSP, no FPU.
    "cortex-m0": Core("armv6s-m"),
    # Cortex-M0+ TRM (Arm DDI 0484), §1.1: ARMv6-M as above; MPU optional.
    "cortex-m0plus": Core("armv6s-m"),
    # Cortex-M1 TRM (Arm DDI 0413), §1.1: ARMv6-M for FPGAs.
    "cortex-m1": Core("armv6s-m"),
    # Cortex-M3 TRM (Arm 100165), §1.2: ARMv7-M: divide and unaligned access, no DSP extension, no FPU.
    "cortex-m3": Core("armv7-m"),
    # Cortex-M4 TRM (Arm 100166), §1.2 and ch. 7: ARMv7E-M (DSP always there); FPv4-SP optional, single precision only.
    "cortex-m4": Core("armv7e-m", _set("dsp"), _set("fpu"), "fpv4-sp-d16"),
    # Cortex-M7 TRM (Arm DDI 0489), §1.2 and ch. 8: ARMv7E-M; FPv5 absent, single (STM32F746) or double precision (STM32H743).
    "cortex-m7": Core("armv7e-m", _set("dsp"), _set("fpu dp_fpu"), "fpv5-sp-d16", "fpv5-d16"),
    # Cortex-M23 TRM (Arm DDI 0550), §1.1: Armv8-M Baseline: divide, but no unaligned access, no DSP, no FPU.
    "cortex-m23": Core("armv8-m.base"),
    # Cortex-M33 TRM (Arm 100230), §A1.2: Armv8-M Mainline; DSP and FPv5 single precision each optional.
    "cortex-m33": Core("armv8-m.main", frozenset(), _set("dsp fpu"), "fpv5-sp-d16"),
    # Cortex-M35P TRM (Arm 100883), §A1.2: as the M33, with protection against tampering.
    "cortex-m35p": Core("armv8-m.main", frozenset(), _set("dsp fpu"), "fpv5-sp-d16"),
    # Cortex-M52 TRM (Arm 102776), §2.1: Armv8.1-M Mainline; DSP always there, FPU and MVE configurable.
    "cortex-m52": Core("armv8.1-m.main", _set("dsp"), _set("mve fpu dp_fpu")),
    # Cortex-M55 TRM (Arm 101051), §2.1: Armv8.1-M Mainline; DSP always there, FPU (half, single, double) and MVE configurable.
    "cortex-m55": Core("armv8.1-m.main", _set("dsp"), _set("mve fpu dp_fpu")),
    # Cortex-M85 TRM (Arm 101924), §2.1: as the M55, wider.
    "cortex-m85": Core("armv8.1-m.main", _set("dsp"), _set("mve fpu dp_fpu")),
}

# Suffixes of -mcpu, spelled as gcc spells them: the feature they switch on, and what goes when they are switched off.
_SUFFIXES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "dsp": (_set("dsp"), _set("dsp mve")),
    "fp": (_set("fpu"), _set("fpu dp_fpu")),
    "fp.dp": (_set("fpu dp_fpu"), _set("dp_fpu")),
    "mve": (_set("mve dsp"), _set("mve")),
    "mve.fp": (_set("mve dsp fpu"), _set("mve")),
}
_OPTIONS = ("mcpu", "march", "workspace-byte-alignment", "constants-byte-alignment")
# Said by TVM's old micro targets ("c -keys=arm_cpu,cpu -device=arm_cpu -model=stm32f746xx …") and by exported TVM targets;
# the core says it all.
_IGNORED = ("keys", "tag", "device", "model", "feature.has_dsp", "feature.has_mve")


@dataclass(frozen=True)
class TinyTarget:
    """A validated target: a Cortex-M core with its features, or the host.

    Attributes
    ----------
    mcpu : str
        Name of the core, `"native"` for the host.
    march : str
        Architecture in gcc's spelling; empty for the host.
    features : frozenset[str]
        Subset of dsp, mve, fpu, dp_fpu.
    workspace_byte_alignment, constants_byte_alignment : int
        Alignment of the arena and of the constants, in bytes.
    """

    mcpu: str
    march: str = ""
    features: frozenset[str] = frozenset()
    workspace_byte_alignment: int = 16
    constants_byte_alignment: int = 16

    def __post_init__(self) -> None:
        if self.mcpu == HOST:
            return
        core = _core(self.mcpu)
        if self.march != core.march:
            raise TargetError(
                f"-march={self.march} is not the architecture of {self.mcpu}, which is {core.march}", remedy="leave out -march"
            )
        for feature in sorted(self.features - core.features):
            raise TargetError(f"{self.mcpu} has no {feature}", remedy=f"features it can have: {', '.join(sorted(core.features)) or 'none'}")

    @property
    def is_host(self) -> bool:
        """True when the C is for this machine."""
        return self.mcpu == HOST

    @property
    def has_dsp(self) -> bool:
        """SMLAD, SXTB16 and the like."""
        return "dsp" in self.features

    @property
    def has_mve(self) -> bool:
        """Helium vector instructions."""
        return "mve" in self.features

    @property
    def has_fpu(self) -> bool:
        """Single precision arithmetic in hardware."""
        return "fpu" in self.features

    @property
    def has_thumb2(self) -> bool:
        """The full 32-bit Thumb set: ARMv7-M and the Mainline profiles."""
        return self.march in ("armv7-m", "armv7e-m", "armv8-m.main", "armv8.1-m.main")

    @property
    def cpu_option(self) -> str:
        """The core with the suffixes that tell it from the core's default, e.g. `cortex-m7+nofp.dp`."""
        if self.is_host:
            return HOST
        missing = CORES[self.mcpu].features - self.features
        words = [
            word for feature, word in (("dsp", "nodsp"), ("mve", "nomve"), ("fpu", "nofp"), ("dp_fpu", "nofp.dp")) if feature in missing
        ]
        if "nofp" in words and "nofp.dp" in words:
            words.remove("nofp.dp")
        return "+".join([self.mcpu, *words])

    @property
    def cflags(self) -> tuple[str, ...]:
        """What gcc and clang must be told, in compiling and in linking alike; empty for the host."""
        if self.is_host:
            return ()
        return (*_cpu_flags(self), "-mthumb", f"-mfloat-abi={_float_abi(self)}")

    def tvm_target(self) -> tvm.target.Target:
        """The TVM target of kind `c` for the same core."""
        import tvm

        return tvm.target.Target({"kind": "c"} if self.is_host else {"kind": "c", "mcpu": self.mcpu, "march": self.march})

    def to_dict(self) -> dict[str, Any]:
        """What `metadata.json` carries; `parse_target` reads it back."""
        return {"kind": "c", "mcpu": self.cpu_option, "march": self.march, "features": sorted(self.features)}

    def __str__(self) -> str:
        return "c" if self.is_host else f"c -mcpu={self.cpu_option}"


def _cpu_flags(target: TinyTarget) -> tuple[str, ...]:
    if target.march == "armv8.1-m.main":
        # gcc 12 does not know the M52 and M85 by name, and -mfpu would hide Helium: say the architecture, tune for the M55.
        extensions = ["+dsp"] if target.has_dsp else []
        extensions += ["+mve.fp" if target.has_fpu else "+mve"] if target.has_mve else []
        extensions += ["+fp.dp" if "dp_fpu" in target.features else "+fp"] if target.has_fpu else []
        return (f"-march={target.march}{''.join(extensions)}", "-mtune=cortex-m55")
    core = CORES[target.mcpu]
    nodsp = "+nodsp" if "dsp" in core.optional and not target.has_dsp else ""
    unit = core.dp_fpu if "dp_fpu" in target.features else core.sp_fpu
    return (f"-mcpu={target.mcpu}{nodsp}", *((f"-mfpu={unit}",) if target.has_fpu else ()))


def _float_abi(target: TinyTarget) -> str:
    return "hard" if target.has_fpu or target.has_mve else "soft"


def parse_target(target: str | Mapping[str, Any] | TinyTarget | tvm.target.Target) -> TinyTarget:
    """Read a target in any of the forms users write.

    Parameters
    ----------
    target
        `"c"` or `"c -mcpu=native"` (this machine), `"c -mcpu=cortex-m7 -march=armv7e-m"`, gcc's suffixes (`-mcpu=cortex-m33+nodsp`,
        `+nofp`, `+nofp.dp`, `+nomve`), a dict or TVM target of kind c, or a `TinyTarget`, which is returned as it is.

    Raises
    ------
    TargetError
        Unknown kind, option, core or feature; the message lists the known ones and the closest.
    """
    if isinstance(target, TinyTarget):
        return target
    if isinstance(target, str):
        return _from_options(_split(target))
    if not isinstance(target, Mapping):
        target = _export(target)
    options = dict(target)
    kind = options.pop("kind", None)
    if kind != "c":
        raise TargetError(f"target kind {kind!r} is not supported", remedy="the kind is always c, for example c -mcpu=cortex-m7")
    features = options.pop("features", None)
    parsed = _from_options(options)
    if features is not None and frozenset(features) != parsed.features:
        return TinyTarget(parsed.mcpu, parsed.march, frozenset(features), parsed.workspace_byte_alignment, parsed.constants_byte_alignment)
    return parsed


def _export(target: Any) -> dict[str, Any]:
    """Options of a TVM target object."""
    kind = getattr(target, "kind", None)
    if kind is None or not hasattr(target, "attrs"):
        raise TargetError(f"not a target: {target!r}", remedy='give a string such as "c -mcpu=cortex-m7"')
    return {"kind": str(getattr(kind, "name", kind)), **{str(key): value for key, value in dict(target.attrs).items()}}


def _split(text: str) -> dict[str, str]:
    """`"c -mcpu=x -march=y"` → {"mcpu": "x", "march": "y"}."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"target {text!r} can't be read: {error}") from None
    if not words or words[0] != "c":
        core = difflib.get_close_matches(words[0] if words else "", CORES, 1)
        raise TargetError(f"target {text!r} does not start with the kind c", remedy=f"write c -mcpu={core[0] if core else 'cortex-m7'}")
    options: dict[str, str] = {}
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-"):
            raise TargetError(f"target {text!r}: {word!r} is not an option", remedy=f"options: {_known(f'-{o}' for o in _OPTIONS)}")
        key, equals, value = word.lstrip("-").partition("=")
        value = value if equals else next(rest, "")
        if key in options:
            raise TargetError(f"target {text!r} says -{key} twice")
        options[key] = value
    return options


def _from_options(options: Mapping[str, Any]) -> TinyTarget:
    for key in options:
        if key not in _OPTIONS and key not in _IGNORED:
            raise TargetError(f"unknown target option -{key}", remedy=_advice(key, _OPTIONS))
    alignments = tuple(_alignment(key, options.get(key, 16)) for key in _OPTIONS[2:])
    name, *suffixes = str(options.get("mcpu") or HOST).lower().split("+")
    march = str(options.get("march") or "")
    if name == HOST:
        if march or suffixes:
            raise TargetError(
                f"a target for this machine takes no {'-march' if march else 'feature suffix'}", remedy="name a core with -mcpu"
            )
        return TinyTarget(HOST, "", frozenset(), *alignments)
    core = _core(name)
    features = core.features
    for suffix in suffixes:
        features = _apply_suffix(name, features, suffix)
    return TinyTarget(name, _check_march(name, core, march), features, *alignments)


def _check_march(name: str, core: Core, march: str) -> str:
    """The core's architecture; `march`, when given, must agree with it (armv6-m and armv6s-m are one)."""
    said = march.partition("+")[0].lower()
    if said in ("", core.march) or (said, core.march) == ("armv6-m", "armv6s-m"):
        return core.march
    raise TargetError(f"-march={march} is not the architecture of {name}, which is {core.march}", remedy="leave out -march")


def _apply_suffix(name: str, features: frozenset[str], suffix: str) -> frozenset[str]:
    off = suffix.startswith("no")
    word = suffix[2:] if off else suffix
    if word not in _SUFFIXES:
        raise TargetError(
            f"unknown feature suffix +{suffix} of {name}", remedy=_advice(word, tuple(_SUFFIXES)) + "; with no in front to switch off"
        )
    on, gone = _SUFFIXES[word]
    if off:
        return features - gone
    if not on <= CORES[name].features:
        raise TargetError(f"{name} has no {word}", remedy=f"features it can have: {_known(CORES[name].features) or 'none'}")
    return features | on


def _alignment(key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number & (number - 1):
        raise TargetError(f"target option -{key}={value} is not a power of two")
    return number


def _core(name: str) -> Core:
    if name not in CORES:
        raise TargetError(f"unknown core {name!r}", remedy=_advice(name, (*CORES, HOST)))
    return CORES[name]


def _advice(word: str, known: tuple[str, ...]) -> str:
    """`did you mean x? known: …`."""
    close = difflib.get_close_matches(word, known, 1, cutoff=0.4)
    return (f"did you mean {close[0]}? " if close else "") + f"known: {', '.join(known)}"


def _known(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
