/* SPDX-License-Identifier: Apache-2.0 */
/* The model as an application sees it. model.c is generated for one model from its metadata.json. */
#ifndef TINY_MODEL_H
#define TINY_MODEL_H

#include <stdint.h>

struct model_tensor {
  const char *name;
  uint32_t nbytes;
  void *(*data)(void); /* where it lies: in the arena where the model gives an address there */
};

extern const struct model_tensor model_inputs[];
extern const struct model_tensor model_outputs[];
extern const uint32_t model_num_inputs;
extern const uint32_t model_num_outputs;

/* One inference. Returns 0, or 1 + the index of the layer that failed. */
int32_t model_run(void);

/* Input bytes compiled into a one-shot image, in the order of model_inputs; NULL when there are none. */
extern const uint8_t *const model_sample;

#endif
