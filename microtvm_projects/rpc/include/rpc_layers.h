/* SPDX-License-Identifier: Apache-2.0 */
/* What the layers of a running model tell the server: when each began, and the bytes one of them wrote. */
#ifndef TINY_RPC_LAYERS_H
#define TINY_RPC_LAYERS_H

#include "tiny_rpc.h"

/* Before a run: where the ticks of each layer go. `output` (or NULL) gets the output of layer `wanted`. */
void tiny_rpc_layers_watch(uint32_t *ticks, uint32_t num_layers, uint32_t wanted, const tiny_rpc_tensor_t *output);

/* After it: 0, or an error when the wanted layer did not come by or its output has another size. */
int32_t tiny_rpc_layers_check(const char *function);

/* The hooks of layer_hook_rpc.h. */
void tiny_rpc_layer_begin(uint32_t index);
void tiny_rpc_layer_output(uint32_t index, const void *from, uint32_t bytes);

#endif
