# SPDX-License-Identifier: Apache-2.0
"""Compile generated microkernels and run them, on the host and on emulated Cortex-M, many in one image.

Every run is guarded: the bytes after the output and after the declared scratch must stay untouched.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np

from tvm_tiny.schedules.microkernels import MicroKernel, merge

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
MACHINES = {"cortex-m7": "mps2-an500", "cortex-m4": "mps2-an386", "cortex-m33": "mps2-an505", "cortex-m3": "mps2-an385"}
_GUARD = 64

_LINKER_SCRIPT = """
ENTRY(reset)
MEMORY { CODE (rx) : ORIGIN = %s, LENGTH = 4M
         DATA (rwx) : ORIGIN = %s, LENGTH = 4M }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) } > CODE
  .bss (NOLOAD) : { *(.data*) *(.bss*) *(COMMON) } > DATA
}
"""
_START = """
#include <stdint.h>
#include <stddef.h>
static void report(const char *text) {
  register uint32_t r0 __asm("r0") = 4;
  register const char *r1 __asm("r1") = text;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}
static void leave(void) {
  register uint32_t r0 __asm("r0") = 0x18, r1 __asm("r1") = 0x20026;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  for (;;) { }
}
static void number(uint32_t v) {
  char text[12], *p = text + 11;
  *p = 0;
  do { *--p = (char)('0' + v % 10); v /= 10; } while (v);
  report(p);
  report("\\n");
}
int main(void);
static void fault(void) { report("fault\\n"); leave(); }
void reset(void);
void reset(void) {
  *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* the floating-point unit, where there is one */
  __asm volatile("dsb" ::: "memory");
  __asm volatile("isb" ::: "memory");
  main();
  leave();
}
__attribute__((section(".vectors"), used)) static void *const vectors[16] =
  { (void *)STACK_TOP, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault };
__attribute__((used)) void *memcpy(void *d, const void *s, size_t n) {
  char *a = d; const char *b = s;
  for (; n >= 4 && !(((uintptr_t)a | (uintptr_t)b) & 3); n -= 4, a += 4, b += 4) *(uint32_t *)a = *(const uint32_t *)b;
  while (n--) *a++ = *b++;
  return d;
}
__attribute__((used)) void *memset(void *d, int v, size_t n) { char *a = d; while (n--) *a++ = (char)v; return d; }
__attribute__((used)) void *memmove(void *d, const void *s, size_t n) {
  char *a = d; const char *b = s;
  if (a < b) while (n--) *a++ = *b++; else while (n--) a[n] = b[n];
  return d;
}
"""


def run_host(kernel: MicroKernel, x: np.ndarray, directory: Path, compiler: str = "gcc", level: str = "-O1") -> np.ndarray:
    """Compile one kernel's portable form without a warning and run it on `x`."""
    source, library = directory / f"{kernel.name}.c", directory / f"{kernel.name}.so"
    source.write_text(kernel.c_source)
    # clang's sanitiser runtime does not load into a Python process by itself
    sanitize = ["-fsanitize=undefined", "-fno-sanitize-recover=all"] if compiler == "gcc" else []
    command = [compiler, *WARNINGS, level, *sanitize, "-shared", "-fPIC", "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    function = getattr(ctypes.CDLL(str(library)), kernel.name)
    out = np.full(int(np.prod(kernel.output_shape)) + _GUARD, 0x11, np.int8)
    scratch = np.full(kernel.scratch_bytes + _GUARD, 0xA5, np.uint8)
    packed = np.frombuffer(kernel.packed, np.uint8).copy()
    x = np.ascontiguousarray(x)
    sources = [x] if kernel.inputs == 1 else [x[0], x[1]]
    function(*(ctypes.c_void_p(array.ctypes.data) for array in (*sources, out, packed, scratch)))
    assert (scratch[kernel.scratch_bytes :] == 0xA5).all(), "wrote past its scratch"
    assert (out[-_GUARD:] == 0x11).all(), "wrote past its output"
    return out[:-_GUARD].reshape(kernel.output_shape)


def mismatches_on_device(
    kernels: list[MicroKernel], inputs: list[np.ndarray], mcpu: str, directory: Path, flags: tuple[str, ...] = ("-O2",)
) -> list[int]:
    """Run all kernels in one emulated image; return how many output bytes of each differ from its reference (guards included)."""
    image, emulator = build_image(kernels, inputs, mcpu, directory, flags)
    done = subprocess.run(emulator, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    printed = (done.stdout + done.stderr).split()
    assert "fault" not in printed, f"{image} faulted after {len(printed) - 1} kernels"
    return [int(v) for v in printed if v.isdigit()]


def build_image(
    kernels: list[MicroKernel], inputs: list[np.ndarray], mcpu: str, directory: Path, flags: tuple[str, ...] = ("-O2",)
) -> tuple[Path, list[str]]:
    """Link an image that runs each kernel once and prints the differing bytes; return it and the command that runs it."""
    secure = mcpu == "cortex-m33"
    code, data = ("0x10000000", 0x38000000) if secure else ("0x00000000", 0x20000000)
    script, source, image = directory / "image.ld", directory / "image.c", directory / "image.elf"
    script.write_text(_LINKER_SCRIPT % (code, hex(data)))
    source.write_text(_image_source(kernels, inputs, data + 0x3FFFF0))
    command = [
        "arm-none-eabi-gcc",
        f"-mcpu={mcpu}",
        "-mthumb",
        *flags,
        "-ffreestanding",
        "-fno-tree-loop-distribute-patterns",
        "-nostdlib",
        "-Wl,--no-warn-rwx-segments",
    ]
    subprocess.run([*command, "-T", str(script), "-o", str(image), str(source), "-lgcc"], check=True, timeout=300)
    options = ["-nographic", "-semihosting-config", "enable=on,target=native"]
    return image, ["qemu-system-arm", "-M", MACHINES[mcpu], *options, "-kernel", str(image)]


def _image_source(kernels: list[MicroKernel], inputs: list[np.ndarray], stack_top: int) -> str:
    text = f"#define STACK_TOP {stack_top:#x}\n" + _START + merge([k.functions for k in kernels])
    calls = ""
    for i, (kernel, x) in enumerate(zip(kernels, inputs, strict=True)):
        expected = kernel.reference(x)
        for name, data in (("packed", kernel.packed), ("expected", expected.tobytes()), ("x", x.tobytes())):
            text += _array(f"{name}{i}", data)
        calls += f"  memset(scratch, 0xa5, sizeof scratch);\n  memset(out, 0x11, sizeof out);\n  memcpy(in, x{i}, {x.nbytes});\n"
        second = f"(const int8_t *)in + {x.nbytes // 2}, " if kernel.inputs == 2 else ""
        calls += f"  {kernel.name}((const void *)in, {second}(int8_t *)out, packed{i}, scratch);\n"
        calls += f"  number(differing((const uint8_t *)expected{i}, {expected.size}, {kernel.scratch_bytes}));\n"
    sizes = {
        "in": max(x.nbytes for x in inputs),
        "out": max(int(np.prod(k.output_shape)) for k in kernels),
        "scratch": max(k.scratch_bytes for k in kernels),
    }
    text += "".join(f"static uint64_t {name}[{size // 8 + 2 + _GUARD}];\n" for name, size in sizes.items())
    text += (
        "static uint32_t differing(const uint8_t *expected, uint32_t size, uint32_t scratch_bytes) {\n"
        "  const uint8_t *o = (const uint8_t *)out, *s = (const uint8_t *)scratch;\n  uint32_t bad = 0;\n"
        "  for (uint32_t i = 0; i < size; ++i) bad += o[i] != expected[i];\n"
        f"  for (uint32_t i = 0; i < {_GUARD}; ++i) bad += (o[size + i] != 0x11) + (s[scratch_bytes + i] != 0xa5);\n"
        "  return bad;\n}\n"
    )
    return text + "int main(void) {\n" + calls + "  return 0;\n}\n"


def _array(name: str, data: bytes) -> str:
    values = np.frombuffer(data + b"\0" * (-len(data) % 4 or (4 if not data else 0)), "<u4")
    return f"static const uint32_t {name}[] = {{{','.join(map(str, values))}}};\n"
