/* SPDX-License-Identifier: Apache-2.0 */
/* Buffered bytes over two file descriptors, and a clock: shared by the POSIX ports. */
#ifndef TINY_RPC_POSIX_LINE_H
#define TINY_RPC_POSIX_LINE_H

#include <stdint.h>

typedef struct {
  int in, out;
  uint8_t in_bytes[4096], out_bytes[4096];
  long in_at, in_size, out_size;
} posix_line_t;

/* The next byte, or -1 at the end of the stream. */
int posix_line_get(posix_line_t *line);
int posix_line_put(posix_line_t *line, uint8_t byte);
int posix_line_flush(posix_line_t *line);

/* Nanoseconds, modulo 2^32. */
uint32_t posix_cycles(void *context);

#endif
