/* SPDX-License-Identifier: Apache-2.0 */
/* Helium instructions, which no cycle model knows: they must be reported. */
int main(void) {
    __asm volatile("vmov.i32 q0, #1\n\tvadd.i32 q1, q0, q0" ::: "memory");
    return 0;
}
