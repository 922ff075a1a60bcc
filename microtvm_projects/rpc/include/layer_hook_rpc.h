/* SPDX-License-Identifier: Apache-2.0 */
/* Layer hook of the RPC server: remember which layer runs (for crashes) and when it began. */
#ifndef TINY_LAYER_HOOK_H
#define TINY_LAYER_HOOK_H

#include "rpc_layers.h"

#define TVMGEN_LAYER_BEGIN(index) tiny_rpc_layer_begin((uint32_t)(index))
#define TVMGEN_LAYER_END(count) tiny_rpc_layer_begin((uint32_t)(count))

#endif
