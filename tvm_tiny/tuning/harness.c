/* SPDX-License-Identifier: Apache-2.0 */
/* Runs candidates of one layer one after the other, checks every output byte, and marks the runs that are timed with `dbg`.
 *
 * It prints, by semihosting: "start <i>" before candidate i, then "bad <n>": bytes that differ from what is expected, guards after the output
 * and after the scratch included. A fault ends the image, so the last "start" names the candidate at fault. The only interrupts are faults.
 */
#include <stdint.h>
#include <string.h>

#include "bench.h"

enum { FILL_OUT = 0x11, FILL_SCRATCH = 0xA5 };

static _Alignas(16) uint8_t arguments[BENCH_ARGUMENTS][BENCH_ARGUMENT_BYTES];
static _Alignas(16) uint8_t output[BENCH_OUTPUT_BYTES + BENCH_GUARD];
static _Alignas(16) uint8_t scratch[BENCH_SCRATCH_BYTES + BENCH_GUARD];

static uint32_t semihost(uint32_t operation, const void *argument) {
  register uint32_t r0 __asm("r0") = operation;
  register const void *r1 __asm("r1") = argument;
  __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static void print(const char *word, uint32_t value) {
  char text[32], *p = text + sizeof text - 1;
  *p = 0;
  *--p = '\n';
  do {
    *--p = (char)('0' + value % 10u);
    value /= 10u;
  } while (value != 0);
  *--p = ' ';
  const char *end = word + strlen(word);
  while (end != word) {
    *--p = *--end;
  }
  (void)semihost(4, p); /* SYS_WRITE0 */
}

__attribute__((noreturn)) static void leave(void) {
  (void)semihost(0x18, (const void *)0x20026); /* SYS_EXIT, ADP_Stopped_ApplicationExit */
  for (;;) {
  }
}

static uint32_t differing(const uint8_t *expected, uint32_t scratch_bytes) {
  uint32_t bad = 0;
  for (uint32_t i = 0; i < BENCH_OUTPUT_BYTES; i++) {
    bad += output[i] != expected[i];
  }
  for (uint32_t i = 0; i < BENCH_GUARD; i++) {
    bad += (output[BENCH_OUTPUT_BYTES + i] != FILL_OUT) + (scratch[scratch_bytes + i] != FILL_SCRATCH);
  }
  return bad;
}

static uint32_t run(const struct bench_candidate *candidate, uint32_t sample) {
  memset(output, FILL_OUT, sizeof output);
  memset(scratch, FILL_SCRATCH, sizeof scratch);
  for (uint32_t a = 0; a < BENCH_ARGUMENTS; a++) {
    memcpy(arguments[a], bench_samples[sample][a], BENCH_ARGUMENT_BYTES);
  }
  if (sample == 0) {
    __asm volatile("dbg #1" ::: "memory");
    candidate->run(arguments, output, scratch);
    __asm volatile("dbg #2" ::: "memory");
  } else {
    candidate->run(arguments, output, scratch);
  }
  return differing(bench_expected[sample], candidate->scratch_bytes);
}

static void run_all(void) {
  for (uint32_t i = 0; i < BENCH_CANDIDATES; i++) {
    uint32_t bad = 0;
    print("start", i);
    for (uint32_t sample = 0; sample < BENCH_SAMPLES; sample++) {
      bad += run(&bench_candidates[i], sample);
    }
    print("bad", bad);
  }
}

void reset_handler(void);
static void fault_handler(void) {
  print("fault", 0);
  leave();
}

extern uint32_t __stack_top[];
__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))__stack_top, reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler,
};

__attribute__((noreturn)) void reset_handler(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xF00000u; /* CPACR: the FPU on, where there is one */
  __asm volatile("dsb\n isb");
  run_all();
  leave();
}
