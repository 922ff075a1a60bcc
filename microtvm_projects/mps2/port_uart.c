/* SPDX-License-Identifier: Apache-2.0 */
/* Frames through a polled UART: Arm CMSDK (DDI 0479, §4.3) or PrimeCell PL011 (DDI 0183, §3.3). */
#include "board.h"
#include "cortex_m.h"
#include "port.h"

#define UART(offset) CORTEX_M_REGISTER(BOARD_UART_BASE + (offset))

#if defined(BOARD_UART_CMSDK)

int port_open(void) {
  UART(0x10) = 16; /* BAUDDIV: the least allowed, so the fastest */
  UART(0x08) = 3;  /* CTRL: transmit and receive */
  (void)UART(0);   /* wakes QEMU's input side, which has gone to sleep if it looked before the receiver was on */
  return 0;
}

static int can_read(void) { return (UART(0x04) & 2u) != 0; }
static int can_write(void) { return (UART(0x04) & 1u) == 0; }

#elif defined(BOARD_UART_PL011)

int port_open(void) {
  UART(0x30) = 0;      /* CR: off while it is set */
  UART(0x24) = 1;      /* IBRD */
  UART(0x28) = 0;      /* FBRD */
  UART(0x2C) = 0x70;   /* LCRH: 8 bits, FIFOs */
  UART(0x30) = 0x301u; /* CR: on, transmit and receive */
  return 0;
}

static int can_read(void) { return (UART(0x18) & 0x10u) == 0; }
static int can_write(void) { return (UART(0x18) & 0x20u) == 0; }

#else
#error "the board names no UART this file knows"
#endif

/* Under QEMU every look at the UART takes the lock its input side needs too: looking without a pause starves it. */
static void rest(void) {
  for (int i = 0; i < 500; i++) {
    __asm volatile("nop");
  }
}

int port_read(void *destination, size_t n) {
  uint8_t *to = (uint8_t *)destination;
  while (n-- > 0) {
    while (!can_read()) {
      rest();
    }
    *to++ = (uint8_t)UART(0);
  }
  return 0;
}

int port_write(const void *source, size_t n) {
  const uint8_t *from = (const uint8_t *)source;
  while (n-- > 0) {
    while (!can_write()) {
    }
    UART(0) = *from++;
  }
  return 0;
}
