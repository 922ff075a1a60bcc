# SPDX-License-Identifier: Apache-2.0
"""Frames between bridge and device: the host's half of microtvm_projects/rpc/src/link.c (docs/rpc.md, "Frames").

A frame is `type u8 | flags u8 | sequence u16 | session u32 | payload | CRC-32 u32`, little-endian, byte-stuffed (COBS) so that a zero
byte ends it and occurs nowhere else: after any damage the next zero brings the receiver back in step.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

LINK_VERSION = 1
FLAG_LAST = 1
MAX_PAYLOAD = 4096
_HEADER = struct.Struct("<BBHI")
_CRC = struct.Struct("<I")
_LONGEST = _HEADER.size + MAX_PAYLOAD + _CRC.size


class FrameType(enum.IntEnum):
    """Types of frame; bit 7 says that it comes from the device, so that an echo is never taken for an answer."""

    HOST_SYNC = 0x01
    HOST_DATA = 0x02
    HOST_PULL = 0x03
    DEVICE_SYNC = 0x81
    DEVICE_ACK = 0x82
    DEVICE_DATA = 0x83
    DEVICE_NO_SESSION = 0x84
    DEVICE_FAULT = 0x85


@dataclass(frozen=True)
class Frame:
    """One frame; `session` is not 0 on a live line, `sequence` counts modulo 2^16."""

    type: int
    flags: int
    sequence: int
    session: int
    payload: bytes = b""

    @property
    def last(self) -> bool:
        """Whether it ends its message."""
        return bool(self.flags & FLAG_LAST)


def stuff(data: bytes) -> bytes:
    """Code `data` without zero bytes: each block is its length plus one, then up to 254 bytes; a shorter one stands for a zero behind."""
    coded = bytearray()
    at, more = 0, True
    while more:
        zero = data.find(0, at, at + 254)
        end = zero if zero >= 0 else min(at + 254, len(data))
        coded.append(end - at + 1)
        coded += data[at:end]
        more = end < len(data)
        at = end + 1 if more and end - at < 254 else end
    return bytes(coded)


def unstuff(coded: bytes) -> bytes | None:
    """Inverse of `stuff`; None when a block is cut short."""
    data = bytearray()
    at, zero = 0, False
    while at < len(coded):
        code = coded[at]
        if zero:
            data.append(0)
        if at + code > len(coded):
            return None
        data += coded[at + 1 : at + code]
        zero = code != 0xFF
        at += code
    return bytes(data)


def encode(frame: Frame) -> bytes:
    """Bytes of a frame on the line, with a zero in front (ends whatever noise came before) and one behind."""
    raw = _HEADER.pack(frame.type, frame.flags, frame.sequence, frame.session) + frame.payload
    return b"\0" + stuff(raw + _CRC.pack(zlib.crc32(raw))) + b"\0"


def decode(coded: bytes) -> Frame | None:
    """The frame between two zeros, or None when it is damaged."""
    raw = unstuff(coded)
    if raw is None or len(raw) < _HEADER.size + _CRC.size:
        return None
    raw, crc = raw[: -_CRC.size], raw[-_CRC.size :]
    if crc != _CRC.pack(zlib.crc32(raw)):
        return None
    kind, flags, sequence, session = _HEADER.unpack_from(raw)
    return Frame(kind, flags, sequence, session, raw[_HEADER.size :])


class Decoder:
    """Cuts a stream of bytes into frames and drops what is damaged.

    Attributes
    ----------
    damaged : int
        How many non-empty pieces between zeros were no frame.
    """

    def __init__(self) -> None:
        self.damaged = 0
        self._piece = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The whole frames that end in `data`."""
        pieces = (bytes(self._piece) + data).split(b"\0")
        # A line that never sends a zero must not fill the memory: nothing this long can become a frame.
        self._piece = bytearray(pieces.pop()[-2 * _LONGEST :])
        frames = [decode(piece) for piece in pieces if piece]
        self.damaged += frames.count(None)
        return [frame for frame in frames if frame is not None]
