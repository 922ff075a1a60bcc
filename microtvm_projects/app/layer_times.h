/* SPDX-License-Identifier: Apache-2.0 */
/* How long each layer of the last inference ran, in ticks of port_cycles(). */
#ifndef TINY_LAYER_TIMES_H
#define TINY_LAYER_TIMES_H

#include <stdint.h>

extern uint32_t tiny_layer_ticks[TINY_LAYER_TIMES];
extern uint32_t tiny_layer_count; /* layers that ran to their end */

/* The border in front of layer `index`; that of index n of n layers is the end. */
void tiny_layer_border(uint32_t index);

#endif
