/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc_layers.h"

#include <string.h>

#include "error.h"
#include "server.h"

static struct {
  uint32_t *ticks;
  uint32_t num_layers;
  uint32_t wanted;
  const tiny_rpc_tensor_t *output; /* NULL: none, or copied already */
  uint32_t seen_bytes;
  uint32_t began; /* when the layer before the hook now running did */
} watch;

static uint32_t now(void) {
  const tiny_rpc_port_t *port = &tiny_rpc_server.config->port;
  return port->cycles != NULL ? port->cycles(port->context) : 0;
}

void tiny_rpc_layers_watch(uint32_t *ticks, uint32_t num_layers, uint32_t wanted, const tiny_rpc_tensor_t *output) {
  memset(ticks, 0, num_layers * sizeof(*ticks));
  watch.ticks = ticks;
  watch.num_layers = num_layers;
  watch.wanted = wanted;
  watch.output = output;
  watch.seen_bytes = 0;
}

/* Index n of n layers is the end: the ticks since the hook before are those of layer index - 1. */
void tiny_rpc_layer_begin(uint32_t index) {
  const uint32_t time = now();
  if (index != 0 && index <= watch.num_layers) watch.ticks[index - 1] = time - watch.began;
  watch.began = now();
}

void tiny_rpc_layer_output(uint32_t index, const void *from, uint32_t bytes) {
  uint64_t room;
  if (watch.output == NULL || index != watch.wanted) return;
  watch.seen_bytes = bytes;
  if (tensor_bytes(watch.output, &room) != 0 || room != bytes) return;
  memcpy((uint8_t *)watch.output->data + watch.output->byte_offset, from, bytes);
  watch.output = NULL;
}

int32_t tiny_rpc_layers_check(const char *function) {
  if (watch.output == NULL) return 0;
  watch.output = NULL;
  if (watch.seen_bytes == 0) return tiny_rpc_fail(RUNTIME_ERROR "%s: layer %u gave no output", function, watch.wanted);
  return tiny_rpc_fail(VALUE_ERROR "%s: the output of layer %u has %u bytes", function, watch.wanted, watch.seen_bytes);
}
