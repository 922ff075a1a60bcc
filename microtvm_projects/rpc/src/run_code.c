/* SPDX-License-Identifier: Apache-2.0 */
/* Code that the host has linked for a place in the arena, and copied there: made visible to instruction fetches, called, timed by name.
 * Only in images whose project asks for it (`run_code`): whoever may call functions there may run anything. */
#include "rpc_code.h"

#include "error.h"

enum { MAX_POINTERS = TINY_RPC_MAX_ARGS - 1, LINE = 32 };

/* Armv7-M ARM B2.2.7, Armv8-M ARM B3.30: cache maintenance; without caches they do nothing. Armv6-M has none. */
#if defined(__ARM_ARCH_7M__) || defined(__ARM_ARCH_7EM__) || defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
#define DCCMVAU (*(volatile uint32_t *)0xE000EF64u)
#define ICIALLU (*(volatile uint32_t *)0xE000EF50u)
#define BPIALL (*(volatile uint32_t *)0xE000EF78u)
static void publish(uintptr_t from, uintptr_t end) {
  __asm volatile("dsb" ::: "memory");
  for (uintptr_t at = from & ~(uintptr_t)(LINE - 1); at < end; at += LINE) DCCMVAU = (uint32_t)at;
  __asm volatile("dsb" ::: "memory");
  ICIALLU = 0;
  BPIALL = 0;
  __asm volatile("dsb\n isb" ::: "memory");
}
#else
static void publish(uintptr_t from, uintptr_t end) { (void)from, (void)end; }
#endif

static uintptr_t first_byte(const tiny_rpc_value_t *value) {
  return (uintptr_t)value->v.tensor->data + (uintptr_t)value->v.tensor->byte_offset;
}

static int32_t check(const char *name, const tiny_rpc_value_t *args, int32_t num_args, int32_t least, int32_t most) {
  if (num_args < least || num_args > most) return tiny_rpc_fail(TYPE_ERROR "%s takes %d to %d tensors, not %d", name, least, most, num_args);
  for (int32_t i = 0; i < num_args; ++i)
    if (args[i].type_index != TINY_RPC_TENSOR) return tiny_rpc_fail(TYPE_ERROR "argument %d of %s is no tensor", i, name);
  return 0;
}

int32_t tiny_rpc_place_of_code(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)self;
  if (check("place_of_code", args, num_args, 1, 1) != 0) return -1;
  const tiny_rpc_tensor_t *code = args[0].v.tensor;
  uint64_t bytes = (code->dtype.bits + 7u) / 8u;
  for (int32_t i = 0; i < code->ndim; ++i) bytes *= (uint64_t)code->shape[i];
  publish(first_byte(&args[0]), first_byte(&args[0]) + (uintptr_t)bytes);
  result->type_index = TINY_RPC_INT;
  result->v.i64 = (int64_t)first_byte(&args[0]);
  return 0;
}

int32_t tiny_rpc_run_code(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  void *pointers[MAX_POINTERS];
  (void)self, (void)result;
  if (check("run_code", args, num_args, 1, MAX_POINTERS + 1) != 0) return -1;
  for (int32_t i = 1; i < num_args; ++i) pointers[i - 1] = (void *)first_byte(&args[i]);
  uintptr_t entry = first_byte(&args[0]);
#ifdef __thumb__
  entry |= 1u;
#endif
  ((void (*)(void **))entry)(pointers);
  return 0;
}
