/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

enum { ALIGN = 16, HEADER = 16, LIVE = 0x4C495645, FREE = 0x46524545 };

typedef struct {
  uint32_t size; /* of the memory behind the header, a multiple of 16 */
  uint32_t state;
  uint32_t unused[2];
} block_t;

typedef char block_header_is_16_bytes[sizeof(block_t) == HEADER ? 1 : -1];

static block_t *block_at(const arena_t *arena, uint32_t at) { return (block_t *)(void *)(arena->base + at); }

/* Whether the block at `at` has a header that can be believed. */
static bool sound(const arena_t *arena, uint32_t at) {
  const block_t *block = block_at(arena, at);
  if (block->state != LIVE && block->state != FREE) return false;
  return block->size % ALIGN == 0 && block->size <= arena->size - at - HEADER;
}

static uint32_t next_block(const arena_t *arena, uint32_t at) { return at + HEADER + block_at(arena, at)->size; }

void arena_reset(arena_t *arena, void *base, uint32_t size) {
  arena->base = base;
  arena->size = size;
  block_at(arena, 0)->size = size - HEADER;
  block_at(arena, 0)->state = FREE;
}

/* Join the free block at `at` with the free ones behind it. */
static void join(arena_t *arena, uint32_t at) {
  block_t *block = block_at(arena, at);
  for (uint32_t next = next_block(arena, at); next < arena->size; next = next_block(arena, at)) {
    if (!sound(arena, next) || block_at(arena, next)->state != FREE) return;
    block->size += HEADER + block_at(arena, next)->size;
  }
}

static void *take(arena_t *arena, uint32_t at, uint32_t bytes) {
  block_t *block = block_at(arena, at);
  uint32_t rest = block->size - bytes;
  if (rest >= HEADER + ALIGN) {
    block->size = bytes;
    block_t *tail = block_at(arena, at + HEADER + bytes);
    tail->size = rest - HEADER;
    tail->state = FREE;
  }
  block->state = LIVE;
  return arena->base + at + HEADER;
}

void *arena_alloc(arena_t *arena, uint64_t bytes) {
  if (bytes > arena->size) return NULL;
  uint32_t wanted = bytes == 0 ? ALIGN : ((uint32_t)bytes + ALIGN - 1u) & ~(uint32_t)(ALIGN - 1);
  for (uint32_t at = 0; at < arena->size; at = next_block(arena, at)) {
    if (!sound(arena, at)) return NULL;
    if (block_at(arena, at)->state == LIVE) continue;
    if (block_at(arena, at)->size >= wanted) return take(arena, at, wanted);
  }
  return NULL;
}

bool arena_free(arena_t *arena, uint64_t address) {
  uint64_t base = (uintptr_t)arena->base;
  uint32_t before = 0; /* the block before, 0 also for none */
  for (uint32_t at = 0; at < arena->size && sound(arena, at); before = at, at = next_block(arena, at)) {
    if (base + at + HEADER != address) continue;
    if (block_at(arena, at)->state != LIVE) return false;
    block_at(arena, at)->state = FREE;
    join(arena, block_at(arena, before)->state == FREE ? before : at);
    return true;
  }
  return false;
}

bool arena_holds(const arena_t *arena, uint64_t address, uint64_t bytes) {
  uint64_t base = (uintptr_t)arena->base;
  for (uint32_t at = 0; at < arena->size && sound(arena, at); at = next_block(arena, at)) {
    uint64_t start = base + at + HEADER, size = block_at(arena, at)->size;
    if (address < start || address - start > size) continue;
    return block_at(arena, at)->state == LIVE && bytes <= size - (address - start);
  }
  return false;
}

arena_state_t arena_state(const arena_t *arena) {
  arena_state_t state = {0, 0, true};
  for (uint32_t at = 0; at < arena->size; at = next_block(arena, at)) {
    state.sound = sound(arena, at);
    if (!state.sound) return state;
    if (block_at(arena, at)->state == LIVE) ++state.live_blocks;
    if (block_at(arena, at)->state == FREE) state.free_bytes += block_at(arena, at)->size;
  }
  return state;
}
