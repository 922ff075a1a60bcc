/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU TCG plugin for Cortex-M: how often each basic block ran and its last branch was taken, in segments of the run.
 *
 * A segment ends after every hint `dbg #n` (a NOP on hardware and in QEMU) and before every address given with cut=.
 * A translated block is divided at these places, so that every instruction is counted in its own segment.
 *
 * Options   out=FILE             where the counts go (required)
 *           memory=on            count loads and stores by region, the top four bits of the address
 *           dcache=SIZE:WAYS:LINE  count the loads that miss such a data cache (bytes, LRU); implies memory=on
 *           icache=SIZE:WAYS:LINE  count the lines of code that miss such an instruction cache
 *           cut=HEX              may be repeated
 *           yield=on             the hint `yield` ends a segment too (Armv6-M and Armv8-M Baseline have no dbg)
 *
 * Output, text:  segment <opened by: -1 start, n of dbg, 16 yield, or 256+k for the k-th cut> <icache misses>
 *                block <start> <end> <instructions> <executions> <taken>        addresses in hex, end exclusive
 *                region <number> <loads> <stores> <load misses>
 *                end                                                            the run was counted to its end
 */
#include "qemu_plugin_api.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_API;

enum { HASH_SIZE = 1 << 14, MAX_CUTS = 64, REGIONS = 16, YIELD = 16, FIRST_CUT = 256, NO_CUT = -1 };

typedef struct Block {
    uint64_t start, end;
    unsigned instructions;
    int cut; /* a segment starts here: number of the cut address, or NO_CUT */
    uint64_t executions, taken;
    struct Block *same_hash, *next;
} Block;

typedef struct Cache {
    unsigned ways, line, sets;
    uint64_t *tags, *used; /* per set and way: line number + 1 (0 is empty), time of last use */
    uint64_t clock;
} Cache;

typedef struct Region {
    uint64_t loads, stores, misses;
} Region;

static Block *hash_table[HASH_SIZE], *blocks, *previous;
static Region regions[REGIONS];
static Cache data_cache, code_cache;
static uint64_t code_misses, cuts[MAX_CUTS];
static unsigned cut_count;
static int opened_by = -1;
static bool count_memory, yield_marks;
static FILE *output;

static void *zeroed(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) {
        fprintf(stderr, "block_counts: out of memory\n");
        exit(1);
    }
    return memory;
}

static int cut_at(uint64_t address) {
    for (unsigned i = 0; i < cut_count; i++) {
        if (cuts[i] == address) return (int)i;
    }
    return NO_CUT;
}

/* The block [start, end); QEMU may translate the same code again and again, the counts go on. */
static Block *find_block(uint64_t start, uint64_t end, unsigned instructions) {
    Block **bucket = &hash_table[(start >> 1 ^ end << 5) % HASH_SIZE];
    for (Block *b = *bucket; b != NULL; b = b->same_hash) {
        if (b->start == start && b->end == end) return b;
    }
    Block *b = zeroed(1, sizeof *b);
    *b = (Block){.start = start, .end = end, .instructions = instructions, .cut = cut_at(start), .same_hash = *bucket, .next = blocks};
    return blocks = *bucket = b;
}

/* Whether the line of `address` is absent; it is present afterwards, in place of the least recently used of its set. */
static bool misses(Cache *cache, uint64_t address) {
    uint64_t line = address / cache->line;
    size_t set = (size_t)(line % cache->sets) * cache->ways;
    uint64_t *tags = cache->tags + set, *used = cache->used + set;
    unsigned oldest = 0;
    for (unsigned way = 0; way < cache->ways; way++) {
        if (tags[way] == line + 1) {
            used[way] = ++cache->clock;
            return false;
        }
        if (used[way] < used[oldest]) oldest = way;
    }
    tags[oldest] = line + 1;
    used[oldest] = ++cache->clock;
    return true;
}

/* Write the counts of the segment that ends here and start the next from zero (caches stay warm). */
static void end_segment(int next_opened_by) {
    fprintf(output, "segment %d %" PRIu64 "\n", opened_by, code_misses);
    for (Block *b = blocks; b != NULL; b = b->next) {
        if (b->executions == 0 && b->taken == 0) continue;
        fprintf(output, "block %" PRIx64 " %" PRIx64 " %u", b->start, b->end, b->instructions);
        fprintf(output, " %" PRIu64 " %" PRIu64 "\n", b->executions, b->taken);
        b->executions = b->taken = 0;
    }
    for (int i = 0; i < REGIONS; i++) {
        Region *r = &regions[i];
        if (r->loads + r->stores == 0) continue;
        fprintf(output, "region %d %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", i, r->loads, r->stores, r->misses);
        *r = (Region){0};
    }
    code_misses = 0;
    opened_by = next_opened_by;
}

static void on_block(unsigned vcpu, void *userdata) {
    (void)vcpu;
    Block *b = userdata;
    if (previous != NULL && previous->end != b->start) previous->taken++;
    if (b->cut != NO_CUT) end_segment(FIRST_CUT + b->cut);
    b->executions++;
    previous = b;
    if (code_cache.line == 0) return;
    for (uint64_t a = b->start - b->start % code_cache.line; a < b->end; a += code_cache.line) code_misses += misses(&code_cache, a);
}

/* The marker is the last instruction of its block, which has been counted. */
static void on_marker(unsigned vcpu, void *userdata) {
    (void)vcpu;
    end_segment((int)(intptr_t)userdata);
}

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *userdata) {
    (void)vcpu;
    (void)userdata;
    Region *r = &regions[address >> 28 & (REGIONS - 1)];
    if (qemu_plugin_mem_is_store(info)) {
        r->stores++;
        return;
    }
    r->loads++;
    if (data_cache.line != 0) r->misses += misses(&data_cache, address);
}

/* Up to four bytes of code; the number read. */
static size_t read_code(const struct qemu_plugin_insn *insn, unsigned char code[4]) {
    size_t size = qemu_plugin_insn_size(insn);
    if (size > 4) size = 4;
#if QEMU_PLUGIN_API >= 3
    return qemu_plugin_insn_data(insn, code, size);
#else
    memcpy(code, qemu_plugin_insn_data(insn), size);
    return size;
#endif
}

/* Bytes of an instruction, from its first halfword: 11101, 11110 and 11111 start a 32-bit one. qemu_plugin_insn_size() is of no use: when
 * the next instruction straddles a page, the halfword QEMU looked at is added to the last instruction before it. */
static unsigned length_of(const struct qemu_plugin_insn *insn) {
    unsigned char code[4] = {0};
    read_code(insn, code);
    return code[1] >= 0xe8 ? 4 : 2;
}

/* n of `dbg #n` (f3af 80fn, T1 encoding, halfwords little-endian), YIELD of a `yield` (bf10) that counts as a marker, or -1. */
static int marker_of(const struct qemu_plugin_insn *insn) {
    unsigned char code[4] = {0};
    size_t size = read_code(insn, code);
    if (yield_marks && code[0] == 0x10 && code[1] == 0xbf) return YIELD;
    bool hint = size == 4 && code[0] == 0xaf && code[1] == 0xf3 && code[3] == 0x80 && (code[2] & 0xf0) == 0xf0;
    return hint ? code[2] & 0x0f : -1;
}

/* Instructions [first, next) of a translated block become a block of ours. */
static void watch(struct qemu_plugin_tb *tb, size_t first, size_t next) {
    struct qemu_plugin_insn *head = qemu_plugin_tb_get_insn(tb, first), *tail = qemu_plugin_tb_get_insn(tb, next - 1);
    uint64_t end = qemu_plugin_insn_vaddr(tail) + length_of(tail);
    Block *b = find_block(qemu_plugin_insn_vaddr(head), end, (unsigned)(next - first));
    if (first == 0) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, b);
    } else {
        qemu_plugin_register_vcpu_insn_exec_cb(head, on_block, QEMU_PLUGIN_CB_NO_REGS, b);
    }
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    size_t count = qemu_plugin_tb_n_insns(tb), first = 0;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        int marker = marker_of(insn);
        bool cut_before_next = i + 1 < count && cut_at(qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, i + 1))) != NO_CUT;
        if (marker >= 0 || cut_before_next || i + 1 == count) {
            watch(tb, first, i + 1);
            first = i + 1;
        }
        if (marker >= 0) qemu_plugin_register_vcpu_insn_exec_cb(insn, on_marker, QEMU_PLUGIN_CB_NO_REGS, (void *)(intptr_t)marker);
        if (count_memory) qemu_plugin_register_vcpu_mem_cb(insn, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
    }
}

static void on_exit_of_qemu(qemu_plugin_id_t id, void *userdata) {
    (void)id;
    (void)userdata;
    end_segment(-1);
    fprintf(output, "end\n");
    fclose(output);
}

static bool parse_cache(const char *text, Cache *cache) {
    unsigned size;
    if (sscanf(text, "%u:%u:%u", &size, &cache->ways, &cache->line) != 3 || cache->ways == 0 || cache->line == 0) return false;
    cache->sets = size / cache->ways / cache->line;
    if (cache->sets == 0) return false;
    cache->tags = zeroed((size_t)cache->sets * cache->ways, sizeof *cache->tags);
    cache->used = zeroed((size_t)cache->sets * cache->ways, sizeof *cache->used);
    return true;
}

static bool parse_switch(const char *text, bool *on) {
    *on = strcmp(text, "on") == 0;
    return *on || strcmp(text, "off") == 0;
}

static bool parse_option(const char *option) {
    const char *value = strchr(option, '=');
    if (value == NULL) return false;
    size_t length = (size_t)(value++ - option);
#define IS(name) (length == sizeof name - 1 && memcmp(option, name, length) == 0)
    if (IS("out")) return (output = fopen(value, "w")) != NULL;
    if (IS("memory")) return parse_switch(value, &count_memory);
    if (IS("yield")) return parse_switch(value, &yield_marks);
    if (IS("dcache")) return (count_memory = parse_cache(value, &data_cache));
    if (IS("icache")) return parse_cache(value, &code_cache);
    if (IS("cut") && cut_count < MAX_CUTS) return cuts[cut_count++] = strtoull(value, NULL, 16), true;
#undef IS
    return false;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    if (info->version.cur < QEMU_PLUGIN_API || info->version.min > QEMU_PLUGIN_API) {
        fprintf(stderr, "block_counts: built for plugin API %d, ", QEMU_PLUGIN_API);
        fprintf(stderr, "this QEMU serves %d to %d\n", info->version.min, info->version.cur);
        return -1;
    }
    for (int i = 0; i < argc; i++) {
        if (!parse_option(argv[i])) {
            fprintf(stderr, "block_counts: bad option %s\n", argv[i]);
            return -1;
        }
    }
    if (output == NULL) {
        fprintf(stderr, "block_counts: no out=FILE\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit_of_qemu, NULL);
    return 0;
}
