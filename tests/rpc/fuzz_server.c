/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzer of the RPC server: `fuzz_server PACKETS SEED`. Built with AddressSanitizer and UBSan.
 *
 * Plays the host inside the port functions: well-formed packets of every kind, about 7 in 10 of them mutated, cut into frames with right
 * check sums (so that the damage reaches the parser), between them noise, repeated and corrupt frames, new sessions. After every packet
 * the arena must be sound; every 512 packets a session with known answers must give them. Prints what happened, one counter a line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crc32.h"
#include "little_endian.h"
#include "server.h"

enum { MAX_PACKET = 4096, MAX_LIVE = 16, CHECK_EVERY = 512, CALL_BUDGET = 3000 };

static uint64_t rng_state;
static uint64_t packets_wanted, packets_done, sessions, noises, repeats, corruptions, mutated_count, returns, exceptions, copies, checks;
static uint64_t by_code[32];

static uint32_t rnd(void) { /* xorshift64* */
  rng_state ^= rng_state >> 12;
  rng_state ^= rng_state << 25;
  rng_state ^= rng_state >> 27;
  return (uint32_t)(rng_state * 2685821657736338717ull >> 32);
}

static uint32_t below(uint32_t n) { return rnd() % n; }
static int chance(uint32_t percent) { return below(100) < percent; }

static void die(const char *what) {
  fprintf(stderr, "fuzz_server: %s after %llu packets\n", what, (unsigned long long)packets_done);
  abort();
}

/* ---- functions of the image: none may run long, whatever numbers the evaluator was given --------------------------------------- */

static uint32_t calls_of_this_packet;

static int32_t budget(void) { return ++calls_of_this_packet > CALL_BUDGET ? tiny_rpc_fail("RuntimeError: over budget") : 0; }

static int32_t f_sum(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self;
  result->type_index = TINY_RPC_INT;
  for (int32_t i = 0; i < n; ++i)
    if (args[i].type_index == TINY_RPC_INT) result->v.u64 += args[i].v.u64;
  return budget();
}

static int32_t f_echo(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self;
  if (n > 0) *result = args[0];
  return budget();
}

/* Reads and writes every byte of every tensor: AddressSanitizer sees what the checks let through. */
static int32_t f_touch(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  (void)self;
  for (int32_t i = 0; i < n; ++i) {
    uint64_t bytes;
    if (args[i].type_index != TINY_RPC_TENSOR) continue;
    if (tensor_bytes(args[i].v.tensor, &bytes) != 0) return -1;
    uint8_t *at = (uint8_t *)args[i].v.tensor->data + args[i].v.tensor->byte_offset;
    for (uint64_t b = 0; b < bytes; ++b) at[b] = (uint8_t)(at[b] + 1);
    if (bytes == 8) memcpy(&result->v.u64, at, 8);
  }
  return budget();
}

static int32_t f_checked(void *self, const tiny_rpc_value_t *args, int32_t n, tiny_rpc_value_t *result) {
  static const int32_t shape[2] = {4, 4};
  static const tiny_rpc_tensor_spec_t specs[2] = {{"x", {TINY_RPC_CODE_INT, 8, 1}, 2, 1, shape}, {"y", {TINY_RPC_CODE_INT, 8, 1}, 2, 4, shape}};
  void *data[2];
  (void)self, (void)result;
  if (tiny_rpc_check_tensors("checked", specs, 2, args, n, data) != 0) return -1;
  memmove(data[1], data[0], 16);
  return budget();
}

static const tiny_rpc_function_t functions[] = {{"sum", f_sum, NULL}, {"echo", f_echo, NULL}, {"touch", f_touch, NULL}, {"checked", f_checked, NULL}};

/* ---- packets ------------------------------------------------------------------------------------------------------------------- */

static uint8_t packet[MAX_PACKET];
static uint32_t packet_size, packet_sent;
static uint64_t live[MAX_LIVE], live_bytes[MAX_LIVE], handles[MAX_LIVE];
static uint32_t num_live, num_handles;
static uint64_t asked_bytes;

static void u8(uint32_t v) { if (packet_size < MAX_PACKET) packet[packet_size++] = (uint8_t)v; }
static void u32(uint32_t v) { for (int i = 0; i < 4; ++i) u8(v >> 8 * i); }
static void u64(uint64_t v) { u32((uint32_t)v); u32((uint32_t)(v >> 32)); }
static void text(const char *s) { u64(strlen(s)); while (*s) u8((uint8_t)*s++); }

static void begin(uint32_t code) {
  packet_size = 0;
  u64(0);
  u32(code);
  ++by_code[code];
}

static void finish(void) { store_u64(packet, packet_size - 8u); }

static uint32_t some_live(void) { return num_live != 0 ? below(num_live) : 0; }

static void tensor(uint64_t data, uint32_t bytes) {
  static const uint8_t dtypes[6][2] = {{0, 8}, {1, 8}, {0, 32}, {2, 32}, {2, 64}, {6, 8}};
  const uint8_t *dtype = dtypes[chance(60) ? 0 : below(6)];
  uint32_t ndim = below(4), left = bytes / (dtype[1] / 8u);
  u64(data), u32(1), u32(0), u32(ndim), u8(dtype[0]), u8(dtype[1]), u8(1), u8(0);
  for (uint32_t i = 0; i < ndim; ++i) {
    uint32_t extent = i + 1 == ndim ? left : 1u + below(3);
    left /= extent != 0 ? extent : 1u;
    u64(extent);
  }
  u64(chance(80) ? 0 : below(16));
}

static void live_tensor(void) {
  uint32_t i = some_live();
  tensor(num_live != 0 ? live[i] : rnd(), num_live != 0 ? (uint32_t)live_bytes[i] : 16u);
}

static void checked_tensor(void) { u64(num_live != 0 ? live[some_live()] : 0), u32(1), u32(0), u32(2), u8(0), u8(8), u8(1), u8(0), u64(4), u64(4), u64(0); }

static void long_text(uint32_t size) {
  u64(size);
  while (size-- > 0) u8('x');
}

static void value(void) {
  switch (below(10)) {
    case 0: u32(0); break;
    case 1: u32(1), u64(rnd()); break;
    case 2: u32(2), u64(1); break;
    case 3: u32(3), u64((uint64_t)rnd() << 32); break;
    case 4: u32(5), u8(0), u8(8), u8(1), u8(0), u32(0); break;
    case 5: u32(6), u32(1), u32(0); break;
    case 6: u32(7), live_tensor(); break;
    case 7: u32(8), chance(90) ? text("some text") : long_text(below(3500)); break;
    case 8: u32(chance(50) ? 66 : 12), u32(66), text("bytes"); break;
    default: u32(11), u32(65), text("str"); break;
  }
}

static void call_begin(const char *name, uint32_t num_args) {
  begin(3);
  uint32_t index = find_function(name);
  u64(chance(90) || num_handles == 0 ? function_handle(&tiny_rpc_server, index) : handles[below(num_handles)]);
  u32(num_args);
}

static void make_evaluator(void) {
  call_begin("runtime.RPCTimeEvaluator", 12);
  u32(73), u64(library_handle(&tiny_rpc_server)), u32(8), text(chance(70) ? "touch" : "sum");
  u32(1), u64(1), u32(1), u64(0); /* device */
  u32(1), u64(1 + below(5)), u32(1), u64(1 + below(5));
  u32(1), u64(chance(70) ? 0 : below(50)), u32(1), u64(100), u32(1), u64(chance(90) ? 0 : 10), u32(1), u64(1), u32(1), u64(0);
  u32(8), text(chance(80) ? "" : "sum");
}

static void make_call(void) {
  static const char *const names[] = {"sum", "echo", "touch", "checked", "ffi.SystemLib", "tvm.contrib.random.random_fill",
                                      "tiny_rpc.arena_free_bytes", "tvm.rpc.server.GetCRTMaxPacketSize"};
  const char *name = names[below(8)];
  if (chance(15)) {
    make_evaluator();
  } else if (chance(10)) {
    call_begin("tvm.rpc.server.ModuleGetFunction", 3);
    u32(73), u64(library_handle(&tiny_rpc_server)), u32(8), text(names[below(4)]), u32(2), u64(1);
  } else if (strcmp(name, "checked") == 0) {
    call_begin(name, 2);
    u32(7), checked_tensor(), u32(7), checked_tensor();
  } else if (strcmp(name, "touch") == 0 || strstr(name, "random") != NULL) {
    call_begin(name, 1);
    u32(7), live_tensor();
  } else {
    uint32_t n = strchr(name, '.') != NULL ? 0 : chance(90) ? below(6) : TINY_RPC_MAX_ARGS - 2 + below(6);
    call_begin(name, n);
    while (n-- > 0) value();
  }
}

static void make_copy(uint32_t code) {
  uint32_t i = some_live(), bytes = num_live != 0 ? (uint32_t)live_bytes[i] : 16u;
  if (bytes > 3000) bytes = 3000;
  begin(code);
  u64(num_live != 0 ? live[i] : rnd()), u32(1), u32(0), u32(1), u8(0), u8(8), u8(1), u8(0), u64(bytes), u64(0), u64(bytes);
  for (uint32_t b = 0; code == 7 && b < bytes; ++b) u8(rnd());
}

static void make_alloc(void) {
  begin(17);
  asked_bytes = chance(90) ? below(700) : below(40000);
  u32(2), u32(7), u64(0), u32(1), u32(0), u32(1), u8(0), u8(8), u8(1), u8(0), u64(asked_bytes), u64(0), u32(0);
}

static void make_free(void) {
  begin(14);
  uint32_t i = some_live();
  u32(2), u32(6), u32(1), u32(0), u32(4), u64(num_live != 0 ? live[i] : rnd());
  if (num_live != 0 && chance(90)) live[i] = live[--num_live], live_bytes[i] = live_bytes[num_live];
}

static void make_packet(void) {
  static const char *const names[] = {"sum", "nothing", "runtime.RPCTimeEvaluator", ""};
  switch (below(16)) {
    case 0:
      if (chance(10)) begin(chance(50) ? 2 : 1), text("0.8.0"), u32(0);
      else make_copy(6);
      break;
    case 1: case 2: case 3: make_alloc(); break;
    case 4: make_free(); break;
    case 5: case 6: make_copy(7); break;
    case 7: make_copy(6); break;
    case 8: begin(16), u32(3), u32(7), live_tensor(), u32(7), live_tensor(), u32(4), u64(0); break;
    case 9: begin(9), u32(1), u32(8), text(names[below(4)]); break;
    case 10: begin(10), u32(1), u32(4), u64(num_handles != 0 ? handles[below(num_handles)] : rnd()); break;
    case 11: begin(chance(50) ? 15 : 11), u32(2), u32(6), u32(1), u32(0), u32(4), u64(0); break;
    case 12: begin(chance(80) ? 12 : below(24)), u32(2), u32(6), u32(1), u32(0), u32(1), u64(below(3)); break;
    default: make_call(); break;
  }
  finish();
}

static void mutate_once(void) {
  static const uint32_t interesting[] = {0, 1, 2, 7, 8, 12, 16, 65, 66, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000u, 0xFFFFFFFFu};
  uint32_t at = chance(20) ? below(packet_size) : 8u + below(packet_size - 8u < 64 ? packet_size - 8u : 64);
  switch (below(6)) {
    case 0: packet[at] = (uint8_t)(packet[at] ^ 1u << below(8)); break;
    case 1: packet[at] = (uint8_t)rnd(); break;
    case 2: case 3: if (at + 4 <= packet_size) store_u32(packet + at, interesting[below(17)]); break;
    case 4: packet_size = at > 12 ? at : 12; break;
    default: for (uint32_t n = below(40); n > 0; --n) u8(rnd()); break;
  }
}

static void next_packet(void) {
  make_packet();
  if (chance(70)) {
    ++mutated_count;
    for (uint32_t n = 1 + below(3); n > 0; --n) mutate_once();
    if (chance(70)) finish();
  }
  packet_sent = 0;
  calls_of_this_packet = 0;
  ++packets_done;
}

/* ---- what the device answers ---------------------------------------------------------------------------------------------------- */

static const link_t *the_link(void) { return &tiny_rpc_server.link; }
static int answer_open(void) { return the_link()->answered && the_link()->tx.bytes[0] == LINK_DEVICE_DATA && !(the_link()->tx.bytes[1] & LINK_FLAG_LAST); }

static void learn(void) {
  const uint8_t *answer = the_link()->tx.bytes + LINK_HEADER;
  uint32_t size = the_link()->tx.size - LINK_HEADER - LINK_CRC;
  if (the_link()->tx.bytes[0] != LINK_DEVICE_DATA || size < 12) return;
  uint32_t code = load_u32(answer + 8), asked = load_u32(packet + 8);
  returns += code == 4, exceptions += code == 5, copies += code == 8;
  if (asked <= 2 && code != 5) num_live = num_handles = 0; /* a new session freed them */
  if (code == 4 && asked == 17 && size == 28 && load_u32(answer + 16) == 4 && num_live < MAX_LIVE) {
    live[num_live] = load_u64(answer + 20);
    for (live_bytes[num_live] = 0; arena_holds(&tiny_rpc_server.arena, live[num_live], live_bytes[num_live] + 16); live_bytes[num_live] += 16) {}
    ++num_live;
  }
  if (code == 4 && asked == 3 && size >= 40 && load_u32(answer + 16) == 1 && load_u32(answer + 28) == 4) {
    handles[num_handles < MAX_LIVE ? num_handles++ : below(MAX_LIVE)] = load_u64(answer + 32);
  }
}

/* ---- frames ---------------------------------------------------------------------------------------------------------------------- */

static uint8_t line[3 * (LINK_HEADER + TINY_RPC_MAX_PAYLOAD + LINK_CRC)];
static uint32_t line_size, line_at;

static void send(uint8_t type, uint8_t flags, uint16_t sequence, uint32_t session, const uint8_t *payload, uint32_t size) {
  uint8_t raw[LINK_HEADER + TINY_RPC_MAX_PAYLOAD + LINK_CRC];
  raw[0] = type, raw[1] = flags;
  store_u16(raw + 2, sequence), store_u32(raw + 4, session);
  if (size != 0) memcpy(raw + LINK_HEADER, payload, size);
  store_u32(raw + LINK_HEADER + size, tiny_rpc_crc32(raw, LINK_HEADER + size));
  size += LINK_HEADER + LINK_CRC;
  line[line_size++] = 0;
  for (uint32_t at = 0;;) { /* byte stuffing */
    uint32_t run = 0;
    while (run < 254 && at + run < size && raw[at + run] != 0) ++run;
    line[line_size++] = (uint8_t)(run + 1);
    memcpy(line + line_size, raw + at, run);
    line_size += run, at += run;
    if (at == size) break;
    if (run < 254) ++at;
  }
  line[line_size++] = 0;
}

static uint16_t sequence;
static uint32_t session;
static uint32_t last_from, last_size;

static void send_sync(void) {
  session = rnd() | 1u;
  sequence = 0;
  num_live = num_handles = packet_size = packet_sent = 0;
  ++sessions;
  send(LINK_HOST_SYNC, 0, 0, session, NULL, 0);
}

static void send_piece(void) {
  uint32_t size = packet_size - packet_sent;
  uint32_t most = chance(90) ? TINY_RPC_MAX_PAYLOAD : 1 + below(TINY_RPC_MAX_PAYLOAD);
  if (size > most) size = most;
  last_from = packet_sent, last_size = size;
  packet_sent += size;
  send(LINK_HOST_DATA, packet_sent == packet_size, ++sequence, session, packet + last_from, size);
}

static void disturb(void) {
  switch (below(3)) {
    case 0:
      ++noises;
      for (uint32_t n = below(600); n > 0 && line_size < sizeof(line); --n) line[line_size++] = (uint8_t)rnd();
      if (line_size < sizeof(line)) line[line_size++] = 0;
      break;
    case 1: /* a frame heard before, or one of nowhere */
      ++repeats;
      if (packet_sent != 0) send(LINK_HOST_DATA, packet_sent == packet_size, sequence, session, packet + last_from, last_size);
      else send((uint8_t)rnd(), (uint8_t)rnd(), (uint16_t)rnd(), chance(50) ? session : rnd(), packet, below(100));
      break;
    default:
      ++corruptions;
      send(LINK_HOST_DATA, 1, (uint16_t)(sequence + 1), session, packet, below(400));
      line[1 + below(line_size - 2)] ^= (uint8_t)(1u << below(8));
      break;
  }
}

/* ---- a session with known answers ------------------------------------------------------------------------------------------------ */

static int check_step = -1;
static uint64_t check_address;

static void check_next(void) {
  const uint8_t *answer = the_link()->tx.bytes + LINK_HEADER;
  switch (check_step++) {
    case 0: begin(2), text("0.8.0"), u32(0), finish(); break;
    case 1:
      if (load_u32(answer + 8) != 4) die("InitServer failed");
      begin(17), u32(2), u32(7), u64(0), u32(1), u32(0), u32(1), u8(0), u8(8), u8(1), u8(0), u64(100), u64(0), u32(0), finish();
      break;
    case 2:
      check_address = load_u64(answer + 20);
      begin(7), u64(check_address), u32(1), u32(0), u32(1), u8(0), u8(8), u8(1), u8(0), u64(100), u64(0), u64(100);
      for (uint32_t i = 0; i < 100; ++i) u8(i * 7);
      finish();
      break;
    case 3: begin(6), u64(check_address), u32(1), u32(0), u32(1), u8(0), u8(8), u8(1), u8(0), u64(100), u64(0), u64(100), finish(); break;
    default:
      if (load_u64(answer) != 104 || load_u32(answer + 8) != 8) die("the copy back failed");
      for (uint32_t i = 0; i < 100; ++i)
        if (answer[12 + i] != (uint8_t)(i * 7)) die("the copy back differs");
      check_step = -1;
      ++checks;
      send_sync();
      return;
  }
  packet_sent = 0;
  send_piece();
}

/* ---- the port -------------------------------------------------------------------------------------------------------------------- */

static void next_frame(void) {
  line_at = line_size = 0;
  if (!arena_state(&tiny_rpc_server.arena).sound) die("the arena is damaged");
  if (check_step >= 0 && packet_sent < packet_size) {
    send_piece();
  } else if (check_step >= 0) {
    check_next();
  } else if (answer_open()) {
    if (chance(95)) send(LINK_HOST_PULL, 0, ++sequence, session, NULL, 0);
    else send_sync();
  } else if (packet_sent < packet_size) {
    if (chance(98)) send_piece();
    else send_sync(); /* broken off inside a message */
  } else {
    if (packet_size != 0) learn();
    if (packets_done % CHECK_EVERY == CHECK_EVERY - 1) {
      ++packets_done;
      check_step = 0;
      send_sync();
    } else if (chance(3)) {
      disturb();
    } else if (session == 0 || chance(1)) {
      send_sync();
    } else {
      next_packet();
      send_piece();
    }
  }
}

static int get(void *context) {
  (void)context;
  while (line_at == line_size) {
    if (packets_done >= packets_wanted && check_step < 0) return -1;
    next_frame();
  }
  return line[line_at++];
}

static int put(void *context, uint8_t byte) {
  (void)context, (void)byte;
  return 0;
}

static uint32_t cycles(void *context) {
  static uint32_t now;
  (void)context;
  return now += chance(50) ? 0x40000000u : below(3);
}

int main(int argc, char **argv) {
  packets_wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000;
  rng_state = 0x9E3779B97F4A7C15ull ^ (argc > 2 ? strtoull(argv[2], NULL, 10) : 1);
  size_t arena_bytes = 16384;
  void *arena = NULL; /* from the heap: AddressSanitizer guards both ends */
  if (posix_memalign(&arena, 16, arena_bytes) != 0) return 2;
  tiny_rpc_config_t config = {{get, put, NULL, cycles, 1000000u, NULL}, arena, arena_bytes, functions, sizeof(functions) / sizeof(functions[0])};
  if (tiny_rpc_serve(&config) != 0) return 2;
  printf("packets %llu\nmutated %llu\nsessions %llu\nnoises %llu\nrepeats %llu\ncorruptions %llu\nreturns %llu\nexceptions %llu\ncopies %llu\nchecks %llu\n",
         (unsigned long long)packets_done, (unsigned long long)mutated_count, (unsigned long long)sessions, (unsigned long long)noises,
         (unsigned long long)repeats, (unsigned long long)corruptions, (unsigned long long)returns, (unsigned long long)exceptions,
         (unsigned long long)copies, (unsigned long long)checks);
  free(arena);
  return 0;
}
