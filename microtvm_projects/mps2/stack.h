/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TINY_STACK_H
#define TINY_STACK_H

#include <stdint.h>

#define STACK_GUARD_BYTES 256u

/* Lowest address, end of the guard (lowest address in use), and end of the application's stack; from the linker script. */
extern uint32_t __stack_guard[], __stack_bottom[], __stack_top[];

/* Fill guard and stack with a pattern, so that the deepest use can be read back. */
void stack_paint(void);

#endif
