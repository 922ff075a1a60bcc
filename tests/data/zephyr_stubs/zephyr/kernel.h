/* SPDX-License-Identifier: Apache-2.0 */
/* Declarations of Zephyr's API that the template uses, for compiling it without Zephyr. */
#ifndef STUB_ZEPHYR_KERNEL_H
#define STUB_ZEPHYR_KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  int64_t ticks;
} k_timeout_t;
struct k_thread {
  struct {
    uintptr_t start;
    size_t size;
  } stack_info;
};
typedef struct k_thread *k_tid_t;
struct k_sem {
  int unused;
};

/* 1 when the option is defined as 1, else 0: a comma appears before the 1 only then. */
#define STUB_COMMA_1 ,
#define STUB_SECOND(first, second, ...) second
#define STUB_ENABLED2(comma) STUB_SECOND(comma 1, 0, 0)
#define STUB_ENABLED1(value) STUB_ENABLED2(STUB_COMMA_##value)
#define IS_ENABLED(option) STUB_ENABLED1(option)
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define K_MSEC(n) ((k_timeout_t){(n)})
#define K_SEM_DEFINE(name, initial, limit) struct k_sem name
int k_sem_take(struct k_sem *sem, k_timeout_t timeout);
void k_sem_give(struct k_sem *sem);
int32_t k_usleep(int32_t us);
void k_busy_wait(uint32_t us);
unsigned int irq_lock(void);
void irq_unlock(unsigned int key);
k_tid_t k_current_get(void);
int k_thread_stack_space_get(const struct k_thread *thread, size_t *unused);
uint32_t k_cycle_get_32(void);
int sys_clock_hw_cycles_per_sec(void);

#endif
