/* SPDX-License-Identifier: Apache-2.0 */
/* The application: one arena, one port, the functions of model_functions.c. */
#include "rpc_port.h"

#ifndef TINY_RPC_ARENA_BYTES
#define TINY_RPC_ARENA_BYTES 98304
#endif

typedef char arena_is_whole_blocks[TINY_RPC_ARENA_BYTES % 16 == 0 ? 1 : -1];

#ifndef TINY_RPC_ARENA_SECTION
#define TINY_RPC_ARENA_SECTION
#endif

TINY_RPC_ARENA_SECTION static union {
  uint8_t bytes[TINY_RPC_ARENA_BYTES];
  uint64_t align;
} __attribute__((aligned(16))) tiny_rpc_arena;

int main(int argc, char **argv) {
  tiny_rpc_config_t config = {{0}, &tiny_rpc_arena, sizeof(tiny_rpc_arena), tiny_rpc_functions, tiny_rpc_num_functions};
  if (tiny_rpc_port_open(&config.port, argc, argv) != 0) return 2;
  return tiny_rpc_serve(&config) != 0;
}
