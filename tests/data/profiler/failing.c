/* SPDX-License-Identifier: Apache-2.0 */
/* Jumps to nowhere when MODE is 0, never ends when it is 1. */
int main(void) {
    if (MODE == 0) ((void (*)(void))0xdead0001)();
    for (;;) {}
}
