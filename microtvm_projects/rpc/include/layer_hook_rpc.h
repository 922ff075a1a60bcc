/* SPDX-License-Identifier: Apache-2.0 */
/* Layer hook of the RPC server: remember which layer runs (for crashes), its time, and the output that was asked for. */
#ifndef TINY_LAYER_HOOK_H
#define TINY_LAYER_HOOK_H

#include "rpc_layers.h"

extern volatile uint32_t tiny_current_layer;

#define TVMGEN_LAYER_BEGIN(index) (tiny_current_layer = (uint32_t)(index), tiny_rpc_layer_begin((uint32_t)(index)))
#define TVMGEN_LAYER_OUTPUT(index, address, bytes) tiny_rpc_layer_output((uint32_t)(index), (address), (uint32_t)(bytes))
#define TVMGEN_LAYER_END(count) (tiny_rpc_layer_begin((uint32_t)(count)), tiny_current_layer = 0xFFFFFFFFu)

#endif
