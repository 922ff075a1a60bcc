/* SPDX-License-Identifier: Apache-2.0 */
/* Layer hook of applications: remember which layer runs, so that a crash or a hang can be told to the user. */
#ifndef TINY_LAYER_HOOK_H
#define TINY_LAYER_HOOK_H

#include <stdint.h>

extern volatile uint32_t tiny_current_layer;

#define TVMGEN_LAYER_BEGIN(index) (tiny_current_layer = (uint32_t)(index))
#define TVMGEN_LAYER_END(count) ((void)(count), tiny_current_layer = 0xFFFFFFFFu)

#endif
