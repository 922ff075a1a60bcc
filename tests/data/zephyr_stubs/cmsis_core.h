/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_CMSIS_CORE_H
#define STUB_CMSIS_CORE_H

#include <stdint.h>

typedef struct {
  volatile uint32_t MMFAR;
  volatile uint32_t BFAR;
} SCB_Type;
extern SCB_Type stub_scb;
#define SCB (&stub_scb)
uint32_t __get_IPSR(void);
uint32_t __get_PSP(void);

#endif
