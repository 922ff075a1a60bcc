/* SPDX-License-Identifier: Apache-2.0 */
/* TVM's packets: readers that believe nothing, writers. Layouts in docs/rpc.md. */
#include <string.h>

#include "error.h"
#include "little_endian.h"
#include "server.h"

enum { CODE_RETURN = 4, CODE_EXCEPTION = 5, CODE_COPY_ACK = 8 };

/* ---- reading --------------------------------------------------------------------------------------------------------------- */

int32_t read_bytes(server_t *s, void *to, uint64_t count) {
  if (count > s->left || !link_read(&s->link, to, (size_t)count))
    return tiny_rpc_fail(PROTOCOL_ERROR "the packet is too short");
  s->left -= count;
  return 0;
}

int32_t read_u32(server_t *s, uint32_t *value) {
  uint8_t bytes[4];
  if (read_bytes(s, bytes, sizeof(bytes)) != 0) return -1;
  *value = load_u32(bytes);
  return 0;
}

int32_t read_u64(server_t *s, uint64_t *value) {
  uint8_t bytes[8];
  if (read_bytes(s, bytes, sizeof(bytes)) != 0) return -1;
  *value = load_u64(bytes);
  return 0;
}

int32_t read_end(server_t *s) {
  if (s->left == 0 && link_at_end(&s->link)) return 0;
  return tiny_rpc_fail(PROTOCOL_ERROR "the packet is too long");
}

static void *scratch(server_t *s, uint64_t bytes) {
  if (bytes > sizeof(s->scratch) - s->scratch_used) {
    (void)tiny_rpc_fail(VALUE_ERROR "arguments of more than %u bytes (TINY_RPC_SCRATCH)", (uint32_t)sizeof(s->scratch));
    return NULL;
  }
  void *at = (uint8_t *)s->scratch + s->scratch_used;
  s->scratch_used += ((uint32_t)bytes + 7u) & ~7u;
  if (s->scratch_used > sizeof(s->scratch)) s->scratch_used = (uint32_t)sizeof(s->scratch);
  return at;
}

static int32_t read_shape(server_t *s, tiny_rpc_tensor_t *tensor) {
  tensor->shape = scratch(s, 8u * (uint64_t)(uint32_t)tensor->ndim);
  if (tensor->shape == NULL) return -1;
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    uint64_t extent;
    if (read_u64(s, &extent) != 0) return -1;
    if (extent > INT32_MAX) return tiny_rpc_fail(VALUE_ERROR "extent of dimension %d not in [0, 2^31)", i);
    tensor->shape[i] = (int64_t)extent;
  }
  return 0;
}

int32_t read_tensor(server_t *s, tiny_rpc_tensor_t *tensor) {
  uint8_t fixed[24];
  if (read_bytes(s, fixed, sizeof(fixed)) != 0) return -1;
  uint64_t address = load_u64(fixed);
  tensor->data = (void *)(uintptr_t)address;
  tensor->device.type = (int32_t)load_u32(fixed + 8);
  tensor->device.id = (int32_t)load_u32(fixed + 12);
  tensor->ndim = (int32_t)load_u32(fixed + 16);
  tensor->dtype = (tiny_rpc_dtype_t){fixed[20], fixed[21], load_u16(fixed + 22)};
  tensor->strides = NULL;
  if (address > UINTPTR_MAX) return tiny_rpc_fail(VALUE_ERROR "an address beyond the device's");
  if (tensor->device.type != 1 || tensor->device.id != 0) return tiny_rpc_fail(VALUE_ERROR "the only device here is cpu(0)");
  if (tensor->ndim < 0 || tensor->ndim > 32) return tiny_rpc_fail(VALUE_ERROR "a tensor of %d dimensions", tensor->ndim);
  if (read_shape(s, tensor) != 0 || read_u64(s, &tensor->byte_offset) != 0) return -1;
  uint64_t bytes;
  return tensor_bytes(tensor, &bytes);
}

int32_t tensor_bytes(const tiny_rpc_tensor_t *tensor, uint64_t *bytes) {
  uint64_t total = ((uint64_t)tensor->dtype.bits * tensor->dtype.lanes + 7u) / 8u;
  if (total == 0) return tiny_rpc_fail(VALUE_ERROR "a dtype of no bits");
  for (int32_t i = 0; i < tensor->ndim; ++i) {
    total *= (uint64_t)tensor->shape[i];
    if (total > UINT32_MAX) return tiny_rpc_fail(VALUE_ERROR "a tensor of more than 2^32 bytes");
  }
  *bytes = total;
  return 0;
}

int32_t check_memory(const server_t *s, const tiny_rpc_tensor_t *tensor) {
  uint64_t bytes, address = (uintptr_t)tensor->data;
  if (tensor_bytes(tensor, &bytes) != 0) return -1;
  if (tensor->byte_offset > s->arena.size || !arena_holds(&s->arena, address, tensor->byte_offset + bytes))
    return tiny_rpc_fail(VALUE_ERROR "a tensor outside live device memory");
  uint32_t element = tensor->dtype.bits / 8u;
  if (element > 1 && (element & (element - 1u)) == 0 && ((address + tensor->byte_offset) & (element - 1u)) != 0)
    return tiny_rpc_fail(VALUE_ERROR "%u-byte elements that are not aligned", element);
  return 0;
}

/* Length-prefixed bytes, kept with a zero behind them. */
static int32_t read_text(server_t *s, tiny_rpc_bytes_t *text) {
  uint64_t size;
  if (read_u64(s, &size) != 0) return -1;
  if (size > s->left) return tiny_rpc_fail(PROTOCOL_ERROR "the packet is too short");
  char *at = scratch(s, size + 1u);
  if (at == NULL || read_bytes(s, at, size) != 0) return -1;
  at[size] = 0;
  *text = (tiny_rpc_bytes_t){at, (size_t)size};
  return 0;
}

static int32_t read_string(server_t *s, tiny_rpc_value_t *value) {
  tiny_rpc_bytes_t text;
  if (read_text(s, &text) != 0) return -1;
  if (memchr(text.data, 0, text.size) != NULL) return tiny_rpc_fail(VALUE_ERROR "a string with a zero byte");
  value->type_index = TINY_RPC_STRING;
  value->v.string = text.data;
  return 0;
}

static int32_t read_byte_array(server_t *s, tiny_rpc_value_t *value) {
  tiny_rpc_bytes_t *bytes = scratch(s, sizeof(*bytes));
  if (bytes == NULL || read_text(s, bytes) != 0) return -1;
  value->type_index = TINY_RPC_BYTE_ARRAY;
  value->v.bytes = bytes;
  return 0;
}

static int32_t read_tensor_argument(server_t *s, tiny_rpc_value_t *value) {
  tiny_rpc_tensor_t *tensor = scratch(s, sizeof(*tensor));
  if (tensor == NULL) return -1;
  value->v.tensor = tensor;
  return read_tensor(s, tensor);
}

/* TVM sends strings and byte arrays as objects with a second type index in front. */
static int32_t read_object(server_t *s, tiny_rpc_value_t *value) {
  uint32_t inner;
  if (read_u32(s, &inner) != 0) return -1;
  if (inner == TINY_RPC_STR) return read_string(s, value);
  if (inner == TINY_RPC_BYTES) return read_byte_array(s, value);
  return tiny_rpc_fail(TYPE_ERROR "an argument of type %u can't be passed", inner);
}

static int32_t read_value(server_t *s, tiny_rpc_value_t *value) {
  uint32_t type, word;
  memset(value, 0, sizeof(*value));
  if (read_u32(s, &type) != 0) return -1;
  value->type_index = (int32_t)type;
  switch (type) {
    case TINY_RPC_NONE: return 0;
    case TINY_RPC_INT:
    case TINY_RPC_BOOL:
    case TINY_RPC_FLOAT:
    case TINY_RPC_POINTER:
    case TINY_RPC_FUNCTION:
    case TINY_RPC_MODULE: return read_u64(s, &value->v.u64);
    case TINY_RPC_DTYPE:
      if (read_bytes(s, &value->v.dtype, 2) != 0 || read_u32(s, &word) != 0) return -1;
      value->v.dtype.lanes = (uint16_t)word;
      return read_bytes(s, &word, 2);
    case TINY_RPC_DEVICE:
      if (read_u32(s, &word) != 0) return -1;
      value->v.device.type = (int32_t)word;
      if (read_u32(s, &word) != 0) return -1;
      value->v.device.id = (int32_t)word;
      return 0;
    case TINY_RPC_TENSOR: return read_tensor_argument(s, value);
    case TINY_RPC_STRING: return read_string(s, value);
    case TINY_RPC_BYTE_ARRAY: return read_byte_array(s, value);
    case TINY_RPC_SMALL_STR:
    case TINY_RPC_SMALL_BYTES:
    case TINY_RPC_STR:
    case TINY_RPC_BYTES: return read_object(s, value);
    default: return tiny_rpc_fail(TYPE_ERROR "an argument of type %u can't be passed", type);
  }
}

int32_t read_arguments(server_t *s) {
  uint32_t count;
  s->num_args = 0;
  s->scratch_used = 0;
  if (read_u32(s, &count) != 0) return -1;
  if (count > TINY_RPC_MAX_ARGS)
    return tiny_rpc_fail(VALUE_ERROR "%u arguments (at most %u: TINY_RPC_MAX_ARGS)", count, (uint32_t)TINY_RPC_MAX_ARGS);
  for (uint32_t i = 0; i < count; ++i)
    if (read_value(s, &s->args[i]) != 0) return -1;
  s->num_args = (int32_t)count;
  return read_end(s);
}

/* ---- writing --------------------------------------------------------------------------------------------------------------- */

static void write_u32(server_t *s, uint32_t value) {
  uint8_t bytes[4];
  store_u32(bytes, value);
  link_write(&s->link, bytes, sizeof(bytes));
}

static void write_u64(server_t *s, uint64_t value) {
  uint8_t bytes[8];
  store_u64(bytes, value);
  link_write(&s->link, bytes, sizeof(bytes));
}

static void begin_packet(server_t *s, uint32_t code, uint64_t body_bytes) {
  write_u64(s, body_bytes + 4u);
  write_u32(s, code);
}

/* In place of strcmp and strlen, which take 950 bytes of flash in newlib. */
bool same_text(const char *a, const char *b) {
  while (*a != 0 && *a == *b) ++a, ++b;
  return *a == *b;
}

static size_t text_length(const char *text) {
  const char *end = text;
  while (*end != 0) ++end;
  return (size_t)(end - text);
}

static tiny_rpc_bytes_t text_of(const tiny_rpc_value_t *value) {
  if (value->type_index == TINY_RPC_BYTE_ARRAY) return *value->v.bytes;
  return (tiny_rpc_bytes_t){value->v.string, text_length(value->v.string)};
}

static bool is_text(const tiny_rpc_value_t *value) {
  return value->type_index == TINY_RPC_STRING || value->type_index == TINY_RPC_BYTE_ARRAY;
}

static uint64_t value_bytes(const tiny_rpc_value_t *value) {
  if (value->type_index == TINY_RPC_NONE) return 4;
  return is_text(value) ? 12u + text_of(value).size : 12u;
}

static void write_value(server_t *s, const tiny_rpc_value_t *value) {
  write_u32(s, (uint32_t)value->type_index);
  if (value->type_index == TINY_RPC_NONE) return;
  if (is_text(value)) {
    tiny_rpc_bytes_t text = text_of(value);
    write_u64(s, text.size);
    link_write(&s->link, text.data, text.size);
  } else if (value->type_index == TINY_RPC_DTYPE) {
    const tiny_rpc_dtype_t *dtype = &value->v.dtype;
    write_u64(s, dtype->code | (uint64_t)dtype->bits << 8 | (uint64_t)dtype->lanes << 16);
  } else if (value->type_index == TINY_RPC_DEVICE) {
    write_u32(s, (uint32_t)value->v.device.type);
    write_u32(s, (uint32_t)value->v.device.id);
  } else {
    write_u64(s, value->v.u64);
  }
}

static void reply(server_t *s, uint32_t code, const tiny_rpc_value_t *values, int32_t count) {
  uint64_t bytes = 4;
  for (int32_t i = 0; i < count; ++i) bytes += value_bytes(&values[i]);
  begin_packet(s, code, bytes);
  write_u32(s, (uint32_t)count);
  for (int32_t i = 0; i < count; ++i) write_value(s, &values[i]);
  link_finish(&s->link);
}

void reply_values(server_t *s, const tiny_rpc_value_t *values, int32_t count) { reply(s, CODE_RETURN, values, count); }

void reply_exception(server_t *s) {
  tiny_rpc_value_t value = {TINY_RPC_STRING, 0, {0}};
  value.v.string = tiny_rpc_error_text();
  reply(s, CODE_EXCEPTION, &value, 1);
}

void reply_copy(server_t *s, const void *from, uint64_t bytes) {
  begin_packet(s, CODE_COPY_ACK, bytes);
  link_write(&s->link, from, (size_t)bytes);
  link_finish(&s->link);
}
