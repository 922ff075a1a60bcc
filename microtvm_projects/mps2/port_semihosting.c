/* SPDX-License-Identifier: Apache-2.0 */
/* Frames through two named pipes in the emulator's working directory: whole blocks at once, so much faster than a UART. */
#include "port.h"
#include "semihosting.h"

static uint32_t input;
static uint32_t output;

static int32_t open_file(const char *name, uint32_t length, uint32_t mode) {
  const uint32_t arguments[3] = {(uint32_t)(uintptr_t)name, mode, length};
  return semihosting_call(SYS_OPEN, arguments);
}

int port_open(void) {
  static const char input_name[] = "to_device";
  static const char output_name[] = "from_device";
  const int32_t in = open_file(input_name, sizeof input_name - 1u, OPEN_READ_BINARY);
  const int32_t out = open_file(output_name, sizeof output_name - 1u, OPEN_WRITE_BINARY);
  input = (uint32_t)in;
  output = (uint32_t)out;
  return in < 0 || out < 0;
}

/* SYS_READ and SYS_WRITE return the number of bytes NOT transferred; a pipe may give fewer than asked. */
static int transfer(uint32_t operation, uint32_t handle, uint32_t address, size_t n) {
  while (n > 0) {
    const uint32_t arguments[3] = {handle, address, (uint32_t)n};
    const int32_t left = semihosting_call(operation, arguments);
    if (left < 0 || (size_t)left >= n) {
      return -1;
    }
    address += (uint32_t)n - (uint32_t)left;
    n = (size_t)left;
  }
  return 0;
}

int port_read(void *destination, size_t n) { return transfer(SYS_READ, input, (uint32_t)(uintptr_t)destination, n); }

int port_write(const void *source, size_t n) { return transfer(SYS_WRITE, output, (uint32_t)(uintptr_t)source, n); }
