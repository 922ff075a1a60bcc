/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_ZEPHYR_SYS_RING_BUFFER_H
#define STUB_ZEPHYR_SYS_RING_BUFFER_H

#include <stdint.h>

struct ring_buf {
  uint32_t unused;
};
#define RING_BUF_DECLARE(name, size) static struct ring_buf name
uint32_t ring_buf_put_claim(struct ring_buf *buffer, uint8_t **data, uint32_t size);
int ring_buf_put_finish(struct ring_buf *buffer, uint32_t size);
uint32_t ring_buf_get(struct ring_buf *buffer, uint8_t *data, uint32_t size);

#endif
