/* SPDX-License-Identifier: Apache-2.0 */
/* Arm semihosting (Arm 100863): requests to the debugger or emulator. */
#ifndef TINY_SEMIHOSTING_H
#define TINY_SEMIHOSTING_H

#include <stdint.h>

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT_EXTENDED = 0x20 };
enum { OPEN_READ_BINARY = 1, OPEN_WRITE_BINARY = 5 };
#define ADP_STOPPED_APPLICATION_EXIT 0x20026u

static inline int32_t semihosting_call(uint32_t operation, const uint32_t *arguments) {
  register uint32_t r0 __asm("r0") = operation;
  register const uint32_t *r1 __asm("r1") = arguments;
  __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return (int32_t)r0;
}

#endif
