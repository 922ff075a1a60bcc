/* SPDX-License-Identifier: Apache-2.0 */
/* Functions for the tests of the RPC server: every kind of argument and result, and every way to go wrong. */
#include <string.h>

#include "tiny_rpc.h"

static int32_t count_calls(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)args, (void)n;
  result->type_index = TINY_RPC_INT;
  result->v.i64 = ++*(int64_t *)self;
  return 0;
}

static int32_t sum(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self;
  result->type_index = TINY_RPC_INT;
  for (int32_t i = 0; i < n; ++i) {
    if (args[i].type_index != TINY_RPC_INT && args[i].type_index != TINY_RPC_BOOL) return tiny_rpc_fail("TypeError: argument %d is no integer", i);
    result->v.i64 += args[i].v.i64;
  }
  return 0;
}

static int32_t echo(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self;
  if (n != 1 || args[0].type_index == TINY_RPC_TENSOR) return tiny_rpc_fail("TypeError: echo takes one value, no tensor");
  *result = args[0];
  return 0;
}

static int32_t add_int8(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  static const int32_t shape[1] = {64};
  static const tiny_rpc_tensor_spec_t specs[3] = {
      {"a", {TINY_RPC_CODE_INT, 8, 1}, 1, 1, shape}, {"b", {TINY_RPC_CODE_INT, 8, 1}, 1, 1, shape}, {"c", {TINY_RPC_CODE_INT, 8, 1}, 1, 4, shape}};
  void *data[3];
  (void)self, (void)result;
  if (tiny_rpc_check_tensors("add_int8", specs, 3, args, n, data) != 0) return -1;
  for (int i = 0; i < 64; ++i) ((int8_t *)data[2])[i] = (int8_t)(((int8_t *)data[0])[i] + ((int8_t *)data[1])[i]);
  return 0;
}

static int32_t fail(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self, (void)args, (void)result;
  return tiny_rpc_fail("ValueError: asked to fail with %d arguments", n);
}

static int32_t fail_silently(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self, (void)args, (void)n, (void)result;
  return -1;
}

static int32_t hang(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self, (void)args, (void)n, (void)result;
  for (volatile int forever = 1; forever;) {
  }
  return 0;
}

/* Burn args[0] steps of a loop. */
static int32_t spin(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self, (void)result;
  if (n != 1 || args[0].type_index != TINY_RPC_INT) return tiny_rpc_fail("TypeError: spin takes a count");
  for (volatile int64_t i = 0; i < args[0].v.i64; i = i + 1) {
  }
  return 0;
}

/* A tensor's bytes past its end: the header of the arena's next block. */
static int32_t overrun(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self, (void)result;
  if (n != 1 || args[0].type_index != TINY_RPC_TENSOR) return tiny_rpc_fail("TypeError: overrun takes a tensor");
  memset((uint8_t *)args[0].v.tensor->data + args[0].v.tensor->shape[0], 0xAA, 16);
  return 0;
}

static int64_t calls;

const tiny_rpc_function_t tiny_rpc_functions[] = {
    {"count_calls", count_calls, &calls}, {"sum", sum, NULL},   {"echo", echo, NULL}, {"add_int8", add_int8, NULL},
    {"fail", fail, NULL},                 {"fail_silently", fail_silently, NULL},     {"hang", hang, NULL},
    {"spin", spin, NULL},                 {"overrun", overrun, NULL},
};
const uint32_t tiny_rpc_num_functions = sizeof(tiny_rpc_functions) / sizeof(tiny_rpc_functions[0]);
