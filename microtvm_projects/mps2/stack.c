/* SPDX-License-Identifier: Apache-2.0 */
#include "stack.h"

#include "cortex_m.h"
#include "port.h"

#define STACK_PATTERN 0xA5A5A5A5u

void stack_paint(void) {
  for (volatile uint32_t *word = __stack_guard; word < __stack_top; word++) {
    *word = STACK_PATTERN;
  }
}

uint32_t port_stack_size(void) { return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)__stack_bottom); }

uint32_t port_stack_used(void) {
  const uint32_t *word = __stack_bottom;
  while (word < __stack_top && *word == STACK_PATTERN) {
    word++;
  }
  return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)word);
}

int port_stack_overflowed(void) {
  if (MPU_CTRL & MPU_CTRL_ENABLE) {
    return 0; /* the guard faults by itself, and can't be read */
  }
  for (const uint32_t *word = __stack_guard; word < __stack_bottom; word++) {
    if (*word != STACK_PATTERN) {
      return 1;
    }
  }
  return 0;
}
