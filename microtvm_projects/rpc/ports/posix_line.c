/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "posix_line.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

int posix_line_get(posix_line_t *line) {
  while (line->in_at == line->in_size) {
    line->in_at = 0;
    line->in_size = read(line->in, line->in_bytes, sizeof(line->in_bytes));
    if (line->in_size > 0) break;
    if (line->in_size < 0 && errno == EINTR) {
      line->in_size = 0;
      continue;
    }
    line->in_size = 0;
    return -1;
  }
  return line->in_bytes[line->in_at++];
}

int posix_line_flush(posix_line_t *line) {
  for (long at = 0; at < line->out_size;) {
    long sent = write(line->out, line->out_bytes + at, (size_t)(line->out_size - at));
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return -1;
    at += sent;
  }
  line->out_size = 0;
  return 0;
}

int posix_line_put(posix_line_t *line, uint8_t byte) {
  line->out_bytes[line->out_size++] = byte;
  return line->out_size == (long)sizeof(line->out_bytes) ? posix_line_flush(line) : 0;
}

uint32_t posix_cycles(void *context) {
  struct timespec now;
  (void)context;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint32_t)((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
}
