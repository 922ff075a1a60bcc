/* SPDX-License-Identifier: Apache-2.0 */
/* Zephyr's fatal errors as fault records. */
#include <zephyr/fatal.h>
#include <zephyr/kernel.h>

#include "fault.h"

#if defined(CONFIG_CPU_CORTEX_M)

#include <cmsis_core.h>

/* Bits of the Configurable Fault Status Register (Armv7-M ARM, B3.2.15), which Zephyr has cleared when it calls us, by its reasons. */
static uint32_t cfsr_of(unsigned int reason) {
  static const struct {
    unsigned int reason;
    uint32_t bit;
  } table[] = {
      {K_ERR_ARM_MEM_INSTRUCTION_ACCESS, 0},
      {K_ERR_ARM_MEM_DATA_ACCESS, 1},
      {K_ERR_ARM_MEM_UNSTACKING, 3},
      {K_ERR_ARM_MEM_STACKING, 4},
      {K_ERR_ARM_MEM_FP_LAZY_STATE_PRESERVATION, 5},
      {K_ERR_ARM_BUS_INSTRUCTION_BUS, 8},
      {K_ERR_ARM_BUS_PRECISE_DATA_BUS, 9},
      {K_ERR_ARM_BUS_IMPRECISE_DATA_BUS, 10},
      {K_ERR_ARM_BUS_UNSTACKING, 11},
      {K_ERR_ARM_BUS_STACKING, 12},
      {K_ERR_ARM_BUS_FP_LAZY_STATE_PRESERVATION, 13},
      {K_ERR_ARM_USAGE_UNDEFINED_INSTRUCTION, 16},
      {K_ERR_ARM_USAGE_ILLEGAL_EPSR, 17},
      {K_ERR_ARM_USAGE_ILLEGAL_EXC_RETURN, 18},
      {K_ERR_ARM_USAGE_NO_COPROCESSOR, 19},
      {K_ERR_ARM_USAGE_STACK_OVERFLOW, 20},
      {K_ERR_ARM_USAGE_UNALIGNED_ACCESS, 24},
      {K_ERR_ARM_USAGE_DIV_0, 25},
  };
  for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
    if (table[i].reason == reason) {
      return 1u << table[i].bit;
    }
  }
  return 0;
}

/* Zephyr's guard is 32 to 128 bytes: a large frame steps over it, and whatever lies below breaks later, of any cause. */
static int below_its_stack(uintptr_t sp) { return sp < k_current_get()->stack_info.start; }

void k_sys_fatal_error_handler(unsigned int reason, const struct arch_esf *esf) {
  const uintptr_t sp = __get_PSP();
  struct fault_record record = {.kind = FAULT_ARM, .layer = tiny_current_layer, .number = __get_IPSR(), .cfsr = cfsr_of(reason)};
  if (esf != NULL) {
    record.pc = esf->basic.pc;
    record.lr = esf->basic.lr;
    record.sp = sp;
    record.flags |= FAULT_PC_VALID;
  }
#if defined(CONFIG_ARMV7_M_ARMV8_M_MAINLINE)
  if (reason == K_ERR_ARM_MEM_DATA_ACCESS || reason == K_ERR_ARM_BUS_PRECISE_DATA_BUS) {
    record.address = reason == K_ERR_ARM_MEM_DATA_ACCESS ? SCB->MMFAR : SCB->BFAR;
    record.flags |= FAULT_ADDRESS_VALID;
  }
#endif
  if (reason == K_ERR_STACK_CHK_FAIL || reason == K_ERR_ARM_USAGE_STACK_OVERFLOW || below_its_stack(sp)) {
    record.flags = FAULT_STACK_OVERFLOW; /* the frame was not saved, or what it holds is a consequence */
  }
  fault_report(&record);
  k_fatal_halt(reason);
}

#else

/* On the host the process ends by its signal, which the other side sees; here come Zephyr's own errors. */
void k_sys_fatal_error_handler(unsigned int reason, const struct arch_esf *esf) {
  const struct fault_record record = {.kind = FAULT_SIGNAL, .layer = tiny_current_layer, .number = 6 /* SIGABRT */};
  (void)esf;
  fault_report(&record);
  k_fatal_halt(reason);
}

#endif
