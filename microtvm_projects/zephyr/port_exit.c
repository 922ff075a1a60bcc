/* SPDX-License-Identifier: Apache-2.0 */
/* End of a session: the process or emulator ends; a board restarts, and is ready for the next session. */
#include <zephyr/kernel.h>

#include "port.h"

#if defined(CONFIG_ARCH_POSIX)

#include <posix_board_if.h>

void port_exit(int code) {
  posix_exit(code);
  for (;;) {
  }
}

#elif defined(CONFIG_TINY_EXIT_SEMIHOSTING)

#include "semihosting.h"

void port_exit(int code) {
  const uint32_t arguments[2] = {ADP_STOPPED_APPLICATION_EXIT, (uint32_t)code};
  (void)semihosting_call(SYS_EXIT_EXTENDED, arguments);
  for (;;) {
  }
}

#else

#include <zephyr/sys/reboot.h>

/* The last byte may still be in the UART: 20 ms are many characters even at 9600 baud. */
void port_exit(int code) {
  (void)code;
  k_busy_wait(20000);
  sys_reboot(SYS_REBOOT_COLD);
  for (;;) {
  }
}

#endif
