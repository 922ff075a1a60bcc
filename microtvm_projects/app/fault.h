/* SPDX-License-Identifier: Apache-2.0 */
/* What a crash leaves behind: one record, sent as FRAME_FAULT. Decoded by tvm_tiny/device/faults.py. */
#ifndef TINY_FAULT_H
#define TINY_FAULT_H

#include <stdint.h>

#define LAYER_NONE 0xFFFFFFFFu

enum fault_kind { FAULT_ARM = 1, FAULT_SIGNAL = 2, FAULT_STACK = 3 /* overflow found after the run */ };
enum fault_flag { FAULT_PC_VALID = 1, FAULT_ADDRESS_VALID = 2, FAULT_STACK_OVERFLOW = 4 };

struct fault_record {
  uint32_t kind;
  uint32_t layer;  /* index of the layer that ran, LAYER_NONE outside the model */
  uint32_t number; /* exception number (Arm), signal number (host) */
  uint32_t flags;
  uint32_t cfsr; /* Arm, mainline cores only */
  uint32_t hfsr;
  uint64_t pc;
  uint64_t lr;
  uint64_t sp;
  uint64_t address; /* MMFAR, BFAR or si_addr */
};

/* Index of the layer that runs; written by the layer hook, read by fault handlers, and by a debugger when the device hangs. */
extern volatile uint32_t tiny_current_layer;

/* Send the record and end the program. */
void fault_report(const struct fault_record *record);

#endif
