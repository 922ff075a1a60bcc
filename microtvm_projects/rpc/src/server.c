/* SPDX-License-Identifier: Apache-2.0 */
/* The dispatcher: one packet in, one packet out. */
#include "server.h"

#include <string.h>

#include "error.h"

enum {
  CODE_SHUTDOWN = 1,
  CODE_INIT = 2,
  CODE_CALL = 3,
  CODE_COPY_FROM = 6,
  CODE_COPY_TO = 7,
  CODE_GET_FUNCTION = 9,
  CODE_FREE_HANDLE = 10,
  CODE_SET_DEVICE = 11,
  CODE_GET_ATTRIBUTE = 12,
  CODE_FREE_DATA = 14,
  CODE_SYNC = 15,
  CODE_COPY_AMONG = 16,
  CODE_ALLOC_WITH_SCOPE = 17
};

static const char protocol_version[] = "0.8.0";

server_t tiny_rpc_server;

static void reset_session(server_t *s) {
  arena_reset(&s->arena, s->config->arena, (uint32_t)s->config->arena_size);
  forget_handles(s);
  s->result_block = NULL;
}

static void reply_one(server_t *s, int32_t type, uint64_t bits) {
  tiny_rpc_value_t value = {TINY_RPC_NONE, 0, {0}};
  value.type_index = type;
  value.v.u64 = bits;
  reply_values(s, &value, 1);
}

static void reply_none(server_t *s) { reply_one(s, TINY_RPC_NONE, 0); }

/* ---- packets whose body is not a packed sequence ----------------------------------------------------------------------------- */

static int32_t do_init(server_t *s) {
  char version[16] = {0};
  uint64_t size;
  if (read_u64(s, &size) != 0) return -1;
  if (size >= sizeof(version)) return tiny_rpc_fail(PROTOCOL_ERROR "a version of %u characters", (uint32_t)size);
  if (read_bytes(s, version, size) != 0 || read_arguments(s) != 0) return -1;
  if (!same_text(version, protocol_version))
    return tiny_rpc_fail(PROTOCOL_ERROR "the client speaks version %s, not %s", version, protocol_version);
  if (s->num_args != 0) return tiny_rpc_fail(VALUE_ERROR "no session arguments here");
  reset_session(s);
  reply_none(s);
  return 0;
}

static int32_t read_copy(server_t *s, uint8_t **at, uint64_t *bytes) {
  tiny_rpc_tensor_t tensor;
  uint64_t whole;
  s->scratch_used = 0;
  if (read_tensor(s, &tensor) != 0 || read_u64(s, bytes) != 0 || tensor_bytes(&tensor, &whole) != 0) return -1;
  uint64_t address = (uintptr_t)tensor.data;
  if (*bytes > whole) return tiny_rpc_fail(VALUE_ERROR "a copy longer than its tensor");
  if (tensor.byte_offset > s->arena.size || !arena_holds(&s->arena, address, tensor.byte_offset + *bytes))
    return tiny_rpc_fail(VALUE_ERROR "a copy outside live device memory");
  *at = (uint8_t *)tensor.data + tensor.byte_offset;
  return 0;
}

static int32_t do_copy_to(server_t *s) {
  uint8_t *at;
  uint64_t bytes;
  if (read_copy(s, &at, &bytes) != 0) return -1;
  if (s->left != bytes) return tiny_rpc_fail(PROTOCOL_ERROR "a copy as long as its packet is not");
  if (read_bytes(s, at, bytes) != 0 || read_end(s) != 0) return -1;
  reply_none(s);
  return 0;
}

static int32_t do_copy_from(server_t *s) {
  uint8_t *at;
  uint64_t bytes;
  if (read_copy(s, &at, &bytes) != 0 || read_end(s) != 0) return -1;
  reply_copy(s, at, bytes);
  return 0;
}

static void reply_result(server_t *s, const tiny_rpc_value_t *result) {
  tiny_rpc_value_t values[2] = {{TINY_RPC_INT, 0, {0}}, *result};
  values[0].v.i64 = result->type_index;
  if (result->type_index == TINY_RPC_BYTE_ARRAY) values[0].v.i64 = TINY_RPC_BYTES;
  if (result->type_index == TINY_RPC_FUNCTION || result->type_index == TINY_RPC_MODULE) values[1].type_index = TINY_RPC_POINTER;
  reply_values(s, values, 2);
}

static int32_t do_call(server_t *s) {
  uint64_t handle;
  tiny_rpc_value_t result;
  memset(&result, 0, sizeof(result));
  if (read_u64(s, &handle) != 0 || read_arguments(s) != 0) return -1;
  int32_t failed = call_handle(s, handle, &result);
  if (failed == 0) reply_result(s, &result);
  if (s->result_block != NULL) (void)arena_free(&s->arena, (uintptr_t)s->result_block);
  s->result_block = NULL;
  return failed;
}

/* ---- system calls: packed sequence in, one value out ------------------------------------------------------------------------- */

/* Whether the arguments begin with these types, one letter each: d device, p pointer, t tensor, s string, i integer, ? anything. */
static bool arguments_are(const server_t *s, const char *types) {
  for (int32_t i = 0; types[i] != 0; ++i) {
    if (i >= s->num_args) return false;
    int32_t type = s->args[i].type_index;
    bool right = types[i] == '?' || (types[i] == 'd' && type == TINY_RPC_DEVICE) || (types[i] == 'p' && type == TINY_RPC_POINTER) ||
                 (types[i] == 't' && type == TINY_RPC_TENSOR) || (types[i] == 's' && type == TINY_RPC_STRING) ||
                 (types[i] == 'i' && type == TINY_RPC_INT);
    if (!right) return false;
  }
  return true;
}

static int32_t bad_arguments(uint32_t code) { return tiny_rpc_fail(PROTOCOL_ERROR "wrong arguments of call %u", code); }

static int32_t get_function(server_t *s) {
  if (!arguments_are(s, "s")) return bad_arguments(CODE_GET_FUNCTION);
  uint32_t index = find_function(s->args[0].v.string);
  reply_one(s, TINY_RPC_POINTER, index == NO_FUNCTION ? 0 : function_handle(s, index));
  return 0;
}

static int32_t alloc(server_t *s) {
  uint64_t bytes;
  if (!arguments_are(s, "t?")) return bad_arguments(CODE_ALLOC_WITH_SCOPE);
  const tiny_rpc_value_t *scope = &s->args[1];
  bool global = scope->type_index == TINY_RPC_NONE ||
                (scope->type_index == TINY_RPC_STRING && (scope->v.string[0] == 0 || same_text(scope->v.string, "global")));
  if (!global) return tiny_rpc_fail(VALUE_ERROR "the only scope is global");
  if (tensor_bytes(s->args[0].v.tensor, &bytes) != 0) return -1;
  void *at = arena_alloc(&s->arena, bytes);
  if (at == NULL) {
    arena_state_t state = arena_state(&s->arena);
    if (!state.sound) return tiny_rpc_fail(arena_is_damaged);
    return tiny_rpc_fail(MEMORY_ERROR "no %u bytes in one piece (%u of %u free)", (uint32_t)bytes, state.free_bytes, s->arena.size);
  }
  reply_one(s, TINY_RPC_POINTER, (uintptr_t)at);
  return 0;
}

static int32_t free_data(server_t *s) {
  if (!arguments_are(s, "dp")) return bad_arguments(CODE_FREE_DATA);
  if (!arena_free(&s->arena, s->args[1].v.u64)) return tiny_rpc_fail(VALUE_ERROR "freeing what is not allocated");
  reply_none(s);
  return 0;
}

static int32_t copy_among(server_t *s) {
  uint64_t from_bytes, to_bytes;
  if (!arguments_are(s, "tt")) return bad_arguments(CODE_COPY_AMONG);
  const tiny_rpc_tensor_t *from = s->args[0].v.tensor, *to = s->args[1].v.tensor;
  if (check_memory(s, from) != 0 || check_memory(s, to) != 0) return -1;
  if (tensor_bytes(from, &from_bytes) != 0 || tensor_bytes(to, &to_bytes) != 0) return -1;
  if (from_bytes != to_bytes) return tiny_rpc_fail(VALUE_ERROR "a copy from %u to %u bytes", (uint32_t)from_bytes, (uint32_t)to_bytes);
  uint8_t *target = (uint8_t *)to->data + to->byte_offset;
  const uint8_t *source = (const uint8_t *)from->data + from->byte_offset;
  bool apart = (uintptr_t)target + to_bytes <= (uintptr_t)source || (uintptr_t)source + to_bytes <= (uintptr_t)target;
  if (!apart) return tiny_rpc_fail(VALUE_ERROR "a copy between tensors that overlap"); /* two views of one allocation */
  memcpy(target, source, (size_t)to_bytes);
  reply_none(s);
  return 0;
}

static int32_t free_a_handle(server_t *s) {
  if (!arguments_are(s, "p")) return bad_arguments(CODE_FREE_HANDLE);
  free_handle(s, s->args[0].v.u64);
  reply_none(s);
  return 0;
}

/* kDLAttr 0 asks whether the device exists; nothing else is known of a core. */
static int32_t get_attribute(server_t *s) {
  if (!arguments_are(s, "di")) return bad_arguments(CODE_GET_ATTRIBUTE);
  bool exists = s->args[0].v.device.type == 1 && s->args[0].v.device.id == 0;
  if (s->args[1].v.i64 == 0) reply_one(s, TINY_RPC_INT, exists ? 1 : 0);
  else reply_none(s);
  return 0;
}

static int32_t do_system_call(server_t *s, uint32_t code) {
  if (read_arguments(s) != 0) return -1;
  switch (code) {
    case CODE_GET_FUNCTION: return get_function(s);
    case CODE_FREE_HANDLE: return free_a_handle(s);
    case CODE_GET_ATTRIBUTE: return get_attribute(s);
    case CODE_FREE_DATA: return free_data(s);
    case CODE_COPY_AMONG: return copy_among(s);
    case CODE_ALLOC_WITH_SCOPE: return alloc(s);
    case CODE_SET_DEVICE:
    case CODE_SYNC: reply_none(s); return 0;
    default: return tiny_rpc_fail(PROTOCOL_ERROR "code %u is not supported", code);
  }
}

/* ---- packets ------------------------------------------------------------------------------------------------------------------ */

static int32_t handle_packet(server_t *s) {
  uint32_t code;
  uint64_t length;
  s->left = sizeof(length);
  if (read_u64(s, &length) != 0 || length < 4) return tiny_rpc_fail(PROTOCOL_ERROR "a packet without a code");
  s->left = length;
  if (read_u32(s, &code) != 0) return -1;
  switch (code) {
    case CODE_INIT: return do_init(s);
    case CODE_CALL: return do_call(s);
    case CODE_COPY_FROM: return do_copy_from(s);
    case CODE_COPY_TO: return do_copy_to(s);
    case CODE_SHUTDOWN:
      reset_session(s);
      link_finish(&s->link); /* TVM has no answer to it; on the line an empty one says that it was heard */
      return 0;
    default: return do_system_call(s, code);
  }
}

int tiny_rpc_serve(const tiny_rpc_config_t *config) {
  server_t *s = &tiny_rpc_server;
  bool usable = config->port.get != NULL && config->port.put != NULL && config->arena != NULL && (uintptr_t)config->arena % 16u == 0 &&
                config->arena_size >= 32 && config->arena_size % 16u == 0 && config->arena_size <= 0x7FFFFFFFu &&
                config->num_functions <= 4000;
  if (!usable) return -1;
  s->config = config;
  link_init(&s->link, &config->port, (uint32_t)config->arena_size);
  reset_session(s);
  while (s->link.state != LINK_CLOSED) {
    bool message = link_next_message(&s->link);
    if (s->link.synchronised) reset_session(s);
    s->link.synchronised = false;
    if (!message || handle_packet(s) == 0) continue;
    link_drain(&s->link);
    reply_exception(s);
  }
  return 0;
}
