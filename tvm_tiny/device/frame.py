# SPDX-License-Identifier: Apache-2.0
"""Frames between host and device: the host's half of microtvm_projects/app/frame.h.

`magic u32 | type u16 | sequence u16 | length u32 | payload | crc u32`, little-endian; the CRC is zlib's crc32 over all between.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

from tvm_tiny.device.transport import Transport

MAGIC = 0x31594E54
VERSION = 1
_HEADER = struct.Struct("<HHI")
# No tensor of a microcontroller is longer; a longer length is a damaged header.
_MAX_LENGTH = 1 << 28
# Bytes that may come before a frame (a boot loader's or a runtime's chatter) before the line counts as garbage.
_MAX_NOISE = 1 << 16


class FrameType(enum.IntEnum):
    """Types of frame; see frame.h."""

    HELLO = 1
    RUN = 2
    RESULT = 3
    FAULT = 4
    ERROR = 5
    BYE = 6
    TIMES = 7


ERRORS = {
    1: "the device found a wrong CRC",
    2: "the device expects another number of input bytes",
    3: "the device does not know the request",
}


class FrameError(Exception):
    """What came over the line is no frame."""


@dataclass(frozen=True)
class Frame:
    """One frame as received."""

    type: FrameType
    sequence: int
    payload: bytes


def encode(kind: FrameType, sequence: int, payload: bytes) -> bytes:
    """Bytes of a frame."""
    body = _HEADER.pack(kind, sequence & 0xFFFF, len(payload)) + payload
    return struct.pack("<I", MAGIC) + body + struct.pack("<I", zlib.crc32(body))


def receive(transport: Transport, deadline: float) -> Frame:
    """The next frame; bytes before its magic number are skipped.

    Raises
    ------
    FrameError
        The CRC, type or length is wrong.
    TimeoutError, TransportClosed
        From the transport.
    """
    _find_magic(transport, deadline)
    header = transport.read(_HEADER.size, deadline)
    kind, sequence, length = _HEADER.unpack(header)
    if length > _MAX_LENGTH:
        raise FrameError(f"a frame claims {length} bytes")
    payload = transport.read(length, deadline)
    (crc,) = struct.unpack("<I", transport.read(4, deadline))
    if crc != zlib.crc32(payload, zlib.crc32(header)):
        raise FrameError("a frame came with a wrong CRC")
    try:
        return Frame(FrameType(kind), sequence, payload)
    except ValueError:
        raise FrameError(f"a frame has the unknown type {kind}") from None


def _find_magic(transport: Transport, deadline: float) -> None:
    window = transport.read(4, deadline)
    for _ in range(_MAX_NOISE):
        if struct.unpack("<I", window)[0] == MAGIC:
            return
        window = window[1:] + transport.read(1, deadline)
    raise FrameError(f"no frame within {_MAX_NOISE} bytes")
