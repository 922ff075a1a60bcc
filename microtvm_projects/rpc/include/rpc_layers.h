/* SPDX-License-Identifier: Apache-2.0 */
/* The layers of a model: each can be called alone, and a whole run tells how long each took. */
#ifndef TINY_RPC_LAYERS_H
#define TINY_RPC_LAYERS_H

#include "tiny_rpc.h"

typedef struct {
  const char *function;                  /* its name over RPC */
  const tiny_rpc_tensor_spec_t *tensors; /* inputs, then outputs; at most TINY_RPC_MAX_ARGS */
  int32_t num_tensors;
  uint32_t index;
  void (*run)(void **tensors);
} tiny_rpc_layer_t;

/* Run one layer on the tensors of a call. */
int32_t tiny_rpc_layer_call(const tiny_rpc_layer_t *layer, const tiny_rpc_value_t *args, int32_t num_args);

/* Before a run of all: where the ticks of each layer go. */
void tiny_rpc_layers_watch(uint32_t *ticks, uint32_t num_layers);

/* The hook of layer_hook_rpc.h. */
void tiny_rpc_layer_begin(uint32_t index);

#endif
