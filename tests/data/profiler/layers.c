/* SPDX-License-Identifier: Apache-2.0 */
/* An inference of three layers with the markers a compiled model has: one before each layer, one after the last. */
#include <stdint.h>

#if __ARM_ARCH == 6
#define MARK() __asm volatile("yield" ::: "memory")
#else
#define MARK() __asm volatile("dbg #1" ::: "memory")
#endif

int8_t in[512], weights[512]; /* not static: the compiler must not know that the weights are zero */
static volatile int32_t out[3];

__attribute__((noipa)) static int32_t dense(int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += in[i] * weights[i];
    return sum;
}

__attribute__((noipa)) static int32_t peak(int n) {
    int32_t top = -128;
    for (int i = 0; i < n; i++) top = in[i] > top ? in[i] : top;
    return top;
}

int main(void) {
    for (int i = 0; i < 512; i++) in[i] = (int8_t)(i * 37);
    MARK();
    out[0] = dense(512);
    MARK();
    out[1] = peak(512);
    MARK();
    out[2] = dense(64);
    MARK();
    return 0;
}
