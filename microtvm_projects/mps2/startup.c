/* SPDX-License-Identifier: Apache-2.0 */
/* Vector table and start of a bare-metal image for any Cortex-M.
 *
 * Handlers run on the main stack, the application on the process stack, so a fault can be reported even when the application's stack is full.
 * No interrupt source is ever switched on: nothing but the application and its faults runs.
 */
#include <stdint.h>

#include "cortex_m.h"
#include "mpu.h"
#include "stack.h"

extern uint32_t __data_start[], __data_end[], __data_load[], __bss_start[], __bss_end[], __handler_stack_top[];

void Reset_Handler(void);
void fault_entry(void);
int main(void);

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))__handler_stack_top,
    Reset_Handler,
    fault_entry, /* NMI */
    fault_entry, /* HardFault */
    fault_entry, /* MemManage */
    fault_entry, /* BusFault */
    fault_entry, /* UsageFault */
    fault_entry, /* SecureFault */
    0,
    0,
    0,
    fault_entry, /* SVCall */
    fault_entry, /* DebugMonitor */
    0,
    fault_entry, /* PendSV */
    fault_entry, /* SysTick */
};

static void prepare_memory(void) {
  const uint32_t *from = __data_load;
  for (uint32_t *to = __data_start; to < __data_end; to++) {
    *to = *from++;
  }
  for (uint32_t *to = __bss_start; to < __bss_end; to++) {
    *to = 0;
  }
}

static void prepare_faults(void) {
  if (core_is_mainline()) {
    SCB_SHCSR |= SHCSR_FAULTS_ENABLED;
    SCB_CCR |= CCR_DIV_0_TRP;
#if __ARM_ARCH == 6
    SCB_CCR |= CCR_UNALIGN_TRP; /* ARMv6-M code on a larger core: fault where the small one would */
#endif
  }
}

/* Go over to the process stack and start. Nothing of the main stack's contents is needed any more. */
__attribute__((naked, noreturn)) static void enter_main(uint32_t stack_top __attribute__((unused)), uint32_t stack_bottom __attribute__((unused))) {
  __asm volatile(
      "msr psp, r0        \n"
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__) || (__ARM_ARCH >= 8 && __ARM_ARCH_ISA_THUMB == 2 && !defined(__ARM_ARCH_8M_BASE__))
      "msr psplim, r1     \n"
#endif
      "movs r0, #2        \n"
      "msr control, r0    \n"
      "isb                \n"
      "bl main            \n"
      "b .                \n");
}

__attribute__((used, noreturn)) static void start(void) {
  prepare_memory();
  prepare_faults();
  stack_paint();
  mpu_protect();
  enter_main((uint32_t)__stack_top, (uint32_t)__stack_bottom);
}

/* The FPU (and MVE) must be on before compiled code runs: it may use its registers anywhere. CPACR: CP10 and CP11 full access. */
__attribute__((naked)) void Reset_Handler(void) {
  __asm volatile(
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
      "ldr r0, =0xE000ED88     \n" /* CPACR */
      "ldr r1, [r0]            \n"
      "orr r1, r1, #0xF00000   \n"
      "str r1, [r0]            \n"
      "dsb                     \n"
      "isb                     \n"
#endif
      "bl start                \n"
      "b .                     \n");
}
