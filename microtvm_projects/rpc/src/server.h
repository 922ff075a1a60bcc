/* SPDX-License-Identifier: Apache-2.0 */
/* State of the one server, and what its files offer each other. */
#ifndef TINY_RPC_SERVER_H
#define TINY_RPC_SERVER_H

#include "arena.h"
#include "link.h"
#include "tiny_rpc.h"

/* A function bound to the way it is to be timed (TVM's RPCTimeEvaluator). */
typedef struct {
  bool live;
  uint16_t uses;     /* how often the slot was given out; part of the handle, so that an old handle is refused */
  uint32_t function; /* index of the timed function, */
  uint32_t prepare;  /* and of the one called with the same arguments before each repeat, or NO_FUNCTION */
  int32_t number, repeat, min_repeat_ms, limit_zero_time, cooldown_ms, repeats_to_cooldown;
} evaluator_t;

enum { NO_FUNCTION = 0xFFFF };

typedef struct {
  link_t link;
  arena_t arena;
  const tiny_rpc_config_t *config;
  uint64_t left;       /* bytes of the packet not yet read */
  uint16_t generation; /* counts sessions; part of every handle */
  int32_t num_args;
  tiny_rpc_value_t args[TINY_RPC_MAX_ARGS];
  uint32_t scratch_used;
  uint64_t scratch[TINY_RPC_SCRATCH / 8];
  evaluator_t evaluators[TINY_RPC_MAX_EVALUATORS];
  void *result_block; /* memory of a result that is still to be sent, or NULL */
  tiny_rpc_bytes_t result_bytes;
} server_t;

extern server_t tiny_rpc_server;

/* wire.c: every reader returns 0, or an error after tiny_rpc_fail(). */
int32_t read_bytes(server_t *s, void *to, uint64_t count);
int32_t read_u32(server_t *s, uint32_t *value);
int32_t read_u64(server_t *s, uint64_t *value);
int32_t read_tensor(server_t *s, tiny_rpc_tensor_t *tensor);
int32_t read_arguments(server_t *s);
int32_t read_end(server_t *s);
int32_t tensor_bytes(const tiny_rpc_tensor_t *tensor, uint64_t *bytes);
int32_t check_memory(const server_t *s, const tiny_rpc_tensor_t *tensor);
bool same_text(const char *a, const char *b);
void reply_exception(server_t *s);
void reply_values(server_t *s, const tiny_rpc_value_t *values, int32_t count);
void reply_copy(server_t *s, const void *from, uint64_t bytes);

/* functions.c: handles are 0 for "none", else kind, session and index. */
uint32_t find_function(const char *name);
uint64_t function_handle(const server_t *s, uint32_t index);
void free_handle(server_t *s, uint64_t handle);
void forget_handles(server_t *s);
int32_t call_handle(server_t *s, uint64_t handle, tiny_rpc_value_t *result);

/* builtins.c */
extern const tiny_rpc_function_t tiny_rpc_builtins[];
enum { NUM_BUILTINS = 9 };
extern const char arena_is_damaged[];

/* evaluator.c */
int32_t evaluator_run(server_t *s, const evaluator_t *evaluator, tiny_rpc_value_t *result);
uint64_t seconds_as_f64(uint64_t ticks, uint64_t ticks_per_second);

/* functions.c, for builtins.c and evaluator.c */
int32_t call_function(uint32_t index, const tiny_rpc_value_t *args, int32_t num_args, tiny_rpc_value_t *result);
uint64_t evaluator_handle(const server_t *s, uint32_t slot);
uint64_t library_handle(const server_t *s);

#endif
