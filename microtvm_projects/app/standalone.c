/* SPDX-License-Identifier: Apache-2.0 */
/* Standalone inference: receive inputs, run, send outputs, until the host says goodbye. */
#include "fault.h"
#include "frame.h"
#include "model.h"
#include "port.h"
#ifdef TINY_LAYER_TIMES
#include "layer_times.h"
#include "port_cycles.h"
#endif

static uint32_t total(const struct model_tensor *tensors, uint32_t n) {
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < n; i++) {
    bytes += tensors[i].nbytes;
  }
  return bytes;
}

static int send_hello(uint16_t sequence) {
  const uint32_t hello[4] = {FRAME_VERSION, total(model_inputs, model_num_inputs), total(model_outputs, model_num_outputs),
                             port_stack_size()};
  return frame_send(FRAME_HELLO, sequence, hello, (uint32_t)sizeof hello);
}

static int send_error(uint16_t sequence, uint32_t reason) { return frame_send(FRAME_ERROR, sequence, &reason, (uint32_t)sizeof reason); }

static int send_result(uint16_t sequence, int32_t status) {
  const struct frame_result result = {status, port_stack_used()};
  uint32_t crc;
  const uint32_t length = (uint32_t)sizeof result + total(model_outputs, model_num_outputs);
  if (frame_send_header(FRAME_RESULT, sequence, length, &crc) != 0 || frame_send_part(&result, sizeof result, &crc) != 0) {
    return -1;
  }
  for (uint32_t i = 0; i < model_num_outputs; i++) {
    if (frame_send_part(model_outputs[i].data(), model_outputs[i].nbytes, &crc) != 0) {
      return -1;
    }
  }
  return frame_send_end(crc);
}

/* Inputs go straight to their place; they are used only when the CRC behind them is right. */
static int serve_run(const struct frame_header *header, uint32_t crc) {
  for (uint32_t i = 0; i < model_num_inputs; i++) {
    if (frame_receive_part(model_inputs[i].data(), model_inputs[i].nbytes, &crc) != 0) {
      return -1;
    }
  }
  const int wrong = frame_receive_end(crc);
  if (wrong != 0) {
    return wrong < 0 ? -1 : send_error(header->sequence, FRAME_BAD_CRC);
  }
  const int32_t status = model_run();
  if (port_stack_overflowed()) {
    const struct fault_record record = {.kind = FAULT_STACK, .layer = LAYER_NONE, .flags = FAULT_STACK_OVERFLOW};
    fault_report(&record);
  }
  return send_result(header->sequence, status);
}

#ifdef TINY_LAYER_TIMES
static uint32_t clock_hz;

static int send_times(uint16_t sequence) {
  uint32_t crc;
  const uint32_t length = (uint32_t)sizeof clock_hz + tiny_layer_count * (uint32_t)sizeof tiny_layer_ticks[0];
  if (frame_send_header(FRAME_TIMES, sequence, length, &crc) != 0 || frame_send_part(&clock_hz, sizeof clock_hz, &crc) != 0 ||
      frame_send_part(tiny_layer_ticks, tiny_layer_count * sizeof tiny_layer_ticks[0], &crc) != 0) {
    return -1;
  }
  return frame_send_end(crc);
}
#endif

/* A request without payload: 1 when it is none of them, else as below. */
static int serve_short(const struct frame_header *header, uint32_t crc) {
  if (header->length != 0) {
    return 1;
  }
  switch (header->type) {
    case FRAME_BYE:
      port_exit(0);
      return -1;
    case FRAME_HELLO:
#ifdef TINY_LAYER_TIMES
    case FRAME_TIMES:
#endif
      break;
    default:
      return 1;
  }
  const int wrong = frame_receive_end(crc);
  if (wrong != 0) {
    return wrong < 0 ? -1 : send_error(header->sequence, FRAME_BAD_CRC);
  }
#ifdef TINY_LAYER_TIMES
  if (header->type == FRAME_TIMES) {
    return send_times(header->sequence);
  }
#endif
  return send_hello(header->sequence);
}

static int refuse(const struct frame_header *header) {
  /* The length itself may be wrong: drop nothing, the search for the next magic number resynchronises. */
  return send_error(header->sequence, header->type == FRAME_RUN ? FRAME_BAD_LENGTH : FRAME_BAD_TYPE);
}

/* 0, or -1 when the line is closed. */
static int serve(const struct frame_header *header, uint32_t crc) {
  if (header->type == FRAME_RUN && header->length == total(model_inputs, model_num_inputs)) {
    return serve_run(header, crc);
  }
  const int served = serve_short(header, crc);
  return served == 1 ? refuse(header) : served;
}

int main(void) {
  struct frame_header header;
  uint32_t crc;
#ifdef TINY_LAYER_TIMES
  clock_hz = port_cycles_open();
#endif
  if (port_open() != 0 || send_hello(0) != 0) {
    port_exit(1);
  }
  while (frame_receive_header(&header, &crc) == 0) {
    if (serve(&header, crc) != 0) {
      break;
    }
  }
  port_exit(2);
  return 2;
}
