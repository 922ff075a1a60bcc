/* SPDX-License-Identifier: Apache-2.0 */
/* A host process on a pipe: standard input and output are the line. What the image prints goes to standard error instead. */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <unistd.h>

#include "posix_line.h"
#include "rpc_port.h"

static posix_line_t line;

static int get(void *context) { return posix_line_get(context); }
static int put(void *context, uint8_t byte) { return posix_line_put(context, byte); }
static int flush(void *context) { return posix_line_flush(context); }

int tiny_rpc_port_open(tiny_rpc_port_t *port, int argc, char **argv) {
  (void)argc, (void)argv;
  signal(SIGPIPE, SIG_IGN);
  line.in = STDIN_FILENO;
  line.out = dup(STDOUT_FILENO);
  if (line.out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return -1;
  *port = (tiny_rpc_port_t){get, put, flush, posix_cycles, 1000000000u, &line};
  return 0;
}
