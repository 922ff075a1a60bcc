/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include "port.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "frames are little-endian; a big-endian device needs byte swaps here"
#endif

/* CRC-32 of one nibble (reflected polynomial 0xEDB88320): 64 bytes of table, two look-ups a byte. */
static const uint32_t crc_nibble[16] = {0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
                                        0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
                                        0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};

static uint32_t crc_update(uint32_t crc, const void *data, size_t n) {
  const uint8_t *byte = (const uint8_t *)data;
  while (n-- > 0) {
    crc ^= *byte++;
    crc = (crc >> 4) ^ crc_nibble[crc & 15u];
    crc = (crc >> 4) ^ crc_nibble[crc & 15u];
  }
  return crc;
}

int frame_receive_header(struct frame_header *header, uint32_t *crc) {
  uint32_t window = 0;
  while (window != FRAME_MAGIC) {
    uint8_t byte;
    if (port_read(&byte, 1) != 0) {
      return -1;
    }
    window = (window >> 8) | ((uint32_t)byte << 24);
  }
  *crc = 0xFFFFFFFFu;
  return frame_receive_part(header, sizeof *header, crc);
}

int frame_receive_part(void *destination, size_t n, uint32_t *crc) {
  if (port_read(destination, n) != 0) {
    return -1;
  }
  *crc = crc_update(*crc, destination, n);
  return 0;
}

int frame_skip(uint32_t n, uint32_t *crc) {
  uint8_t byte;
  while (n-- > 0) {
    if (frame_receive_part(&byte, 1, crc) != 0) {
      return -1;
    }
  }
  return 0;
}

int frame_receive_end(uint32_t crc) {
  uint32_t sent;
  if (port_read(&sent, sizeof sent) != 0) {
    return -1;
  }
  return sent == (crc ^ 0xFFFFFFFFu) ? 0 : 1;
}

int frame_send_header(enum frame_type type, uint16_t sequence, uint32_t length, uint32_t *crc) {
  const uint32_t magic = FRAME_MAGIC;
  const struct frame_header header = {(uint16_t)type, sequence, length};
  *crc = 0xFFFFFFFFu;
  if (port_write(&magic, sizeof magic) != 0) {
    return -1;
  }
  return frame_send_part(&header, sizeof header, crc);
}

int frame_send_part(const void *source, size_t n, uint32_t *crc) {
  *crc = crc_update(*crc, source, n);
  return port_write(source, n);
}

int frame_send_end(uint32_t crc) {
  crc ^= 0xFFFFFFFFu;
  return port_write(&crc, sizeof crc);
}

int frame_send(enum frame_type type, uint16_t sequence, const void *payload, uint32_t length) {
  uint32_t crc;
  if (frame_send_header(type, sequence, length, &crc) != 0 || frame_send_part(payload, length, &crc) != 0) {
    return -1;
  }
  return frame_send_end(crc);
}
