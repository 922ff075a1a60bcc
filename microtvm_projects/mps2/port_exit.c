/* SPDX-License-Identifier: Apache-2.0 */
#include "port.h"
#include "semihosting.h"

void port_exit(int code) {
  const uint32_t arguments[2] = {ADP_STOPPED_APPLICATION_EXIT, (uint32_t)code};
  (void)semihosting_call(SYS_EXIT_EXTENDED, arguments);
  for (;;) {
  }
}
