/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_POSIX_BOARD_IF_H
#define STUB_POSIX_BOARD_IF_H

void posix_exit(int exit_code);

#endif
