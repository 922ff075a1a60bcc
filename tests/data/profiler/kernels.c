/* SPDX-License-Identifier: Apache-2.0 */
/* Small programs that together use what the cycle models tell apart. One segment each, cut by `dbg #1`. */
#include <stdint.h>

void print(const char *text);
void print_number(uint32_t value);

#define MARK() __asm volatile("dbg #1" ::: "memory")
#define KERNEL __attribute__((noinline)) static
enum { N = 256 };

static int8_t bytes[N];
static int32_t words[N];
static float reals[N];
static const int8_t weights[4 * N] = {[0] = 3, [5] = -7, [100] = 9, [4 * N - 1] = 1};
static volatile uint32_t sink;

KERNEL uint32_t dot(void) { /* loads, multiply-accumulate, loop */
    int32_t sum = 0;
    for (int i = 0; i < N; i++) sum += bytes[i] * weights[i];
    return (uint32_t)sum;
}

KERNEL uint32_t clamp(void) { /* data-dependent branches and IT blocks */
    uint32_t odd = 0;
    for (int i = 0; i < N; i++) {
        int32_t v = words[i] >> 3;
        words[i] = v > 127 ? 127 : v < -128 ? -128 : v;
        if (v & 4) odd += sink;
    }
    return odd;
}

KERNEL uint32_t requantize(void) { /* long multiplies, shifts, register offsets */
    for (int i = 0; i < N; i++) words[i] = (int32_t)(((int64_t)words[i] * 0x5a82799a + (1LL << 30)) >> 31);
    return (uint32_t)words[7];
}

KERNEL uint32_t divide(void) {
    uint32_t sum = 0;
    for (uint32_t i = 1; i < N; i++) sum += (uint32_t)words[i] / i + 1000003u % i;
    return sum;
}

KERNEL uint32_t floats(void) { /* VFP where there is one, the library's calls where not */
    float sum = 1.0f;
    for (int i = 0; i < N; i++) {
        reals[i] = reals[i] * 0.5f + (float)words[i];
        sum += reals[i] / (sum * sum + 2.0f);
    }
    return (uint32_t)sum;
}

__attribute__((noinline)) int32_t fibonacci(int32_t n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); } /* PUSH, POP, BL */

KERNEL uint32_t blocks(void) { /* LDM, STM, LDRD, STRD */
    uint32_t *from = (uint32_t *)words, *to = (uint32_t *)reals, count = N / 8;
    __asm volatile(
        "1: ldmia %0!, {r4-r7}\n\t ldrd r8, r9, [%0], #16\n\t stmia %1!, {r4-r7}\n\t strd r8, r9, [%1], #16\n\t"
        "subs %2, #1\n\t bne 1b"
        : "+r"(from), "+r"(to), "+r"(count)::"r4", "r5", "r6", "r7", "r8", "r9", "memory", "cc");
    return sink;
}

KERNEL uint32_t unaligned(void) {
    uint32_t sum = 0;
    for (int i = 0; i < N - 4; i += 3) {
        uint32_t word;
        __builtin_memcpy(&word, bytes + i + 1, sizeof word);
        sum ^= word;
    }
    return sum;
}

KERNEL uint32_t stream(void) { /* flash read once: misses of any cache */
    uint32_t sum = 0;
    for (int i = 0; i < 4 * N; i += 4) sum += (uint32_t)weights[i] << (i & 7);
    return sum;
}

KERNEL uint32_t choose(void) { /* a table branch */
    uint32_t sum = 0;
    for (uint32_t i = 0; i < N; i++) {
        switch (i % 7) {
            case 0: sum += i; break;
            case 1: sum ^= 0x55; break;
            case 2: sum <<= 1; break;
            case 3: sum -= sink; break;
            case 4: sum |= 9; break;
            case 5: sum = ~sum; break;
            default: sum++;
        }
    }
    return sum;
}

int main(void) {
    uint32_t (*const kernels[])(void) = {dot, clamp, requantize, divide, floats, blocks, unaligned, stream, choose};
    for (int i = 0; i < N; i++) {
        bytes[i] = (int8_t)(i * 37);
        words[i] = i * 1234567;
        reals[i] = (float)i;
    }
    for (unsigned k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        MARK();
        sink = kernels[k]();
    }
    MARK();
    sink = (uint32_t)fibonacci(12);
    MARK();
    print("done\n");
    return 0;
}
