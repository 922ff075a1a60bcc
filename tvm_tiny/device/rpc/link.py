# SPDX-License-Identifier: Apache-2.0
"""The host's half of the link layer: whole messages over a line that loses, flips, doubles and invents bytes.

The host is the master: it sends one frame, repeats it until the device answers with the same session and sequence number, and goes
on. The device acts on a frame once and answers a repeated one with the same bytes again. So a late answer never passes for another's,
and no call is run twice.
"""

from __future__ import annotations

import secrets
import struct
import time
from dataclasses import dataclass

from tvm_tiny.device import faults
from tvm_tiny.device.rpc.frame import FLAG_LAST, LINK_VERSION, MAX_PAYLOAD, Decoder, Frame, FrameType, encode
from tvm_tiny.device.rpc.line import Line, LineClosedError
from tvm_tiny.errors import DeviceError

# A repetition follows after this many seconds plus the line time of two frames, or sooner, after four round trips as seen so far; each
# further one waits half as long again.
_FIRST_WAIT = 0.15
_SHORTEST_WAIT = 0.04
_LONGEST_WAIT = 1.0
# How many times slower than its rate a line may be before a transfer counts as hung (repetitions, a busy emulator).
_SLACK = 4.0
_SYNC = struct.Struct("<IIII")
_RESET = "the device was reset in the middle of the session"
_REBUILD = "build the firmware with this version of tvm_tiny"


class SilentDeviceError(DeviceError):
    """The device did not answer in time."""

    code = "TINY503"


class DeviceResetError(DeviceError):
    """The device has forgotten its session: it was reset."""

    code = "TINY504"


@dataclass(frozen=True)
class DeviceInfo:
    """What a device says of itself: longest payload of a frame, size of its tensor arena (bytes), rate of its cycle counter (0: none)."""

    max_payload: int
    arena_bytes: int
    cycles_hz: int


@dataclass
class LinkStatistics:
    """What the line cost: frames sent, of these repeated, and damaged ones received."""

    sent: int = 0
    repeated: int = 0
    damaged: int = 0


class DeviceLink:
    """A session with the device at the other end of `line`. Not for use from several threads."""

    def __init__(self, line: Line) -> None:
        self.statistics = LinkStatistics()
        self._line = line
        self._decoder = Decoder()
        self._session = 0
        self._sequence = 0
        self._info = DeviceInfo(64, 0, 0)
        self._round_trip: float | None = None

    def open_session(self, timeout: float) -> DeviceInfo:
        """Begin anew: the device frees all memory and handles of the session before.

        Raises
        ------
        SilentDeviceError
            No answer within `timeout` seconds.
        DeviceError
            The device speaks another version of the link protocol, or the line closed.
        """
        self._session = 1 + secrets.randbelow(0xFFFFFFFF)
        self._sequence = 0
        deadline = time.monotonic() + timeout
        self._wait_for_boot(deadline)
        answer = self._exchange(FrameType.HOST_SYNC, 0, b"", deadline, FrameType.DEVICE_SYNC)
        if len(answer.payload) != _SYNC.size:
            raise DeviceError("the device describes itself in an unknown way", remedy=_REBUILD)
        version, payload, arena, cycles_hz = _SYNC.unpack(answer.payload)
        if version != LINK_VERSION or not 0 < payload <= MAX_PAYLOAD:
            raise DeviceError(f"the device speaks link version {version}, not {LINK_VERSION}", remedy=_REBUILD)
        self._info = DeviceInfo(payload, arena, cycles_hz)
        return self._info

    def request(self, message: bytes, timeout: float) -> bytes:
        """Send a message and return its answer.

        Parameters
        ----------
        timeout
            Seconds the device may compute; the time for the transfers, both ways, is added.

        Raises
        ------
        SilentDeviceError, DeviceResetError, LineClosedError
            No answer came. The session is over: whether the request was carried out is not known.
        """
        deadline = time.monotonic() + timeout + self._transfer_time(len(message))
        size = self._info.max_payload
        pieces = [message[at : at + size] for at in range(0, len(message), size)] or [b""]
        for piece in pieces[:-1]:
            self._next(FrameType.HOST_DATA, 0, piece, deadline, FrameType.DEVICE_ACK)
        answer = self._next(FrameType.HOST_DATA, FLAG_LAST, pieces[-1], deadline, FrameType.DEVICE_DATA)
        parts = [answer.payload]
        while not answer.last:
            # Every piece that arrives shows that the device lives: the answer's length need not be known beforehand.
            deadline = max(deadline, time.monotonic() + timeout)
            answer = self._next(FrameType.HOST_PULL, 0, b"", deadline, FrameType.DEVICE_DATA)
            parts.append(answer.payload)
        return b"".join(parts)

    def _wait_for_boot(self, deadline: float) -> None:
        """A device that opening the line has started introduces itself. QEMU's UART for one is deaf, and stays so, to what comes before."""
        if not self._line.boots:
            return
        self._line.boots = False
        while (left := deadline - time.monotonic()) > 0:
            if any(frame.type == FrameType.DEVICE_SYNC for frame in self._decoder.feed(self._line.read(left))):
                return
        raise SilentDeviceError("the device did not start in time", remedy="does its firmware hold the RPC server?")

    def _transfer_time(self, count: int) -> float:
        return _SLACK * count / self._line.bytes_per_second

    def _next(self, kind: FrameType, flags: int, payload: bytes, deadline: float, wanted: FrameType) -> Frame:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._exchange(kind, flags, payload, deadline, wanted)

    def _exchange(self, kind: FrameType, flags: int, payload: bytes, deadline: float, wanted: FrameType) -> Frame:
        """Send a frame, again and again, until its answer comes."""
        coded = encode(Frame(kind, flags, self._sequence, self._session, payload))
        wait = self._first_wait(len(coded))
        attempts = 0
        while (now := time.monotonic()) < deadline:
            self.statistics.sent += 1
            self.statistics.repeated += attempts > 0
            attempts += 1
            self._write(coded, deadline)
            answer = self._await(wanted, min(deadline, time.monotonic() + wait))
            if answer is not None:
                self._learn(time.monotonic() - now if attempts == 1 else None)
                return answer
            wait = min(1.5 * wait, max(wait, _LONGEST_WAIT))
        raise SilentDeviceError("the device did not answer in time", remedy="reset it; raise the time-out if the function takes longer")

    def _write(self, coded: bytes, deadline: float) -> None:
        try:
            self._line.write(coded, deadline - time.monotonic())
        except LineClosedError:
            self._await(FrameType.DEVICE_FAULT, time.monotonic() + _FIRST_WAIT)  # the last words of a device that crashed while idle
            raise

    def _first_wait(self, count: int) -> float:
        wait = _FIRST_WAIT + (count + self._info.max_payload) / self._line.bytes_per_second * 2
        return wait if self._round_trip is None else min(wait, max(_SHORTEST_WAIT, 4 * self._round_trip))

    def _learn(self, round_trip: float | None) -> None:
        """Only from frames sent once: whose answer came is not known of others (Karn and Partridge, SIGCOMM 1987)."""
        if round_trip is not None:
            self._round_trip = round_trip if self._round_trip is None else 0.75 * self._round_trip + 0.25 * round_trip

    def _await(self, wanted: FrameType, until: float) -> Frame | None:
        while (left := until - time.monotonic()) > 0:
            frames = self._decoder.feed(self._line.read(left))
            self.statistics.damaged = self._decoder.damaged
            for frame in frames:
                if self._is_answer(frame, wanted):
                    return frame
        return None

    def _is_answer(self, frame: Frame, wanted: FrameType) -> bool:
        """False for late copies of what was answered before; raises when the frame says that there will be no answer."""
        if frame.type == FrameType.DEVICE_SYNC and frame.session == 0 and self._sequence != 0:
            raise DeviceResetError(_RESET, remedy="connect again")
        if frame.session != self._session:
            return False
        if frame.type == FrameType.DEVICE_FAULT:
            fault = faults.decode(frame.payload)
            raise faults.DeviceFault(f"the device crashed: {_in_words(fault)}", fault, remedy="connect again: it is restarted")
        if frame.sequence != self._sequence:
            return False
        if frame.type == FrameType.DEVICE_NO_SESSION:
            raise DeviceResetError(_RESET, remedy="connect again")
        return frame.type == wanted


def _in_words(fault: faults.Fault) -> str:
    places = [("in layer", fault.layer), ("at", fault.pc), ("wanting", fault.address)]
    words = [f"{what} {value if what == 'in layer' else hex(value)}" for what, value in places if value is not None]
    return ", ".join([fault.what, *words])
