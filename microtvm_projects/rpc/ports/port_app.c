/* SPDX-License-Identifier: Apache-2.0 */
/* The RPC server on a platform of the project templates: bytes by port.h, cycles by port_cycles.h, crashes told to the host. */
#include "fault.h"
#include "link.h"
#include "port.h"
#include "port_cycles.h"
#include "rpc_port.h"
#include "server.h"

static uint8_t out[64];
static size_t out_size;

static int get(void *context) {
  uint8_t byte;
  (void)context;
  return port_read(&byte, 1) == 0 ? byte : -1;
}

static int flush(void *context) {
  const size_t size = out_size;
  (void)context;
  out_size = 0;
  return port_write(out, size) == 0 ? 0 : -1;
}

static int put(void *context, uint8_t byte) {
  out[out_size++] = byte;
  return out_size == sizeof(out) ? flush(context) : 0;
}

static uint32_t cycles(void *context) {
  (void)context;
  return port_cycles();
}

int tiny_rpc_port_open(tiny_rpc_port_t *port, int argc, char **argv) {
  (void)argc, (void)argv;
  const uint32_t hz = port_cycles_open();
  *port = (tiny_rpc_port_t){get, put, flush, hz != 0 ? cycles : NULL, hz, NULL};
  return port_open() == 0 ? 0 : -1;
}

/* Called by the platform's fault handlers: the request being served is answered by the record. Never returns. */
void fault_report(const struct fault_record *record) {
  out_size = 0;
  link_send_fault(&tiny_rpc_server.link, record, sizeof(*record));
  port_exit(101);
}
