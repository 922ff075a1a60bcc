/* SPDX-License-Identifier: Apache-2.0 */
/* The server's own declarations against TVM's headers: does not compile when a layout differs. */
#include <stddef.h>
#include <tvm/ffi/c_api.h>

#include "tiny_rpc.h"

#define SAME(what, a, b) typedef char what[(a) == (b) ? 1 : -1]

SAME(tensor_size, sizeof(DLTensor), sizeof(tiny_rpc_tensor_t));
SAME(tensor_data, offsetof(DLTensor, data), offsetof(tiny_rpc_tensor_t, data));
SAME(tensor_device, offsetof(DLTensor, device), offsetof(tiny_rpc_tensor_t, device));
SAME(tensor_ndim, offsetof(DLTensor, ndim), offsetof(tiny_rpc_tensor_t, ndim));
SAME(tensor_dtype, offsetof(DLTensor, dtype), offsetof(tiny_rpc_tensor_t, dtype));
SAME(tensor_shape, offsetof(DLTensor, shape), offsetof(tiny_rpc_tensor_t, shape));
SAME(tensor_strides, offsetof(DLTensor, strides), offsetof(tiny_rpc_tensor_t, strides));
SAME(tensor_offset, offsetof(DLTensor, byte_offset), offsetof(tiny_rpc_tensor_t, byte_offset));
SAME(dtype_size, sizeof(DLDataType), sizeof(tiny_rpc_dtype_t));
SAME(value_size, sizeof(TVMFFIAny), sizeof(tiny_rpc_value_t));
SAME(value_content, offsetof(TVMFFIAny, v_int64), offsetof(tiny_rpc_value_t, v));
SAME(bytes_size, sizeof(TVMFFIByteArray), sizeof(tiny_rpc_bytes_t));
SAME(bytes_length, offsetof(TVMFFIByteArray, size), offsetof(tiny_rpc_bytes_t, size));
SAME(type_int, kTVMFFIInt, TINY_RPC_INT);
SAME(type_bool, kTVMFFIBool, TINY_RPC_BOOL);
SAME(type_float, kTVMFFIFloat, TINY_RPC_FLOAT);
SAME(type_pointer, kTVMFFIOpaquePtr, TINY_RPC_POINTER);
SAME(type_dtype, kTVMFFIDataType, TINY_RPC_DTYPE);
SAME(type_device, kTVMFFIDevice, TINY_RPC_DEVICE);
SAME(type_tensor, kTVMFFIDLTensorPtr, TINY_RPC_TENSOR);
SAME(type_string, kTVMFFIRawStr, TINY_RPC_STRING);
SAME(type_byte_array, kTVMFFIByteArrayPtr, TINY_RPC_BYTE_ARRAY);
SAME(type_small_str, kTVMFFISmallStr, TINY_RPC_SMALL_STR);
SAME(type_small_bytes, kTVMFFISmallBytes, TINY_RPC_SMALL_BYTES);
SAME(type_str, kTVMFFIStr, TINY_RPC_STR);
SAME(type_bytes, kTVMFFIBytes, TINY_RPC_BYTES);
SAME(type_function, kTVMFFIFunction, TINY_RPC_FUNCTION);
SAME(type_module, kTVMFFIModule, TINY_RPC_MODULE);
