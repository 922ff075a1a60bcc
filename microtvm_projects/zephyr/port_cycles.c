/* SPDX-License-Identifier: Apache-2.0 */
/* The core's cycle counter where there is one, else Zephyr's system clock. */
#include "port_cycles.h"

#include <zephyr/kernel.h>

#if defined(CONFIG_TINY_CYCLES_TIMING) && defined(CONFIG_TIMING_FUNCTIONS)

#include <zephyr/timing/timing.h>

uint32_t port_cycles_open(void) {
  timing_init();
  timing_start();
  return (uint32_t)timing_freq_get();
}

uint32_t port_cycles(void) { return (uint32_t)timing_counter_get(); }

#else

uint32_t port_cycles_open(void) { return (uint32_t)sys_clock_hw_cycles_per_sec(); }
uint32_t port_cycles(void) { return k_cycle_get_32(); }

#endif
