/* SPDX-License-Identifier: Apache-2.0 */
/* First-fit allocator in one static arena. Blocks are 16-byte aligned and cost 16 bytes each; nothing is trusted that the host says. */
#ifndef TINY_RPC_ARENA_H
#define TINY_RPC_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint8_t *base;
  uint32_t size;
} arena_t;

/* Everything allocated before is gone. `base` is 16-byte aligned, `size` a multiple of 16 and at least 32. */
void arena_reset(arena_t *arena, void *base, uint32_t size);

/* NULL: no room. 0 bytes get an address of their own, too. */
void *arena_alloc(arena_t *arena, uint64_t bytes);

/* False: `address` is not the start of a live block. */
bool arena_free(arena_t *arena, uint64_t address);

/* Whether [address, address + bytes) lies inside one live block. */
bool arena_holds(const arena_t *arena, uint64_t address, uint64_t bytes);

typedef struct {
  uint32_t free_bytes;
  uint32_t live_blocks;
  bool sound; /* false: a function wrote past its tensors over a block's header */
} arena_state_t;

arena_state_t arena_state(const arena_t *arena);

#endif
