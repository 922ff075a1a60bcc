/* SPDX-License-Identifier: Apache-2.0 */
/* One inference on inputs compiled in (or zeros), nothing else: the image a profiler counts. Exit code 0, or 100 when the model failed. */
#include <string.h>

#include "model.h"
#include "port.h"

int main(void) {
  const uint8_t *sample = model_sample;
  for (uint32_t i = 0; i < model_num_inputs; i++) {
    if (sample != NULL) {
      memcpy(model_inputs[i].data(), sample, model_inputs[i].nbytes);
      sample += model_inputs[i].nbytes;
    } else {
      memset(model_inputs[i].data(), 0, model_inputs[i].nbytes);
    }
  }
  const int32_t status = model_run();
  port_exit(status == 0 ? 0 : 100);
  return 0;
}
