/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

static int32_t check_shape(const char *function, const tiny_rpc_tensor_spec_t *spec, const tiny_rpc_tensor_t *tensor) {
  if (tensor->ndim != spec->ndim)
    return tiny_rpc_fail(VALUE_ERROR "%s: %s has %d dimensions, not %d", function, spec->name, (int32_t)spec->ndim, tensor->ndim);
  for (int32_t i = 0; i < spec->ndim; ++i) {
    int32_t want = spec->shape[i], have = (int32_t)tensor->shape[i];
    if (have != want) return tiny_rpc_fail(VALUE_ERROR "%s: dimension %d of %s is %d, not %d", function, i, spec->name, want, have);
  }
  return 0;
}

static int32_t check_tensor(const char *function, const tiny_rpc_tensor_spec_t *spec, const tiny_rpc_value_t *value, void **data) {
  if (value->type_index != TINY_RPC_TENSOR) return tiny_rpc_fail(TYPE_ERROR "%s: %s is a tensor", function, spec->name);
  const tiny_rpc_tensor_t *tensor = value->v.tensor;
  const tiny_rpc_dtype_t *want = &spec->dtype, *have = &tensor->dtype;
  if (have->code != want->code || have->bits != want->bits || have->lanes != want->lanes)
    return tiny_rpc_fail(TYPE_ERROR "%s: %s has dtype %u:%u, not %u:%u (code:bits)", function, spec->name, (uint32_t)want->code,
                         (uint32_t)want->bits, (uint32_t)have->code, (uint32_t)have->bits);
  if (check_shape(function, spec, tensor) != 0) return -1;
  *data = (uint8_t *)tensor->data + tensor->byte_offset;
  if (spec->alignment > 1 && (uintptr_t)*data % spec->alignment != 0)
    return tiny_rpc_fail(VALUE_ERROR "%s: %s is not aligned to %d bytes", function, spec->name, (int32_t)spec->alignment);
  return 0;
}

int32_t tiny_rpc_check_tensors(const char *function, const tiny_rpc_tensor_spec_t *specs, int32_t num_specs,
                               const tiny_rpc_value_t *args, int32_t num_args, void **data) {
  if (num_args != num_specs) return tiny_rpc_fail(TYPE_ERROR "%s takes %d tensors, not %d arguments", function, num_specs, num_args);
  for (int32_t i = 0; i < num_specs; ++i)
    if (check_tensor(function, &specs[i], &args[i], &data[i]) != 0) return -1;
  return 0;
}
