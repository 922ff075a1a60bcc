/* SPDX-License-Identifier: Apache-2.0 */
#include "fault.h"

#include "frame.h"
#include "port.h"

volatile uint32_t tiny_current_layer = LAYER_NONE;

void fault_report(const struct fault_record *record) {
#ifdef TINY_APP_ONESHOT
  (void)record; /* nobody listens: the exit code tells */
#else
  (void)frame_send(FRAME_FAULT, 0, record, (uint32_t)sizeof *record);
#endif
  port_exit(101);
}
