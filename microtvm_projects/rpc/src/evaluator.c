/* SPDX-License-Identifier: Apache-2.0 */
/* Time evaluation by the device's cycle counter, as TVM's RPCTimeEvaluator does it: a warm-up run, then `repeat` results, each the mean
 * of `number` runs, `number` growing until they take `min_repeat_ms`. No floating point and no division: a core without a double unit
 * would pull in 2.5 KB of library for them. */
#include "little_endian.h"
#include "error.h"
#include "server.h"

/* ticks / ticks_per_second as the bits of an IEEE double, correctly rounded. Both below 2^62, the divisor not 0. */
uint64_t seconds_as_f64(uint64_t ticks, uint64_t ticks_per_second) {
  uint64_t rest = ticks, divisor = ticks_per_second, quotient = 0;
  uint32_t exponent = 1023;
  if (ticks == 0) return 0;
  for (; divisor <= rest >> 1; divisor <<= 1) ++exponent;
  for (; rest < divisor; rest <<= 1) --exponent;
  for (int i = 0; i < 54; ++i) { /* 53 bits and one to round by */
    quotient <<= 1;
    if (rest >= divisor) {
      quotient |= 1u;
      rest -= divisor;
    }
    rest <<= 1;
  }
  bool up = (quotient & 1u) != 0 && (rest != 0 || (quotient & 2u) != 0);
  uint64_t fraction = (quotient >> 1) - (1ull << 52) + (up ? 1u : 0u); /* a carry runs into the exponent, where it belongs */
  return ((uint64_t)exponent << 52) + fraction;
}

static uint32_t now(void) {
  const tiny_rpc_port_t *port = &tiny_rpc_server.config->port;
  return port->cycles(port->context);
}

static uint64_t milliseconds(int32_t ms) { return (uint64_t)(uint32_t)ms * tiny_rpc_server.config->port.cycles_hz; } /* ticks x 1000 */

static void wait(int32_t ms) {
  uint64_t waited = 0;
  for (uint32_t last = now(); waited * 1000u < milliseconds(ms);) {
    uint32_t time = now();
    waited += time - last; /* modulo 2^32: right across the counter's wrap */
    last = time;
  }
}

/* Sum of ticks over `number` runs. Each is timed by itself, so only one run must stay below 2^32 ticks. */
static int32_t run_many(server_t *s, uint32_t function, int32_t number, uint64_t *ticks) {
  *ticks = 0;
  for (int32_t i = 0; i < number; ++i) {
    tiny_rpc_value_t ignored;
    uint32_t start = now();
    if (call_function(function, s->args, s->num_args, &ignored) != 0) return -1;
    *ticks += (uint32_t)(now() - start);
  }
  return 0;
}

/* The least growth of `number` by steps of 1.625 (TVM: the golden ratio) that should reach the wanted time. */
static int32_t grow(int32_t number, uint64_t ticks, uint64_t wanted_x1000) {
  uint32_t grown = (uint32_t)number;
  do {
    grown += grown / 2u + grown / 8u + 1u;
    ticks += ticks / 2u + ticks / 8u;
  } while (grown < 500000000u && ticks != 0 && ticks * 1000u < wanted_x1000);
  return (int32_t)grown;
}

static int32_t measure(server_t *s, const evaluator_t *evaluator, int32_t *number, uint64_t *ticks) {
  uint64_t wanted = milliseconds(evaluator->min_repeat_ms);
  for (int32_t zeros = 0;;) {
    if (run_many(s, evaluator->function, *number, ticks) != 0) return -1;
    if (*ticks == 0) ++zeros;
    if (*ticks * 1000u >= wanted || zeros >= (evaluator->limit_zero_time > 0 ? evaluator->limit_zero_time : 1)) return 0;
    if (*number >= 500000000) return 0;
    *number = grow(*number, *ticks, wanted);
  }
}

static int32_t repeat_all(server_t *s, const evaluator_t *evaluator, uint8_t *seconds) {
  tiny_rpc_value_t ignored;
  int32_t number = evaluator->number;
  if (call_function(evaluator->function, s->args, s->num_args, &ignored) != 0) return -1; /* warm-up */
  for (int32_t i = 0; i < evaluator->repeat; ++i) {
    uint64_t ticks;
    if (evaluator->prepare != NO_FUNCTION && call_function(evaluator->prepare, s->args, s->num_args, &ignored) != 0) return -1;
    if (measure(s, evaluator, &number, &ticks) != 0) return -1;
    store_u64(seconds + 8 * i, seconds_as_f64(ticks, (uint64_t)(uint32_t)number * s->config->port.cycles_hz));
    int32_t rest_after = evaluator->repeats_to_cooldown > 0 ? evaluator->repeats_to_cooldown : 1;
    if (evaluator->cooldown_ms > 0 && i % rest_after == 0) wait(evaluator->cooldown_ms);
  }
  return 0;
}

int32_t evaluator_run(server_t *s, const evaluator_t *evaluator, tiny_rpc_value_t *result) {
  uint64_t bytes = 8u * (uint64_t)(uint32_t)evaluator->repeat;
  uint8_t *seconds = arena_alloc(&s->arena, bytes);
  if (seconds == NULL) return tiny_rpc_fail(MEMORY_ERROR "no room in the arena for %d results", evaluator->repeat);
  s->result_block = seconds; /* freed after the answer is sent, or on failure */
  if (repeat_all(s, evaluator, seconds) != 0) return -1;
  s->result_bytes = (tiny_rpc_bytes_t){(const char *)seconds, (size_t)bytes};
  result->type_index = TINY_RPC_BYTE_ARRAY;
  result->v.bytes = &s->result_bytes;
  return 0;
}
