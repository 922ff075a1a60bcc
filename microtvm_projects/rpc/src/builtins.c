/* SPDX-License-Identifier: Apache-2.0 */
/* Global functions under the names that TVM's client and its RPCRunner ask for, and two about the arena. */
#include <string.h>

#include "error.h"
#include "server.h"

/* Packets of any length are taken as they come; this only spares the client a question before each copy. */
static int32_t max_packet(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)self, (void)args, (void)num_args;
  result->type_index = TINY_RPC_INT;
  result->v.i64 = 1 << 30;
  return 0;
}

static int32_t system_library(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)self;
  if (num_args > 1 || (num_args == 1 && (args[0].type_index != TINY_RPC_STRING || args[0].v.string[0] != 0)))
    return tiny_rpc_fail(VALUE_ERROR "the system library has no prefix");
  result->type_index = TINY_RPC_MODULE;
  result->v.u64 = library_handle(&tiny_rpc_server);
  return 0;
}

/* The index of a function of the image, or NO_FUNCTION. */
static uint32_t image_function(const char *name) {
  uint32_t index = find_function(name);
  return index < NUM_BUILTINS ? (uint32_t)NO_FUNCTION : index;
}

static bool is_library(const tiny_rpc_value_t *value) {
  return value->type_index == TINY_RPC_MODULE && value->v.u64 == library_handle(&tiny_rpc_server);
}

static int32_t module_function(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)self;
  if (num_args < 2 || !is_library(&args[0]) || args[1].type_index != TINY_RPC_STRING)
    return tiny_rpc_fail(TYPE_ERROR "a module function needs the system library and a name");
  uint32_t index = image_function(args[1].v.string);
  if (index == NO_FUNCTION) return 0;
  result->type_index = TINY_RPC_FUNCTION;
  result->v.u64 = function_handle(&tiny_rpc_server, index);
  return 0;
}

/* Copy 6 integers from args[2..], none negative; `cache_flush` is the seventh. */
static int32_t evaluator_numbers(const tiny_rpc_value_t *args, evaluator_t *evaluator) {
  int32_t *const fields[7] = {&evaluator->number,      &evaluator->repeat,     &evaluator->min_repeat_ms, &evaluator->limit_zero_time,
                              &evaluator->cooldown_ms, &evaluator->repeats_to_cooldown, NULL};
  for (int i = 0; i < 7; ++i) {
    const tiny_rpc_value_t *value = &args[4 + i];
    if (value->type_index != TINY_RPC_INT || value->v.i64 < 0 || value->v.i64 > 1000000000)
      return tiny_rpc_fail(VALUE_ERROR "argument %d is not an integer in [0, 10^9]", 4 + i);
    if (fields[i] != NULL) *fields[i] = (int32_t)value->v.i64;
  }
  if (evaluator->number == 0 || evaluator->repeat == 0) return tiny_rpc_fail(VALUE_ERROR "number and repeat start at 1");
  if (args[10].v.i64 != 0) return tiny_rpc_fail(VALUE_ERROR "no cache can be flushed here");
  return 0;
}

static int32_t evaluator_functions(const tiny_rpc_value_t *args, evaluator_t *evaluator) {
  if (args[0].type_index != TINY_RPC_NONE && !is_library(&args[0])) return tiny_rpc_fail(TYPE_ERROR "only the system library can be timed");
  if (args[1].type_index != TINY_RPC_STRING || args[11].type_index != TINY_RPC_STRING)
    return tiny_rpc_fail(TYPE_ERROR "functions are timed by name");
  evaluator->function = image_function(args[1].v.string);
  if (evaluator->function == NO_FUNCTION) return tiny_rpc_fail(ATTRIBUTE_ERROR "no function %s", args[1].v.string);
  bool prepared = args[11].v.string[0] != 0;
  evaluator->prepare = prepared ? image_function(args[11].v.string) : (uint32_t)NO_FUNCTION;
  if (prepared && evaluator->prepare == NO_FUNCTION) return tiny_rpc_fail(ATTRIBUTE_ERROR "no function %s", args[11].v.string);
  return 0;
}

/* (module, name, device type, device id, number, repeat, min_repeat_ms, limit_zero_time_iterations, cooldown_interval_ms,
 * repeats_to_cooldown, cache_flush_bytes, f_preproc) -> function */
static int32_t time_evaluator(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)self;
  server_t *s = &tiny_rpc_server;
  evaluator_t made;
  memset(&made, 0, sizeof(made));
  if (s->config->port.cycles == NULL || s->config->port.cycles_hz == 0) return tiny_rpc_fail(RUNTIME_ERROR "no cycle counter here");
  if (num_args != 12) return tiny_rpc_fail(TYPE_ERROR "12 arguments time a function, not %d", num_args);
  if (evaluator_functions(args, &made) != 0 || evaluator_numbers(args, &made) != 0) return -1;
  uint32_t slot = 0;
  while (slot < TINY_RPC_MAX_EVALUATORS && s->evaluators[slot].live) ++slot;
  if (slot == TINY_RPC_MAX_EVALUATORS) return tiny_rpc_fail(RUNTIME_ERROR "%u time evaluators are alive", slot);
  made.live = true;
  made.uses = (uint16_t)(s->evaluators[slot].uses + 1u);
  s->evaluators[slot] = made;
  result->type_index = TINY_RPC_FUNCTION;
  result->v.u64 = evaluator_handle(s, slot);
  return 0;
}

/* Reproducible values small enough for every dtype: bytes 1 and 0, except that floats and wider integers get ones. */
static int32_t random_fill(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  static uint32_t state = 1;
  uint64_t bytes;
  (void)self, (void)result;
  if (num_args != 1 || args[0].type_index != TINY_RPC_TENSOR) return tiny_rpc_fail(TYPE_ERROR "random_fill takes one tensor");
  const tiny_rpc_tensor_t *tensor = args[0].v.tensor;
  if (tensor_bytes(tensor, &bytes) != 0) return -1;
  uint8_t *at = (uint8_t *)tensor->data + tensor->byte_offset;
  bool is_float = tensor->dtype.code == TINY_RPC_CODE_FLOAT;
  uint32_t element = (tensor->dtype.bits + 7u) / 8u;
  for (uint32_t i = 0; i < (uint32_t)bytes; ++i) {
    state = state * 1664525u + 1013904223u;
    uint8_t noise = (uint8_t)(state >> 24);
    /* Floats: random mantissa and sign; exponent bits of the top byte chosen so that no value is denormal, infinite or NaN. */
    bool top = (i + 1u) % element == 0;
    at[i] = !is_float ? noise : top ? (uint8_t)((noise & 0x80u) | 0x3Cu) : noise;
    if (tensor->dtype.code == TINY_RPC_CODE_BOOL) at[i] &= 1u;
  }
  return 0;
}

const char arena_is_damaged[] = MEMORY_ERROR "a function wrote past its tensors; begin a new session";

static int32_t arena_number(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)args, (void)num_args;
  arena_state_t state = arena_state(&tiny_rpc_server.arena);
  if (!state.sound) return tiny_rpc_fail(arena_is_damaged);
  result->type_index = TINY_RPC_INT;
  result->v.i64 = self != NULL ? state.live_blocks : state.free_bytes;
  return 0;
}

/* Time evaluation gives seconds; this turns them into cycles again. */
static int32_t cycles_hz(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  (void)self, (void)args, (void)num_args;
  result->type_index = TINY_RPC_INT;
  result->v.i64 = tiny_rpc_server.config->port.cycles_hz;
  return 0;
}

static char live_blocks_tag;

const tiny_rpc_function_t tiny_rpc_builtins[NUM_BUILTINS] = {
    {"tvm.rpc.server.GetCRTMaxPacketSize", max_packet, NULL},
    {"ffi.SystemLib", system_library, NULL},
    {"tvm.rpc.server.ModuleGetFunction", module_function, NULL},
    {"runtime.RPCTimeEvaluator", time_evaluator, NULL},
    {"tvm.contrib.random.random_fill_for_measure", random_fill, NULL},
    {"tvm.contrib.random.random_fill", random_fill, NULL},
    {"tiny_rpc.arena_free_bytes", arena_number, NULL},
    {"tiny_rpc.arena_live_blocks", arena_number, &live_blocks_tag},
    {"tiny_rpc.cycles_hz", cycles_hz, NULL},
};
