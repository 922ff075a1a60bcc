/* SPDX-License-Identifier: Apache-2.0 */
/* What an application needs of a platform: bytes in, bytes out, and a way to stop.
 *
 * One file a platform and transport implements this (port_native.c, port_semihosting.c, port_uart.c). Every function blocks.
 */
#ifndef TINY_PORT_H
#define TINY_PORT_H

#include <stddef.h>
#include <stdint.h>

/* Make the line ready. Returns 0, or non-zero when there is no other end. */
int port_open(void);
/* Read exactly n bytes. Returns 0, or non-zero when the other end has gone. */
int port_read(void *destination, size_t n);
/* Write exactly n bytes. Returns 0, or non-zero when the other end has gone. Callable from a fault handler. */
int port_write(const void *source, size_t n);
/* End the program: the process, the emulator, or (on a board) sleep for ever. Never returns. */
void port_exit(int code);

/* Stack of the application in bytes, and how much of it was ever used; 0 where the platform can't tell. */
uint32_t port_stack_size(void);
uint32_t port_stack_used(void);
/* Whether the bytes under the stack were written, on cores whose hardware does not stop it. */
int port_stack_overflowed(void);

#endif
