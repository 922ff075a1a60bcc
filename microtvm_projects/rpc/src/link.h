/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The link layer: frames on a noisy line (docs/rpc.md, "Frames").
 *
 * The host is the master: each frame of it carries a session and a sequence number and is answered by exactly one frame with the
 * same two. A frame heard again is answered by the same bytes again and not acted upon twice, so the host may repeat at will.
 * Messages of any length are cut into frames; the device never holds more than one frame of a message.
 */
#ifndef TINY_RPC_LINK_H
#define TINY_RPC_LINK_H

#include <stdbool.h>

#include "tiny_rpc.h"

enum {
  LINK_VERSION = 1,
  LINK_HEADER = 8,
  LINK_CRC = 4,
  LINK_FLAG_LAST = 1,
  LINK_HOST_SYNC = 0x01,
  LINK_HOST_DATA = 0x02,
  LINK_HOST_PULL = 0x03,
  LINK_DEVICE_SYNC = 0x81,
  LINK_DEVICE_ACK = 0x82,
  LINK_DEVICE_DATA = 0x83,
  LINK_DEVICE_NO_SESSION = 0x84,
  LINK_DEVICE_FAULT = 0x85
};

typedef enum {
  LINK_OPEN,    /* the message can be read or written */
  LINK_ABORTED, /* the host began a new session inside a message: drop what is being done */
  LINK_CLOSED   /* the port is gone */
} link_state_t;

typedef struct {
  uint8_t bytes[LINK_HEADER + TINY_RPC_MAX_PAYLOAD + LINK_CRC];
  uint32_t size;
} link_frame_t;

typedef struct {
  const tiny_rpc_port_t *port;
  uint32_t arena_size; /* told to the host */
  uint32_t session;    /* 0: none */
  uint16_t sequence;   /* of the last frame acted upon */
  link_state_t state;
  bool answered;     /* `tx` answers `sequence` and can be sent again */
  bool tx_open;      /* `tx` is being filled with a piece of the answer */
  bool synchronised; /* a session has begun and nobody took note yet */
  uint32_t rx_at;    /* next unread byte of rx.bytes */
  link_frame_t rx;
  link_frame_t tx;
  uint32_t cobs_left; /* receiver: bytes left in the block, */
  bool cobs_zero;     /* whether a zero follows the block, */
  bool cobs_bad;      /* and whether the frame is too long to be one */
} link_t;

void link_init(link_t *link, const tiny_rpc_port_t *port, uint32_t arena_size);

/* Wait for the first frame of a message. True: it can be read. False: a new session has begun (state LINK_OPEN) or the port closed. */
bool link_next_message(link_t *link);

/* Read exactly `count` bytes of the message. False, and no byte to be trusted, if it is shorter or was broken off. */
bool link_read(link_t *link, void *to, size_t count);

/* Whether every byte of the message was read. */
bool link_at_end(const link_t *link);

/* Read and forget the rest of the message. */
void link_drain(link_t *link);

/* Write a piece of the answer, after the whole message was read; then link_finish() once. Nothing is sent when broken off. */
void link_write(link_t *link, const void *from, size_t count);
void link_finish(link_t *link);

/* Answer what is being served by a record of at most TINY_RPC_MAX_PAYLOAD bytes, from a fault handler: the program has crashed. */
void link_send_fault(link_t *link, const void *record, size_t bytes);

#endif
