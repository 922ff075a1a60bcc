/* SPDX-License-Identifier: Apache-2.0 */
/* Layer hook that measures: which layer runs (for crashes), and how long each takes. */
#ifndef TINY_LAYER_HOOK_H
#define TINY_LAYER_HOOK_H

#include <stdint.h>

extern volatile uint32_t tiny_current_layer;
void tiny_layer_border(uint32_t index);

#define TVMGEN_LAYER_BEGIN(index) (tiny_current_layer = (uint32_t)(index), tiny_layer_border((uint32_t)(index)))
#define TVMGEN_LAYER_END(count) (tiny_layer_border((uint32_t)(count)), tiny_current_layer = 0xFFFFFFFFu)

#endif
