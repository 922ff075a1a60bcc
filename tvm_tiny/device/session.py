# SPDX-License-Identifier: Apache-2.0
"""A conversation with the standalone application: one inference a request, and every way it can fail as a DeviceError."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, replace

from tvm_tiny.device import faults
from tvm_tiny.device.artifact import Artifact
from tvm_tiny.device.faults import DeviceFault, Fault
from tvm_tiny.device.frame import ERRORS, VERSION, Frame, FrameError, FrameType, encode, receive
from tvm_tiny.device.link import Link
from tvm_tiny.device.project import Project
from tvm_tiny.device.transport import TransportClosed
from tvm_tiny.errors import DeviceError

BOOT_TIMEOUT = 30.0
_HELLO = struct.Struct("<4I")
_RESULT = struct.Struct("<iI")
_GOODBYE_TIMEOUT = 5.0
_TIMES_TIMEOUT = 10.0


@dataclass(frozen=True)
class Reply:
    """Answer to one sample: the outputs' bytes, the deepest stack so far in bytes (0: not known) and the seconds it took."""

    outputs: bytes
    stack_used: int
    seconds: float


@dataclass(frozen=True)
class LayerTimes:
    """Ticks of the device's counter that each layer took, and the counter's rate in Hz (0: the device has no counter)."""

    rate: int
    ticks: tuple[int, ...]


class StandaloneSession:
    """Requests over an open link. Not for several threads."""

    def __init__(self, link: Link, project: Project, artifact: Artifact) -> None:
        self._link = link
        self._project = project
        self._artifact = artifact
        self._sequence = 0

    def hello(self, timeout: float = BOOT_TIMEOUT) -> int:
        """Wait for the program to start; returns the bytes of its stack (0: not known)."""
        payload = self._expect(FrameType.HELLO, 0, time.monotonic() + timeout, f"no sign of life within {timeout:g} s of the start").payload
        expected = (VERSION, sum(t.nbytes for t in self._artifact.inputs), sum(t.nbytes for t in self._artifact.outputs))
        if len(payload) != _HELLO.size or _HELLO.unpack(payload)[:3] != expected:
            raise DeviceError(f"{self._where()}: the device runs another program than the one built", remedy="build and flash again")
        return int(_HELLO.unpack(payload)[3])

    def run(self, inputs: bytes, timeout: float) -> Reply:
        """One inference within `timeout` seconds, transfers included."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        start = time.monotonic()
        late = f"no answer within {timeout:g} s"
        self._send(FrameType.RUN, inputs, start + timeout, late)
        payload = self._expect(FrameType.RESULT, self._sequence, start + timeout, late).payload
        size = _RESULT.size + sum(t.nbytes for t in self._artifact.outputs)
        if len(payload) != size:
            raise DeviceError(f"{self._where()}: a result of {len(payload)} bytes came, not {size}")
        status, stack_used = _RESULT.unpack(payload[: _RESULT.size])
        if status != 0:
            raise self._failed_status(status)
        return Reply(payload[_RESULT.size :], stack_used, time.monotonic() - start)

    def times(self) -> LayerTimes:
        """How long each layer of the last run took; the project must have been generated with `hook="times"`."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        deadline, late = time.monotonic() + _TIMES_TIMEOUT, f"no times within {_TIMES_TIMEOUT:g} s"
        self._send(FrameType.TIMES, b"", deadline, late)
        payload = self._expect(FrameType.TIMES, self._sequence, deadline, late).payload
        count = len(self._artifact.layers)
        if len(payload) != 4 * (count + 1):
            raise DeviceError(f"{self._where()}: times of {len(payload) // 4 - 1} layers came, not of {count}")
        rate, *ticks = struct.unpack(f"<{count + 1}I", payload)
        return LayerTimes(rate, tuple(ticks))

    def goodbye(self) -> None:
        """Let the program end by itself."""
        self._send(FrameType.BYE, b"", time.monotonic() + _GOODBYE_TIMEOUT, "the program does not take its goodbye")
        if self._link.process is not None:
            try:
                code = self._link.process.wait(_GOODBYE_TIMEOUT)
            except TimeoutError:
                raise DeviceError(f"{self._where()}: the program does not end") from None
            if code != 0:
                raise DeviceError(f"{self._where()}: the program ended with exit code {code}{self._messages()}")

    def _send(self, kind: FrameType, payload: bytes, deadline: float, late: str) -> None:
        try:
            self._link.transport.write(encode(kind, self._sequence, payload), deadline)
        except TimeoutError:
            raise self._hung(late) from None
        except TransportClosed:
            raise self._died() from None

    def _expect(self, kind: FrameType, sequence: int, deadline: float, late: str) -> Frame:
        try:
            frame = receive(self._link.transport, deadline)
        except TimeoutError:
            raise self._hung(late) from None
        except TransportClosed:
            raise self._died() from None
        except FrameError as error:
            raise DeviceError(f"{self._where()}: {error}{self._messages()}") from None
        if frame.type == FrameType.FAULT:
            raise self._fault(faults.decode(frame.payload))
        if frame.type == FrameType.ERROR:
            code = int.from_bytes(frame.payload[:4], "little")
            raise DeviceError(f"{self._where()}: {ERRORS.get(code, f'error {code} of the device')}")
        if frame.type != kind or frame.sequence != sequence:
            raise DeviceError(f"{self._where()}: {frame.type.name} {frame.sequence} came where {kind.name} {sequence} was expected")
        return frame

    def _hung(self, late: str) -> DeviceFault:
        seen = self._link.where_hung()
        return self._fault(
            replace(seen, what=late) if seen is not None else Fault(late), remedy="a longer timeout helps if it is only slow"
        )

    def _died(self) -> DeviceError:
        process = self._link.process
        code = None if process is None or process.alive() else process.wait(1)
        how = "the line to the device is closed" if code is None else f"the program ended with {_exit_words(code)}"
        lockup = " (a fault while a fault was taken, most often a stack overflow)" if "Lockup" in self._messages() else ""
        return DeviceError(f"{self._where()}: {how}{lockup}{self._messages()}")

    def _fault(self, fault: Fault, remedy: str = "") -> DeviceFault:
        message = f"{self._where()}: {fault.what}"
        if fault.address is not None:
            message += f", data address {fault.address:#010x}"
        if fault.pc is not None:
            place = faults.locate(self._project.elf, fault.pc)
            message += f", at {fault.pc:#010x}{f' in {place}' if place else ''}"
        message += f", {self._artifact.layer_name(fault.layer)}" if fault.layer is not None else ", outside the model's layers"
        if "stack overflow" in fault.what and not remedy:
            remedy = f"raise stack_bytes (now {self._project.options.stack_bytes})" if self._project.board.emulated else "raise `ulimit -s`"
        return DeviceFault(message, fault, remedy=remedy)

    def _failed_status(self, status: int) -> DeviceFault:
        layer = status - 1 if status > 0 else None
        where = f": {self._artifact.layer_name(layer)} failed" if layer is not None else ""
        what = f"tvmgen_{self._artifact.name}_run returned {status}{where}"
        return DeviceFault(f"{self._where()}: {what}", Fault(what, layer=layer))

    def _where(self) -> str:
        return f"{self._project.board.name}: {self._artifact.name}"

    def _messages(self) -> str:
        text = self._link.process.messages() if self._link.process is not None else ""
        return f"\n{text}" if text else ""


def _exit_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
