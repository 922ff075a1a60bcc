/* SPDX-License-Identifier: Apache-2.0 */
/* Start-up and console of the profiler's test programs on QEMU's mps2 machines: FPU on, data in place, main(), semihosting exit. */
#include <stdint.h>

extern uint32_t data_source[], data_start[], data_end[], zero_start[], zero_end[], stack_top[];
int main(void);

__attribute__((naked)) static uint32_t semihosting(uint32_t operation, const void *argument) {
    (void)operation;
    (void)argument;
    __asm volatile("bkpt 0xab\n\tbx lr");
}

void print(const char *text) { semihosting(4, text); }

void print_number(uint32_t value) {
    char text[12], *at = text + sizeof text - 1;
    *at-- = 0;
    *at-- = '\n';
    do *at-- = (char)('0' + value % 10);
    while (value /= 10);
    print(at + 1);
}

static void leave(uint32_t code) {
    const uint32_t why[2] = {0x20026, code};
    semihosting(0x20, why);
    for (;;) {}
}

static void fault(void) {
    print("fault\n");
    leave(1);
}

void reset(void) {
#if __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;
    __asm volatile("dsb\n\tisb");
#endif
    for (uint32_t *to = data_start, *from = data_source; to < data_end;) *to++ = *from++;
    for (uint32_t *to = zero_start; to < zero_end;) *to++ = 0;
    leave((uint32_t)main());
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {stack_top, reset, fault, fault, fault, fault, fault};
