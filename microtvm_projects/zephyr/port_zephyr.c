/* SPDX-License-Identifier: Apache-2.0 */
/* Frames over the UART that the devicetree chooses as tiny,line, else as console: received by interrupt where the driver can, else by
 * polling. */
#include <zephyr/device.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/ring_buffer.h>

#include "port.h"

#if DT_HAS_CHOSEN(tiny_line)
static const struct device *const line = DEVICE_DT_GET(DT_CHOSEN(tiny_line));
#else
static const struct device *const line = DEVICE_DT_GET(DT_CHOSEN(zephyr_console));
#endif

#ifdef CONFIG_UART_INTERRUPT_DRIVEN

RING_BUF_DECLARE(received, CONFIG_TINY_RECEIVE_BYTES);
static K_SEM_DEFINE(arrived, 0, 1);

/* Runs in the interrupt, or with interrupts locked. */
static void drain(void) {
  uint8_t *to;
  uint32_t room;
  while ((room = ring_buf_put_claim(&received, &to, CONFIG_TINY_RECEIVE_BYTES)) != 0) {
    const int got = uart_fifo_read(line, to, (int)room);
    (void)ring_buf_put_finish(&received, got > 0 ? (uint32_t)got : 0);
    if (got <= 0) {
      return;
    }
  }
  uart_irq_rx_disable(line); /* full: the reader turns it on again */
}

static void on_interrupt(const struct device *device, void *unused) {
  (void)unused;
  if (uart_irq_update(device) && uart_irq_rx_ready(device)) {
    drain();
    k_sem_give(&arrived);
  }
}

static int open_line(void) {
  if (uart_irq_callback_user_data_set(line, on_interrupt, NULL) != 0) {
    return -1;
  }
  uart_irq_rx_enable(line);
  return 0;
}

/* A byte that came while the interrupt was off raises none later on some UARTs, so the line is also looked at now and then. */
static size_t read_some(uint8_t *to, size_t n) {
  const uint32_t got = ring_buf_get(&received, to, (uint32_t)n);
  if (got == 0) {
    (void)k_sem_take(&arrived, K_MSEC(5));
    const unsigned int key = irq_lock();
    uart_irq_rx_enable(line);
    drain();
    irq_unlock(key);
  }
  return got;
}

#else

static int open_line(void) { return 0; }

static size_t read_some(uint8_t *to, size_t n) {
  size_t got = 0;
  while (got < n && uart_poll_in(line, to + got) == 0) {
    got++;
  }
  if (got == 0 && IS_ENABLED(CONFIG_ARCH_POSIX)) {
    k_usleep(100); /* native_sim's time stands still while a program runs */
  }
  return got;
}

#endif

int port_open(void) {
  if (!device_is_ready(line)) {
    return -1;
  }
  return open_line();
}

int port_read(void *destination, size_t n) {
  uint8_t *to = (uint8_t *)destination;
  while (n > 0) {
    const size_t got = read_some(to, n);
    to += got;
    n -= got;
  }
  return 0;
}

int port_write(const void *source, size_t n) {
  const uint8_t *from = (const uint8_t *)source;
  while (n-- > 0) {
    uart_poll_out(line, *from++);
  }
  return 0;
}

/* native_sim runs its threads on stacks of the host, which Zephyr does not see. */
uint32_t port_stack_size(void) { return IS_ENABLED(CONFIG_ARCH_POSIX) ? 0u : (uint32_t)CONFIG_MAIN_STACK_SIZE; }

static size_t never_used(void) {
  size_t unused = 0;
  return k_thread_stack_space_get(k_current_get(), &unused) == 0 ? unused : 0;
}

uint32_t port_stack_used(void) { return IS_ENABLED(CONFIG_ARCH_POSIX) ? 0u : (uint32_t)(CONFIG_MAIN_STACK_SIZE - never_used()); }

/* Where no guard stops an overflow: every byte down to the last was written. */
int port_stack_overflowed(void) { return !IS_ENABLED(CONFIG_ARCH_POSIX) && never_used() == 0; }
