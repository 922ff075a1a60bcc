/* SPDX-License-Identifier: Apache-2.0 */
#include "mpu.h"

#include <stdint.h>

#include "board.h"
#include "cortex_m.h"
#include "stack.h"

struct range {
  uint32_t base, size;
};

static const struct range read_only[] = BOARD_READ_ONLY;

#if __ARM_ARCH >= 8

/* Armv8-M ARM D1.2: RBAR = base | AP[2:1] << 1 | XN, RLAR = last 32-byte granule | attribute index << 1 | enable. The stack has PSPLIM. */
static void protect_range(uint32_t number, struct range range) {
  MPU_RNR = number;
  MPU_RBAR = range.base | (2u << 1); /* privileged read-only, executable */
  MPU_RASR = ((range.base + range.size - 1u) & ~31u) | 1u;
}

static uint32_t protect_stack(void) { return 0; }

static void set_attributes(void) { MPU_MAIR0 = 0xFFu; } /* attribute 0: normal memory, write-back */

#else

#define RASR_READ_ONLY (5u << 24 | 1u << 19 | 3u << 16) /* AP privileged read-only; TEX, C, B: normal, write-back */
#define RASR_NO_ACCESS (1u << 28 | 1u << 19 | 3u << 16)

/* Base-2 logarithm of a power of two. */
static uint32_t log2_of(uint32_t size) {
  uint32_t log = 0;
  while ((size >>= 1) != 0) {
    log++;
  }
  return log;
}

/* ARMv7-M ARM B3.5: sizes are powers of two and bases multiples of them (the template's handler sees to it). */
static void write_region(uint32_t number, struct range range, uint32_t attributes) {
  MPU_RNR = number;
  MPU_RBAR = range.base;
  MPU_RASR = attributes | (log2_of(range.size) - 1u) << 1 | 1u;
}

static void protect_range(uint32_t number, struct range range) { write_region(number, range, RASR_READ_ONLY); }

static uint32_t protect_stack(void) {
  const struct range guard = {(uint32_t)(uintptr_t)__stack_guard, STACK_GUARD_BYTES};
  write_region(0, guard, RASR_NO_ACCESS);
  return 1;
}

static void set_attributes(void) {}

#endif

void mpu_protect(void) {
  const uint32_t regions = (MPU_TYPE >> 8) & 0xFFu;
  const uint32_t wanted = (uint32_t)(sizeof read_only / sizeof read_only[0]);
  if (regions < wanted + 1u) {
    return; /* no MPU: ARMv6-M */
  }
  set_attributes();
  const uint32_t first = protect_stack();
  for (uint32_t i = 0; i < wanted; i++) {
    protect_range(first + i, read_only[i]);
  }
  MPU_CTRL = MPU_CTRL_ENABLE | MPU_CTRL_PRIVDEFENA;
  __asm volatile("dsb\n isb" ::: "memory");
}
