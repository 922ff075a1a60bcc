/* SPDX-License-Identifier: Apache-2.0 */
/* Functions by name and by handle. A handle is kind (4 bits), session (12 bits) and index (16 bits): one of an older session or of a
 * freed evaluator is refused. */
#include <string.h>

#include "error.h"
#include "server.h"

enum { KIND_FUNCTION = 1, KIND_EVALUATOR = 2, KIND_LIBRARY = 3, SLOT_BITS = 4 };

typedef char evaluators_fit_a_handle[TINY_RPC_MAX_EVALUATORS <= (1 << SLOT_BITS) ? 1 : -1];

static const tiny_rpc_function_t *function_at(uint32_t index) {
  if (index < NUM_BUILTINS) return &tiny_rpc_builtins[index];
  return &tiny_rpc_server.config->functions[index - NUM_BUILTINS];
}

static uint32_t num_functions(void) { return NUM_BUILTINS + tiny_rpc_server.config->num_functions; }

uint32_t find_function(const char *name) {
  for (uint32_t i = 0; i < num_functions(); ++i)
    if (same_text(function_at(i)->name, name)) return i;
  return NO_FUNCTION;
}

static uint64_t handle(const server_t *s, uint32_t kind, uint32_t index) {
  return kind << 28 | (s->generation & 0xFFFu) << 16 | index;
}

uint64_t function_handle(const server_t *s, uint32_t index) { return handle(s, KIND_FUNCTION, index); }
uint64_t library_handle(const server_t *s) { return handle(s, KIND_LIBRARY, 0); }

uint64_t evaluator_handle(const server_t *s, uint32_t slot) {
  return handle(s, KIND_EVALUATOR, (uint32_t)(s->evaluators[slot].uses & 0xFFFu) << SLOT_BITS | slot);
}

/* The evaluator of a handle, or NULL. */
static evaluator_t *evaluator_of(server_t *s, uint64_t wanted) {
  uint32_t slot = (uint32_t)wanted & ((1u << SLOT_BITS) - 1u);
  if (slot >= TINY_RPC_MAX_EVALUATORS || !s->evaluators[slot].live) return NULL;
  return evaluator_handle(s, slot) == wanted ? &s->evaluators[slot] : NULL;
}

void free_handle(server_t *s, uint64_t wanted) {
  evaluator_t *evaluator = evaluator_of(s, wanted);
  if (evaluator != NULL) evaluator->live = false;
}

void forget_handles(server_t *s) {
  ++s->generation;
  for (uint32_t i = 0; i < TINY_RPC_MAX_EVALUATORS; ++i) s->evaluators[i].live = false;
}

/* Functions of the image take numbers, strings, byte arrays and tensors; never an address or a handle that a host made up. */
static int32_t check_result(const char *name, const tiny_rpc_value_t *result) {
  switch (result->type_index) {
    case TINY_RPC_STRING:
      if (result->v.string != NULL) return 0;
      break;
    case TINY_RPC_BYTE_ARRAY:
      if (result->v.bytes != NULL) return 0;
      break;
    case TINY_RPC_NONE:
    case TINY_RPC_INT:
    case TINY_RPC_BOOL:
    case TINY_RPC_FLOAT:
    case TINY_RPC_DTYPE:
    case TINY_RPC_DEVICE: return 0;
    default: break;
  }
  return tiny_rpc_fail(TYPE_ERROR "%s returned type %d, which can't leave the device", name, result->type_index);
}

static int32_t check_arguments(const char *name, const tiny_rpc_value_t *args, int32_t num_args) {
  for (int32_t i = 0; i < num_args; ++i) {
    int32_t type = args[i].type_index;
    if (type == TINY_RPC_POINTER || type == TINY_RPC_FUNCTION || type == TINY_RPC_MODULE)
      return tiny_rpc_fail(TYPE_ERROR "argument %d of %s is a handle", i, name);
  }
  return 0;
}

int32_t call_function(uint32_t index, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result) {
  const tiny_rpc_function_t *function = function_at(index);
  memset(result, 0, sizeof(*result));
  if (index < NUM_BUILTINS) return function->call(function->self, args, num_args, result);
  if (check_arguments(function->name, args, num_args) != 0) return -1;
  (void)tiny_rpc_fail(RUNTIME_ERROR "%s failed", function->name); /* unless it says more itself */
  if (function->call(function->self, args, num_args, result) != 0) return -1;
  return check_result(function->name, result);
}

int32_t call_handle(server_t *s, uint64_t wanted, tiny_rpc_value_t *result) {
  evaluator_t *evaluator = evaluator_of(s, wanted);
  for (int32_t i = 0; i < s->num_args; ++i)
    if (s->args[i].type_index == TINY_RPC_TENSOR && check_memory(s, s->args[i].v.tensor) != 0) return -1;
  if (evaluator != NULL) return evaluator_run(s, evaluator, result);
  uint32_t index = (uint32_t)wanted & 0xFFFFu;
  if (index < num_functions() && function_handle(s, index) == wanted) return call_function(index, s->args, s->num_args, result);
  return tiny_rpc_fail(VALUE_ERROR "no function of this session");
}
