/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_ZEPHYR_DRIVERS_UART_H
#define STUB_ZEPHYR_DRIVERS_UART_H

#include <stdint.h>
#include <zephyr/device.h>

typedef void (*uart_irq_callback_user_data_t)(const struct device *device, void *user_data);
int uart_irq_callback_user_data_set(const struct device *device, uart_irq_callback_user_data_t callback, void *user_data);
int uart_fifo_read(const struct device *device, uint8_t *data, const int size);
int uart_irq_update(const struct device *device);
int uart_irq_rx_ready(const struct device *device);
void uart_irq_rx_enable(const struct device *device);
void uart_irq_rx_disable(const struct device *device);
int uart_poll_in(const struct device *device, unsigned char *byte);
void uart_poll_out(const struct device *device, unsigned char byte);

#endif
