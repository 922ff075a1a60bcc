/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_ZEPHYR_DEVICE_H
#define STUB_ZEPHYR_DEVICE_H

#include <stdbool.h>

struct device {
  int unused;
};
extern const struct device stub_uart;
#define DT_CHOSEN(name) chosen_##name
#define DT_HAS_CHOSEN(name) 1
#define DEVICE_DT_GET(node) (&stub_uart)
bool device_is_ready(const struct device *device);

#endif
