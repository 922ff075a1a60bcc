# SPDX-License-Identifier: Apache-2.0
"""A hand-written model in Model Library Format that exercises the device side: every dtype, large tensors, and crashes on demand.

Inputs: `image` int8[1, n], `mode` int32[1], `bytes` uint8[3], `halves` int16[2], `reals/in` float32[4].
Outputs: `image_out` int8 = image + 1 (wrapping), `sums` int32[3] = sums of image, bytes and halves,
`reals_out` float32[4] = 1.5 * reals + 0.25.
The value of `mode` chooses how layer 1 fails; 0 is no failure.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

LARGE = 224 * 224 * 3
OK, BAD_WRITE, HANG, DIVIDE, OVERFLOW, STATUS, NULL_WRITE, UNDEFINED, UNALIGNED, DEEP = range(10)

HEADER = """\
#ifndef TVMGEN_CRASHER_H_
#define TVMGEN_CRASHER_H_
#include <stdint.h>
#define TVMGEN_CRASHER_WORKSPACE_SIZE @SIZE@u
struct tvmgen_crasher_inputs { void *image; void *mode; void *bytes; void *halves; void *reals_in; };
struct tvmgen_crasher_outputs { void *image_out; void *sums; void *reals_out; };
int32_t tvmgen_crasher_run(struct tvmgen_crasher_inputs *inputs, struct tvmgen_crasher_outputs *outputs);
void *tvmgen_crasher_input_image(void);
void *tvmgen_crasher_output_image_out(void);
#endif
"""

SOURCE = """\
#include <string.h>

#include "tvmgen_crasher.h"
#ifdef TVMGEN_LAYER_HOOK_HEADER
#include TVMGEN_LAYER_HOOK_HEADER
#endif
#ifndef TVMGEN_LAYER_BEGIN
#define TVMGEN_LAYER_BEGIN(layer) ((void)0)
#define TVMGEN_LAYER_END(layers) ((void)0)
#endif

static uint8_t tvmgen_crasher_workspace[TVMGEN_CRASHER_WORKSPACE_SIZE]
    __attribute__((section(".bss.tvmgen_crasher_workspace"), aligned(16)));
static volatile int32_t tvmgen_crasher_sink;
static volatile int32_t tvmgen_crasher_zero; /* the compiler can't know it, so every crash below is really executed */
static int32_t tvmgen_crasher_initialised = 77; /* proves that .data is copied */

void *tvmgen_crasher_input_image(void) { return tvmgen_crasher_workspace; }
void *tvmgen_crasher_output_image_out(void) { return tvmgen_crasher_workspace; }

static __attribute__((noinline)) int32_t tvmgen_crasher_divide(int32_t a, int32_t b) { return a / b; }

static __attribute__((noinline)) int32_t tvmgen_crasher_recurse(int32_t depth) {
  volatile int32_t frame[64];
  frame[depth & 63] = depth;
  return depth == INT32_MAX ? 0 : tvmgen_crasher_recurse(depth + 1) + frame[depth & 63];
}

/* Overflows a 4 KB stack and comes back. */
static __attribute__((noinline)) int32_t tvmgen_crasher_deep(int32_t n) {
  volatile uint8_t frame[5000];
  for (int32_t i = 0; i < n; i++) { frame[i] = 1; }
  return frame[n - 1];
}

static __attribute__((noinline)) int32_t tvmgen_crasher_fail(int32_t mode, uintptr_t address) {
  switch (mode) {
    case 1: *(volatile int32_t *)address = 1; break;
    case 2: for (;;) { tvmgen_crasher_sink++; }
    case 3: tvmgen_crasher_sink = tvmgen_crasher_divide(100 + tvmgen_crasher_zero, tvmgen_crasher_zero); break;
    case 4: tvmgen_crasher_sink = tvmgen_crasher_recurse(0); break;
    case 5: return 2;
    case 6: *(volatile int32_t *)(uintptr_t)tvmgen_crasher_zero = 1; break;
    case 7: __builtin_trap();
    case 9: tvmgen_crasher_sink = tvmgen_crasher_deep(5000); break;
    case 8: tvmgen_crasher_sink = *(volatile int32_t *)((uintptr_t)tvmgen_crasher_workspace + 1u + (uintptr_t)tvmgen_crasher_zero); break;
    default: break;
  }
  return 0;
}

int32_t tvmgen_crasher_run(struct tvmgen_crasher_inputs *inputs, struct tvmgen_crasher_outputs *outputs) {
  int8_t *image = (int8_t *)tvmgen_crasher_workspace;
  int32_t *sums = (int32_t *)outputs->sums;
  if (inputs->image != image) { memcpy(image, inputs->image, @N@); }
  TVMGEN_LAYER_BEGIN(0);
  sums[0] = 0;
  for (int32_t i = 0; i < @N@; i++) { sums[0] += image[i]; }
  sums[1] = 0;
  for (int32_t i = 0; i < 3; i++) { sums[1] += ((uint8_t *)inputs->bytes)[i]; }
  sums[2] = tvmgen_crasher_initialised - 77;
  for (int32_t i = 0; i < 2; i++) { sums[2] += ((int16_t *)inputs->halves)[i]; }
  TVMGEN_LAYER_BEGIN(1);
  int32_t status = tvmgen_crasher_fail(*(int32_t *)inputs->mode, (uintptr_t)0xF0000000u);
  if (status != 0) { return status; }
  TVMGEN_LAYER_BEGIN(2);
  for (int32_t i = 0; i < @N@; i++) { image[i] = (int8_t)(image[i] + 1); }
  for (int32_t i = 0; i < 4; i++) { ((float *)outputs->reals_out)[i] = ((float *)inputs->reals_in)[i] * 1.5f + 0.25f; }
  if (outputs->image_out != image) { memcpy(outputs->image_out, image, @N@); }
  TVMGEN_LAYER_END(3);
  return 0;
}
"""


def write_crasher(directory: Path, n: int = LARGE, *, workspace: int | None = None, flags: tuple[str, ...] = ("-O2",)) -> Path:
    """Write the model with an image of n bytes; returns the artifact's directory."""
    size = workspace or (n + 15) // 16 * 16
    for folder, name, text in (("include", "tvmgen_crasher.h", HEADER), ("src", "tvmgen_crasher.c", SOURCE)):
        path = directory / "codegen" / "host" / folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text.replace("@SIZE@", str(size)).replace("@N@", str(n)))
    (directory / "metadata.json").write_text(json.dumps(_metadata(n, size, flags)))
    return directory


def _metadata(n: int, size: int, flags: tuple[str, ...]) -> dict[str, object]:
    def tensor(name: str, c_name: str, dtype: str, shape: list[int]) -> dict[str, object]:
        return {"name": name, "c_name": c_name, "dtype": dtype, "shape": shape, "scale": None, "zero_point": None}

    return {
        "name": "crasher",
        "target": {"mcpu": "native"},
        "workspace_size": size,
        "compile_flags": list(flags),
        "inputs": [
            tensor("image", "image", "int8", [1, n]),
            tensor("mode", "mode", "int32", [1]),
            tensor("bytes", "bytes", "uint8", [3]),
            tensor("halves", "halves", "int16", [2]),
            tensor("reals/in", "reals_in", "float32", [4]),
        ],
        "outputs": [
            tensor("image_out", "image_out", "int8", [1, n]),
            tensor("sums", "sums", "int32", [3]),
            tensor("reals_out", "reals_out", "float32", [4]),
        ],
        "layers": [
            {"index": 0, "name": "sums", "op": "sum", "source": ["sums"]},
            {"index": 1, "name": "fail", "op": "fail", "source": ["block/fail"]},
            {"index": 2, "name": "image_out", "op": "add", "source": ["image_out"]},
        ],
    }


def sample(rng: np.random.Generator, n: int = LARGE, mode: int = OK) -> dict[str, np.ndarray]:
    """Random inputs."""
    return {
        "image": rng.integers(-128, 128, (1, n), dtype=np.int8),
        "mode": np.array([mode], np.int32),
        "bytes": rng.integers(0, 256, 3, dtype=np.uint8),
        "halves": rng.integers(-30000, 30000, 2, dtype=np.int16),
        "reals/in": rng.standard_normal(4).astype(np.float32),
    }


def expected(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model computes."""
    sums = [inputs[k].astype(np.int32).sum(dtype=np.int32) for k in ("image", "bytes", "halves")]
    return {
        "image_out": inputs["image"] + np.int8(1),
        "sums": np.array(sums, np.int32),
        "reals_out": inputs["reals/in"] * np.float32(1.5) + np.float32(0.25),
    }
