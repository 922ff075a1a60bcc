/* SPDX-License-Identifier: Apache-2.0 */
/* A platform's free-running counter, for measuring time on the device. */
#ifndef TINY_PORT_CYCLES_H
#define TINY_PORT_CYCLES_H

#include <stdint.h>

/* Start the counter. Returns its rate in Hz, 0 where there is none. */
uint32_t port_cycles_open(void);
/* Its value, modulo 2^32. */
uint32_t port_cycles(void);

#endif
