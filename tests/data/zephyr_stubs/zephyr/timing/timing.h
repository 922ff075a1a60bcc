/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_ZEPHYR_TIMING_TIMING_H
#define STUB_ZEPHYR_TIMING_TIMING_H

#include <stdint.h>

typedef uint64_t timing_t;
void timing_init(void);
void timing_start(void);
timing_t timing_counter_get(void);
uint64_t timing_freq_get(void);

#endif
