/* SPDX-License-Identifier: Apache-2.0 */
/* Two packed functions for images that may be sent code (the project's option `run_code`), registered by the generated table. */
#ifndef TINY_RPC_CODE_H
#define TINY_RPC_CODE_H

#include "tiny_rpc.h"

/* (code) -> its address, where the host links it; called again after the code was copied there, it can be fetched. */
int32_t tiny_rpc_place_of_code(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result);

/* (code, tensors...): calls `void entry(void **tensors)`, the first instruction of the code, with the address of each tensor. */
int32_t tiny_rpc_run_code(void *self, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result);

#define TINY_RPC_CODE_FUNCTIONS \
  {"tiny_rpc.place_of_code", tiny_rpc_place_of_code, NULL}, {"tiny_rpc.run_code", tiny_rpc_run_code, NULL}

#endif
