/* SPDX-License-Identifier: Apache-2.0 */
/* Work of three sizes, each between two readings of the CMSDK timer 0 (25 MHz). Under `-icount shift=7` the virtual clock advances 128 ns
 * an instruction, so the differences printed count instructions with no plugin involved. */
#include <stdint.h>

void print_number(uint32_t value);

static volatile uint32_t *const timer = (volatile uint32_t *)0x40000000;
static volatile uint32_t sink;

__attribute__((noinline)) static void work(uint32_t n) {
    uint32_t state = 1;
    for (uint32_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 17;
        if (state & 1) state += i;
    }
    sink = state;
}

__attribute__((noinline)) static uint32_t timed(uint32_t n) {
    __asm volatile("dbg #1" ::: "memory");
    uint32_t before = timer[1];
    work(n);
    uint32_t after = timer[1];
    __asm volatile("dbg #2" ::: "memory");
    return before - after;
}

int main(void) {
    timer[2] = timer[1] = 0xffffffff;
    timer[0] = 1;
    print_number(timed(10));
    print_number(timed(1000));
    print_number(timed(100000));
    return 0;
}
