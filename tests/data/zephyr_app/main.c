/* SPDX-License-Identifier: Apache-2.0 */
/* Exit code: the sum of 64 ones, which the model's first layer computes. */
#include <posix_board_if.h>
#include <stdint.h>
#include <string.h>

#include "tvmgen_crasher.h"

int main(void) {
  static int8_t image[64];
  static int32_t mode, sums[3];
  static uint8_t bytes[3];
  static int16_t halves[2];
  static float reals[4], reals_out[4];
  memset(image, 1, sizeof image);
  struct tvmgen_crasher_inputs inputs = {image, &mode, bytes, halves, reals};
  struct tvmgen_crasher_outputs outputs = {image, sums, reals_out};
  posix_exit(tvmgen_crasher_run(&inputs, &outputs) == 0 ? sums[0] : 255);
  return 0;
}
