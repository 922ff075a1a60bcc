/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TINY_MPU_H
#define TINY_MPU_H

/* Make code and constants read-only and the bytes under the stack untouchable, where the core has an MPU. */
void mpu_protect(void);

#endif
