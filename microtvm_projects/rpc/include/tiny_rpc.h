/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RPC server for microcontrollers: speaks TVM's RPC protocol (docs/rpc.md) over a byte-in/byte-out line, so that the stock
 * `tvm.rpc.connect` drives the device through the host-side bridge (`python -m tvm_tiny.device.rpc`).
 *
 * Portable C99, no heap: tensors live in one static arena given by the caller. One server per image.
 */
#ifndef TINY_RPC_H
#define TINY_RPC_H

#include <stddef.h>
#include <stdint.h>

/* Most arguments of one call. `runtime.RPCTimeEvaluator` alone takes 12. */
#ifndef TINY_RPC_MAX_ARGS
#define TINY_RPC_MAX_ARGS 16
#endif
/* Payload bytes of one frame of the line; two such buffers are kept (receive, and send for repetition). At most 4096. */
#ifndef TINY_RPC_MAX_PAYLOAD
#define TINY_RPC_MAX_PAYLOAD 512
#endif
/* Bytes for the arguments of one call: tensor descriptors (40 bytes + 8 a dimension) and strings. */
#ifndef TINY_RPC_SCRATCH
#define TINY_RPC_SCRATCH 1024
#endif
/* Time evaluators that may be alive at once. */
#ifndef TINY_RPC_MAX_EVALUATORS
#define TINY_RPC_MAX_EVALUATORS 4
#endif
/* Longest error text, with its terminating zero. */
#ifndef TINY_RPC_ERROR_TEXT
#define TINY_RPC_ERROR_TEXT 192
#endif

/* Type indices of a value: those of TVM's FFI (tvm/ffi/c_api.h) which can cross the line. */
enum {
  TINY_RPC_NONE = 0,
  TINY_RPC_INT = 1,
  TINY_RPC_BOOL = 2,
  TINY_RPC_FLOAT = 3,
  TINY_RPC_POINTER = 4,
  TINY_RPC_DTYPE = 5,
  TINY_RPC_DEVICE = 6,
  TINY_RPC_TENSOR = 7,
  TINY_RPC_STRING = 8,
  TINY_RPC_BYTE_ARRAY = 9,
  TINY_RPC_SMALL_STR = 11,
  TINY_RPC_SMALL_BYTES = 12,
  TINY_RPC_STR = 65,
  TINY_RPC_BYTES = 66,
  TINY_RPC_FUNCTION = 68,
  TINY_RPC_MODULE = 73
};

/* DLPack's type codes. */
enum { TINY_RPC_CODE_INT = 0, TINY_RPC_CODE_UINT = 1, TINY_RPC_CODE_FLOAT = 2, TINY_RPC_CODE_BOOL = 6 };

/* Layout of DLDataType, DLDevice and DLTensor (dlpack.h), of TVMFFIByteArray and TVMFFIAny (tvm/ffi/c_api.h): a kernel emitted by
 * TVM's C code generator can be called as it is. tests/device/rpc checks the layouts against the real headers. */
typedef struct {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
} tiny_rpc_dtype_t;

typedef struct {
  int32_t type; /* 1: CPU, the only one here */
  int32_t id;
} tiny_rpc_device_t;

typedef struct {
  void *data;
  tiny_rpc_device_t device;
  int32_t ndim;
  tiny_rpc_dtype_t dtype;
  int64_t *shape;
  int64_t *strides; /* always NULL: the client refuses what is not contiguous */
  uint64_t byte_offset;
} tiny_rpc_tensor_t;

typedef struct {
  const char *data;
  size_t size;
} tiny_rpc_bytes_t;

typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t i64;
    uint64_t u64;
    double f64;
    void *pointer;
    const char *string;
    tiny_rpc_tensor_t *tensor;
    tiny_rpc_bytes_t *bytes;
    tiny_rpc_dtype_t dtype;
    tiny_rpc_device_t device;
  } v;
} tiny_rpc_value_t;

/* A packed function (TVMFFISafeCallType): 0, or not 0 after tiny_rpc_fail(). `result` comes in as None. A string or byte array
 * returned must stay valid until the next call. */
typedef int32_t (*tiny_rpc_call_t)(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result);

typedef struct {
  const char *name;
  tiny_rpc_call_t call;
  void *self;
} tiny_rpc_function_t;

/* The line to the host and the clock: all that a board must bring. */
typedef struct {
  int (*get)(void *context);                /* waits for a byte: 0..255, or -1 when the line is closed for good */
  int (*put)(void *context, uint8_t byte);  /* 0, or -1 when the line is closed for good */
  int (*flush)(void *context);              /* after each frame; may be NULL */
  uint32_t (*cycles)(void *context);        /* free-running counter, modulo 2^32; NULL: no time evaluation */
  uint32_t cycles_hz;                       /* its rate */
  void *context;
} tiny_rpc_port_t;

typedef struct {
  tiny_rpc_port_t port;
  void *arena;       /* tensors of the host; 16-byte aligned */
  size_t arena_size; /* bytes, a multiple of 16 */
  const tiny_rpc_function_t *functions;
  uint32_t num_functions; /* at most 4000 */
} tiny_rpc_config_t;

/* Serve until the line closes (never, on a UART). Returns 0, or -1 for a configuration that can't work. */
int tiny_rpc_serve(const tiny_rpc_config_t *config);

/* Set the error text from %s (const char *), %d (int32_t), %u (uint32_t), %% and return -1. Begin with the kind: "ValueError: ...". */
int32_t tiny_rpc_fail(const char *format, ...);

/* What a packed function expects of a tensor argument. */
typedef struct {
  const char *name;
  tiny_rpc_dtype_t dtype;
  uint8_t ndim;
  uint8_t alignment; /* of the first element in bytes; 0 and 1: none asked beyond the element's own */
  const int32_t *shape;
} tiny_rpc_tensor_spec_t;

/* Check count, kinds, dtypes, shapes and alignment of all arguments of `function`; store the address of each tensor's first element.
 * Returns 0, or the error. */
int32_t tiny_rpc_check_tensors(const char *function, const tiny_rpc_tensor_spec_t *specs, int32_t num_specs,
                               const tiny_rpc_value_t *args, int32_t num_args, void **data);

/* The table that the generated model_functions.c defines. */
extern const tiny_rpc_function_t tiny_rpc_functions[];
extern const uint32_t tiny_rpc_num_functions;

#endif
