/* SPDX-License-Identifier: Apache-2.0 */
/* Nanoseconds of the monotonic clock. */
#define _POSIX_C_SOURCE 200809L
#include "port_cycles.h"

#include <time.h>

uint32_t port_cycles_open(void) { return 1000000000u; }

uint32_t port_cycles(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint32_t)((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
}
