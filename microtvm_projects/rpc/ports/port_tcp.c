/* SPDX-License-Identifier: Apache-2.0 */
/* A host process on a TCP port of the loopback interface: `rpc_server PORT` (0: any). Prints the port; one bridge at a time. */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "posix_line.h"
#include "rpc_port.h"

static posix_line_t line = {.in = -1, .out = -1};
static int listener;

static int accept_bridge(void) {
  int on = 1;
  if (line.in >= 0) close(line.in);
  line.in = line.out = accept(listener, NULL, NULL);
  line.in_at = line.in_size = line.out_size = 0;
  return line.in < 0 ? -1 : setsockopt(line.in, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* A bridge that leaves does not end the line: the next one is waited for, as on a wire. */
static int get(void *context) {
  for (;;) {
    int byte = line.in < 0 ? -1 : posix_line_get(context);
    if (byte >= 0) return byte;
    if (accept_bridge() != 0) return -1;
  }
}

static int put(void *context, uint8_t byte) {
  if (posix_line_put(context, byte) != 0) line.out_size = 0; /* nobody listens: lost, as on a wire */
  return 0;
}

static int flush(void *context) {
  if (posix_line_flush(context) != 0) line.out_size = 0;
  return 0;
}

int tiny_rpc_port_open(tiny_rpc_port_t *port, int argc, char **argv) {
  struct sockaddr_in address;
  socklen_t size = sizeof(address);
  int on = 1;
  long number = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
  if (number < 0 || number > 65535) return -1;
  signal(SIGPIPE, SIG_IGN);
  memset(&address, 0, sizeof(address));
  address.sin_family = AF_INET;
  address.sin_port = htons((uint16_t)number);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  listener = socket(AF_INET, SOCK_STREAM, 0);
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0) return -1;
  if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0) return -1;
  if (getsockname(listener, (struct sockaddr *)&address, &size) != 0) return -1;
  printf("%u\n", (unsigned)ntohs(address.sin_port));
  fflush(stdout);
  *port = (tiny_rpc_port_t){get, put, flush, posix_cycles, 1000000000u, &line};
  return 0;
}
