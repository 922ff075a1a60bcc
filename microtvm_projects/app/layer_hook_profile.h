/* SPDX-License-Identifier: Apache-2.0 */
/* Layer hook of profiled images: one marker instruction at every border between layers.
 *
 * `dbg #1` is a no-operation on hardware and in QEMU (Armv7-M ARM, A7.7.32) that no compiler emits, so a TCG plugin can cut the
 * run into layers by it. ARMv6-M and Armv8-M Baseline have no DBG: there the 16-bit hint `yield` serves.
 */
#ifndef TINY_LAYER_HOOK_H
#define TINY_LAYER_HOOK_H

#if defined(__ARM_ARCH) && (__ARM_ARCH == 6 || defined(__ARM_ARCH_8M_BASE__))
#define TINY_MARK() __asm volatile("yield" ::: "memory")
#elif defined(__arm__)
#define TINY_MARK() __asm volatile("dbg #1" ::: "memory")
#else
#define TINY_MARK() __asm volatile("" ::: "memory")
#endif

#define TVMGEN_LAYER_BEGIN(index) TINY_MARK()
#define TVMGEN_LAYER_END(count) TINY_MARK()

#endif
