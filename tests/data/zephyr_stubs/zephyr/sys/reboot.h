/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_ZEPHYR_SYS_REBOOT_H
#define STUB_ZEPHYR_SYS_REBOOT_H

#define SYS_REBOOT_COLD 1
void sys_reboot(int type);

#endif
