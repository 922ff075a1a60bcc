/* SPDX-License-Identifier: Apache-2.0 */
#include "layer_times.h"

#include "port_cycles.h"

uint32_t tiny_layer_ticks[TINY_LAYER_TIMES];
uint32_t tiny_layer_count;

static uint32_t began;

void tiny_layer_border(uint32_t index) {
  const uint32_t now = port_cycles();
  tiny_layer_count = index;
  if (index != 0 && index <= TINY_LAYER_TIMES) {
    tiny_layer_ticks[index - 1] = now - began;
  }
  began = port_cycles(); /* read again: the bookkeeping above belongs to no layer */
}
