/* SPDX-License-Identifier: Apache-2.0 */
/* Timer 0 of the board: Arm CMSDK APB timer (DDI 0479, §4.1), counting down at the system clock. */
#include "port_cycles.h"

#include "board.h"
#include "cortex_m.h"

#if defined(BOARD_TIMER_CMSDK)

#define TIMER(offset) CORTEX_M_REGISTER(BOARD_TIMER_BASE + (offset))

uint32_t port_cycles_open(void) {
  TIMER(0x08) = 0xFFFFFFFFu; /* RELOAD */
  TIMER(0x04) = 0xFFFFFFFFu; /* VALUE */
  TIMER(0x00) = 1;           /* CTRL: on, no interrupt */
  return BOARD_CLOCK_HZ;
}

uint32_t port_cycles(void) { return 0xFFFFFFFFu - TIMER(0x04); }

#else

uint32_t port_cycles_open(void) { return 0; }
uint32_t port_cycles(void) { return 0; }

#endif
