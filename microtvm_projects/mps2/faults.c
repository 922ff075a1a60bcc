/* SPDX-License-Identifier: Apache-2.0 */
/* Any exception is a fault here: gather what the core knows and tell the host. */
#include <stddef.h>
#include <stdint.h>

#include "cortex_m.h"
#include "fault.h"
#include "stack.h"

/* What the core stacks on exception entry (ARMv7-M ARM B1.5.6); floating-point registers, when stacked, lie above. */
struct exception_frame {
  uint32_t r0, r1, r2, r3, r12, lr, pc, xpsr;
};

void fault_entry(void);
void fault_main(const struct exception_frame *frame, uint32_t number);

/* Hand the frame's address and the exception number to C. EXC_RETURN bit 2 tells the stack it lies on. In ARMv6-M's instructions. */
__attribute__((naked)) void fault_entry(void) {
  __asm volatile(
      "mov r0, lr         \n"
      "movs r1, #4        \n"
      "tst r0, r1         \n"
      "beq 1f             \n"
      "mrs r0, psp        \n"
      "b 2f               \n"
      "1: mrs r0, msp     \n"
      "2: mrs r1, ipsr    \n"
      "ldr r2, =fault_main\n"
      "bx r2              \n"
      ".ltorg             \n");
}

static void read_fault_registers(struct fault_record *record) {
  record->cfsr = SCB_CFSR;
  record->hfsr = SCB_HFSR;
  if (record->cfsr & (CFSR_MMARVALID | CFSR_BFARVALID)) {
    record->address = record->cfsr & CFSR_MMARVALID ? SCB_MMFAR : SCB_BFAR;
    record->flags |= FAULT_ADDRESS_VALID;
  }
}

static int is_stack_overflow(const struct fault_record *record) {
  const uint32_t bottom = (uint32_t)(uintptr_t)__stack_bottom;
  const uint32_t guard = (uint32_t)(uintptr_t)__stack_guard;
  if (record->cfsr & CFSR_STKOF || record->sp < bottom) {
    return 1;
  }
  return (record->flags & FAULT_ADDRESS_VALID) && record->address >= guard && record->address < bottom;
}

__attribute__((used)) void fault_main(const struct exception_frame *frame, uint32_t number) {
  struct fault_record record = {.kind = FAULT_ARM, .layer = tiny_current_layer, .number = number, .sp = (uint32_t)(uintptr_t)frame};
  if (core_is_mainline()) {
    read_fault_registers(&record);
  }
  if (is_stack_overflow(&record)) {
    record.flags |= FAULT_STACK_OVERFLOW;
  }
  /* When stacking itself failed, what lies at the stack pointer is no frame. */
  if (!(record.cfsr & (CFSR_MSTKERR | CFSR_STKERR | CFSR_STKOF)) && record.sp >= (uint32_t)(uintptr_t)__stack_bottom) {
    record.pc = frame->pc;
    record.lr = frame->lr;
    record.flags |= FAULT_PC_VALID;
  }
  fault_report(&record);
}
