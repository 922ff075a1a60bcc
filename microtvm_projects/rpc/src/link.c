/* SPDX-License-Identifier: Apache-2.0 */
#include "link.h"

#include <string.h>

#include "crc32.h"
#include "little_endian.h"

#define FRAME_MAX ((uint32_t)(LINK_HEADER + TINY_RPC_MAX_PAYLOAD + LINK_CRC))

typedef char tiny_rpc_max_payload_is_sane[TINY_RPC_MAX_PAYLOAD >= 64 && TINY_RPC_MAX_PAYLOAD <= 4096 ? 1 : -1];

/* ---- bytes: consistent overhead byte stuffing, 0 ends a frame -------------------------------------------------------------- */

static void put_byte(link_t *link, uint8_t byte) {
  if (link->port->put(link->port->context, byte) < 0) link->state = LINK_CLOSED;
}

static void send_frame(link_t *link) {
  const uint8_t *bytes = link->tx.bytes;
  uint32_t at = 0, size = link->tx.size;
  put_byte(link, 0); /* whatever noise came before ends here */
  for (bool more = true; more;) {
    uint32_t run = 0;
    while (run < 254u && at + run < size && bytes[at + run] != 0) ++run;
    put_byte(link, (uint8_t)(run + 1u));
    for (uint32_t i = 0; i < run; ++i) put_byte(link, bytes[at + i]);
    at += run;
    more = at < size;
    if (more && run < 254u) ++at; /* the zero that a block shorter than 254 bytes stands for; if last, an empty block follows */
  }
  put_byte(link, 0);
  if (link->port->flush != NULL && link->port->flush(link->port->context) < 0) link->state = LINK_CLOSED;
}

static void cobs_reset(link_t *link) {
  link->rx.size = 0;
  link->cobs_left = 0;
  link->cobs_zero = false;
  link->cobs_bad = false;
}

static void cobs_push(link_t *link, uint8_t byte) {
  if (link->rx.size == FRAME_MAX) link->cobs_bad = true;
  if (!link->cobs_bad) link->rx.bytes[link->rx.size++] = byte;
}

static void cobs_take(link_t *link, uint8_t byte) {
  if (link->cobs_left != 0) {
    --link->cobs_left;
    cobs_push(link, byte);
    return;
  }
  if (link->cobs_zero) cobs_push(link, 0);
  link->cobs_left = (uint32_t)byte - 1u;
  link->cobs_zero = byte != 0xFFu;
}

/* Wait for one whole frame with a right check sum. */
static bool receive_frame(link_t *link) {
  for (cobs_reset(link);;) {
    int byte = link->port->get(link->port->context);
    if (byte < 0) {
      link->state = LINK_CLOSED;
      return false;
    }
    if (byte != 0) {
      cobs_take(link, (uint8_t)byte);
      continue;
    }
    uint32_t size = link->rx.size;
    bool whole = !link->cobs_bad && link->cobs_left == 0 && size >= LINK_HEADER + LINK_CRC;
    if (whole && tiny_rpc_crc32(link->rx.bytes, size - LINK_CRC) == load_u32(link->rx.bytes + size - LINK_CRC)) {
      link->rx.size = size - LINK_CRC;
      return true;
    }
    cobs_reset(link);
  }
}

/* ---- answers --------------------------------------------------------------------------------------------------------------- */

static void answer_begin(link_t *link, uint8_t type, uint16_t sequence, uint32_t session) {
  link->tx.bytes[0] = type;
  link->tx.bytes[1] = 0;
  store_u16(link->tx.bytes + 2, sequence);
  store_u32(link->tx.bytes + 4, session);
  link->tx.size = LINK_HEADER;
}

static void answer_send(link_t *link) {
  store_u32(link->tx.bytes + link->tx.size, tiny_rpc_crc32(link->tx.bytes, link->tx.size));
  link->tx.size += LINK_CRC;
  send_frame(link);
}

/* Who this is. */
static void introduce(link_t *link) {
  answer_begin(link, LINK_DEVICE_SYNC, 0, link->session);
  uint8_t *payload = link->tx.bytes + LINK_HEADER;
  store_u32(payload, LINK_VERSION);
  store_u32(payload + 4, TINY_RPC_MAX_PAYLOAD);
  store_u32(payload + 8, link->arena_size);
  store_u32(payload + 12, link->port->cycles != NULL ? link->port->cycles_hz : 0u);
  link->tx.size += 16u;
  answer_send(link);
}

static void synchronise(link_t *link, uint32_t session) {
  link->session = session;
  link->sequence = 0;
  link->answered = false;
  link->synchronised = true;
  link->tx_open = false;
  introduce(link);
}

static void refuse(link_t *link, uint16_t sequence, uint32_t session) {
  link->answered = false; /* tx is overwritten */
  answer_begin(link, LINK_DEVICE_NO_SESSION, sequence, session);
  answer_send(link);
}

/* Wait for the next new frame of type `wanted`. What is old is answered again, what does not belong here is dropped. */
static bool receive(link_t *link, uint8_t wanted) {
  while (receive_frame(link)) {
    uint8_t type = link->rx.bytes[0];
    uint16_t sequence = load_u16(link->rx.bytes + 2);
    uint32_t session = load_u32(link->rx.bytes + 4);
    if (type == LINK_HOST_SYNC && session != 0) {
      if (session == link->session && link->sequence != 0) continue; /* a late copy of the one that began this session */
      synchronise(link, session);
      return false;
    }
    if (type != LINK_HOST_DATA && type != LINK_HOST_PULL) continue;
    if (session != link->session || session == 0) {
      if (link->session == 0) refuse(link, sequence, session); /* this device was reset; a frame of an older session is not worth a word */
      continue;
    }
    if (sequence == link->sequence && link->answered) {
      send_frame(link);
    } else if (sequence == (uint16_t)(link->sequence + 1u) && type == wanted) {
      link->sequence = sequence;
      link->answered = false;
      link->rx_at = LINK_HEADER;
      return true;
    }
  }
  return false;
}

/* ---- messages -------------------------------------------------------------------------------------------------------------- */

void link_init(link_t *link, const tiny_rpc_port_t *port, uint32_t arena_size) {
  memset(link, 0, sizeof(*link));
  link->port = port;
  link->arena_size = arena_size;
  link->state = LINK_OPEN;
  introduce(link); /* with session 0: a host that is in a session learns that this device was reset */
}

bool link_next_message(link_t *link) {
  if (link->state == LINK_ABORTED) { /* the new session waits for its first message */
    link->state = LINK_OPEN;
    return false;
  }
  return link->state == LINK_OPEN && receive(link, LINK_HOST_DATA);
}

static bool rx_last(const link_t *link) { return (link->rx.bytes[1] & LINK_FLAG_LAST) != 0; }

bool link_at_end(const link_t *link) { return link->rx_at == link->rx.size && rx_last(link); }

/* Make at least one unread byte available, or return false. */
static bool rx_fill(link_t *link) {
  while (link->state == LINK_OPEN && link->rx_at == link->rx.size) {
    if (rx_last(link)) return false;
    answer_begin(link, LINK_DEVICE_ACK, link->sequence, link->session);
    link->answered = true;
    answer_send(link);
    if (!receive(link, LINK_HOST_DATA) && link->state == LINK_OPEN) link->state = LINK_ABORTED;
  }
  return link->state == LINK_OPEN;
}

bool link_read(link_t *link, void *to, size_t count) {
  uint8_t *bytes = to;
  while (count != 0) {
    if (!rx_fill(link)) return false;
    size_t have = link->rx.size - link->rx_at;
    if (have > count) have = count;
    memcpy(bytes, link->rx.bytes + link->rx_at, have);
    link->rx_at += (uint32_t)have;
    bytes += have;
    count -= have;
  }
  return true;
}

void link_drain(link_t *link) {
  while (rx_fill(link)) link->rx_at = link->rx.size;
}

static void tx_send(link_t *link, uint8_t flags) {
  link->tx.bytes[1] = flags;
  link->answered = true;
  link->tx_open = false;
  answer_send(link);
}

/* Make room for at least one byte of the answer: send the full frame and wait until the host asks for the next. */
static bool tx_room(link_t *link) {
  if (link->tx_open && link->tx.size == LINK_HEADER + TINY_RPC_MAX_PAYLOAD) {
    tx_send(link, 0);
    if (!receive(link, LINK_HOST_PULL) && link->state == LINK_OPEN) link->state = LINK_ABORTED;
  }
  if (link->state != LINK_OPEN) return false;
  if (!link->tx_open) answer_begin(link, LINK_DEVICE_DATA, link->sequence, link->session);
  link->tx_open = true;
  return true;
}

void link_write(link_t *link, const void *from, size_t count) {
  const uint8_t *bytes = from;
  while (count != 0 && tx_room(link)) {
    size_t room = LINK_HEADER + TINY_RPC_MAX_PAYLOAD - link->tx.size;
    if (room > count) room = count;
    memcpy(link->tx.bytes + link->tx.size, bytes, room);
    link->tx.size += (uint32_t)room;
    bytes += room;
    count -= room;
  }
}

void link_finish(link_t *link) {
  if (link->state != LINK_OPEN) return;
  if (!link->tx_open) answer_begin(link, LINK_DEVICE_DATA, link->sequence, link->session);
  tx_send(link, LINK_FLAG_LAST);
}

void link_send_fault(link_t *link, const void *record, size_t bytes) {
  answer_begin(link, LINK_DEVICE_FAULT, link->sequence, link->session);
  memcpy(link->tx.bytes + LINK_HEADER, record, bytes);
  link->tx.size += (uint32_t)bytes;
  answer_send(link);
}
