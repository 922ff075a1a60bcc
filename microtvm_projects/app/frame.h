/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between the host and the device. All fields little-endian.
 *
 *   magic u32 = FRAME_MAGIC | type u16 | sequence u16 | length u32 | payload (length bytes) | crc u32
 *
 * The CRC is CRC-32/ISO-HDLC (zlib's crc32) over type, sequence, length and payload. Payloads are streamed, so a frame
 * needs no buffer of its own. The host's half is tvm_tiny/device/frame.py.
 */
#ifndef TINY_FRAME_H
#define TINY_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define FRAME_MAGIC 0x31594E54u /* "TNY1" */
#define FRAME_VERSION 1u

enum frame_type {
  FRAME_HELLO = 1,  /* device, at its start and whenever the host sends an empty one: version, input bytes, output bytes, stack bytes (u32 each) */
  FRAME_RUN = 2,    /* host: every input tensor, one behind the other, in the order of metadata.json */
  FRAME_RESULT = 3, /* device: struct frame_result, then every output tensor */
  FRAME_FAULT = 4,  /* device: struct fault_record (fault.h); the program ends behind it */
  FRAME_ERROR = 5,  /* device: enum frame_error (u32): the frame was refused, the next one may come */
  FRAME_BYE = 6,    /* host: end the program */
  FRAME_TIMES = 7   /* host: empty; device: rate of its counter in Hz, then the ticks of each layer in the last run (u32 each) */
};

enum frame_error { FRAME_BAD_CRC = 1, FRAME_BAD_LENGTH = 2, FRAME_BAD_TYPE = 3 };

struct frame_result {
  int32_t status;      /* what tvmgen_<name>_run returned */
  uint32_t stack_used; /* deepest use so far, bytes */
};

struct frame_header {
  uint16_t type;
  uint16_t sequence;
  uint32_t length;
};

/* Find the next frame: bytes that belong to none are skipped. Returns 0, or non-zero when the line is closed. */
int frame_receive_header(struct frame_header *header, uint32_t *crc);
/* Read a part of the payload and carry the CRC on. */
int frame_receive_part(void *destination, size_t n, uint32_t *crc);
/* Read and drop n bytes of payload. */
int frame_skip(uint32_t n, uint32_t *crc);
/* Read the CRC and compare. Returns 0 when right, 1 when wrong, -1 when the line is closed. */
int frame_receive_end(uint32_t crc);

int frame_send_header(enum frame_type type, uint16_t sequence, uint32_t length, uint32_t *crc);
int frame_send_part(const void *source, size_t n, uint32_t *crc);
int frame_send_end(uint32_t crc);
/* A frame whose payload is one block. */
int frame_send(enum frame_type type, uint16_t sequence, const void *payload, uint32_t length);

#endif
