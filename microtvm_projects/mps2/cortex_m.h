/* SPDX-License-Identifier: Apache-2.0 */
/* The few registers of the Cortex-M system control space that start-up and fault handling need.
 *
 * Sources: ARMv6-M ARM (DDI 0419) B3.2, ARMv7-M ARM (DDI 0403) B3.2 and B3.5, Armv8-M ARM (DDI 0553) D1.2.
 */
#ifndef TINY_CORTEX_M_H
#define TINY_CORTEX_M_H

#include <stdint.h>

#define CORTEX_M_REGISTER(address) (*(volatile uint32_t *)(address))

#define SCB_CPUID CORTEX_M_REGISTER(0xE000ED00u)
#define SCB_CCR CORTEX_M_REGISTER(0xE000ED14u)
#define SCB_SHCSR CORTEX_M_REGISTER(0xE000ED24u)
#define SCB_CFSR CORTEX_M_REGISTER(0xE000ED28u)
#define SCB_HFSR CORTEX_M_REGISTER(0xE000ED2Cu)
#define SCB_MMFAR CORTEX_M_REGISTER(0xE000ED34u)
#define SCB_BFAR CORTEX_M_REGISTER(0xE000ED38u)

#define MPU_TYPE CORTEX_M_REGISTER(0xE000ED90u)
#define MPU_CTRL CORTEX_M_REGISTER(0xE000ED94u)
#define MPU_RNR CORTEX_M_REGISTER(0xE000ED98u)
#define MPU_RBAR CORTEX_M_REGISTER(0xE000ED9Cu)
#define MPU_RASR CORTEX_M_REGISTER(0xE000EDA0u) /* RLAR in Armv8-M */
#define MPU_MAIR0 CORTEX_M_REGISTER(0xE000EDC0u)

#define CCR_UNALIGN_TRP (1u << 3)
#define CCR_DIV_0_TRP (1u << 4)
#define SHCSR_FAULTS_ENABLED (7u << 16) /* MemManage, BusFault, UsageFault */
#define CFSR_MSTKERR (1u << 4)
#define CFSR_MMARVALID (1u << 7)
#define CFSR_STKERR (1u << 12)
#define CFSR_BFARVALID (1u << 15)
#define CFSR_STKOF (1u << 20) /* Armv8-M */
#define MPU_CTRL_ENABLE 1u
#define MPU_CTRL_PRIVDEFENA 4u

/* True on ARMv7-M and Armv8-M Mainline, whatever the code was compiled for: only there CFSR and the other fault registers exist. */
static inline int core_is_mainline(void) { return ((SCB_CPUID >> 16) & 0xFu) == 0xFu; }

#endif
