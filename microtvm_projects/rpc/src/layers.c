/* SPDX-License-Identifier: Apache-2.0 */
#include "rpc_layers.h"

#include <string.h>

#include "server.h"

enum { NO_LAYER = -1 };

/* Read by the fault handlers, and by debuggers of a program that hangs. */
volatile uint32_t tiny_current_layer = (uint32_t)NO_LAYER;

static struct {
  uint32_t *ticks;
  uint32_t num_layers;
  uint32_t began; /* when the layer before the hook now running did */
} watch;

static uint32_t now(void) {
  const tiny_rpc_port_t *port = &tiny_rpc_server.config->port;
  return port->cycles != NULL ? port->cycles(port->context) : 0;
}

void tiny_rpc_layers_watch(uint32_t *ticks, uint32_t num_layers) {
  memset(ticks, 0, num_layers * sizeof(*ticks));
  watch.ticks = ticks;
  watch.num_layers = num_layers;
}

/* Index n of n layers is the end: the ticks since the hook before are those of layer index - 1. */
void tiny_rpc_layer_begin(uint32_t index) {
  const uint32_t time = now();
  if (index != 0 && index <= watch.num_layers) watch.ticks[index - 1] = time - watch.began;
  tiny_current_layer = index < watch.num_layers ? index : (uint32_t)NO_LAYER;
  watch.began = now();
}

int32_t tiny_rpc_layer_call(const tiny_rpc_layer_t *layer, const tiny_rpc_value_t *args, int32_t num_args) {
  void *data[TINY_RPC_MAX_ARGS];
  if (tiny_rpc_check_tensors(layer->function, layer->tensors, layer->num_tensors, args, num_args, data) != 0) return -1;
  tiny_current_layer = layer->index;
  layer->run(data);
  tiny_current_layer = (uint32_t)NO_LAYER;
  return 0;
}
