# SPDX-License-Identifier: Apache-2.0
"""A device made of Python functions: what the bridge serves where the work is done on this machine, such as booting images in an emulator.

It speaks the packets of TVM's RPC (docs/rpc.md) as far as calls of named functions need them; it has no memory for tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from tvm_tiny.device.rpc.link import DeviceInfo
from tvm_tiny.device.rpc.packets import Code, code_of, exception_packet, packet
from tvm_tiny.errors import DeviceError, TinyError

Function = Callable[..., Any]
# Type indices of TVM's FFI.
_NONE, _INT, _BOOL, _FLOAT, _POINTER, _RAW_STR, _BYTE_ARRAY, _SMALL_STR, _SMALL_BYTES, _STR, _BYTES = 0, 1, 2, 3, 4, 8, 9, 11, 12, 65, 66
_I32, _I64, _U64, _F64 = struct.Struct("<i"), struct.Struct("<q"), struct.Struct("<Q"), struct.Struct("<d")
_HEAD = _U64.size + _I32.size
_VERSION = b"0.8.0"
LONGEST_PACKET = 64 << 20


class UnreadableError(ValueError):
    """A packet that is no packet of TVM's RPC, or asks for what is not here."""


class HostedDevice:
    """Functions by name, called with numbers, strings and bytes, which they return too.

    An error of tvm_tiny or of Python in a function arrives at the client as an exception. DeviceError says that the device itself is lost:
    the bridge ends the session, and withdraws the device until `probe` passes.

    Parameters
    ----------
    functions
    probe
        Raises DeviceError when the device can't be used.
    """

    def __init__(self, functions: Mapping[str, Function], probe: Callable[[], None] = lambda: None) -> None:
        self._functions, self._probe = dict(functions), probe
        self._names = list(self._functions)

    def open_session(self, _timeout: float) -> DeviceInfo:
        """Probe the device.

        Raises
        ------
        DeviceError
            It can't be used.
        """
        self._probe()
        return DeviceInfo(0, LONGEST_PACKET, 0)

    def request(self, message: bytes, _timeout: float) -> bytes:
        """Answer a packet. Functions keep their own time.

        Raises
        ------
        DeviceError
            The device was lost.
        """
        try:
            return self._answer(code_of(message), message[_HEAD:])
        except DeviceError:
            raise
        except (TinyError, UnreadableError) as error:
            return exception_packet(f"{type(error).__name__}: {error}")
        except Exception as error:
            return exception_packet(f"RuntimeError: {type(error).__name__}: {error}")

    def _answer(self, code: int, body: bytes) -> bytes:
        if code == Code.INIT_SERVER:
            (size,) = _U64.unpack_from(body)
            if body[_U64.size : _U64.size + size] != _VERSION:
                raise UnreadableError(f"the client speaks another version than {_VERSION.decode()}")
            return _returned(_none())
        if code == Code.GET_GLOBAL_FUNC:
            (name,) = read_values(body)
            handle = self._names.index(name) + 1 if name in self._functions else 0
            return _returned(_I32.pack(_POINTER) + _U64.pack(handle))
        if code == Code.CALL_FUNC:
            return self._call(_U64.unpack_from(body)[0], read_values(body[_U64.size :]))
        if code in (Code.FREE_HANDLE, Code.STREAM_SYNC):
            return _returned(_none())
        if code == Code.SHUTDOWN:
            return b""
        raise UnreadableError(f"a packet of code {code}: there is no memory for tensors here")

    def _call(self, handle: int, arguments: list[Any]) -> bytes:
        if not 0 < handle <= len(self._names):
            raise UnreadableError("no function of this device")
        kind, value = _coded(self._functions[self._names[handle - 1]](*arguments))
        return _returned(_I32.pack(_INT) + _I64.pack(kind), value)


def read_values(body: bytes) -> list[Any]:
    """The values of a packed sequence: numbers, None, str and bytes.

    Raises
    ------
    UnreadableError
        It is cut short, or holds anything else.
    """
    try:
        (count,), at, values = _I32.unpack_from(body), _I32.size, []
        for _ in range(count):
            value, at = _read_value(body, at)
            values.append(value)
    except struct.error:
        raise UnreadableError("a packet that is too short") from None
    return values


def _read_value(body: bytes, at: int) -> tuple[Any, int]:
    (kind,), at = _I32.unpack_from(body, at), at + _I32.size
    if kind == _NONE:
        return None, at
    if kind in (_INT, _BOOL):
        return _I64.unpack_from(body, at)[0], at + _I64.size
    if kind == _FLOAT:
        return _F64.unpack_from(body, at)[0], at + _F64.size
    if kind in (_SMALL_STR, _SMALL_BYTES, _STR, _BYTES):  # sent as objects, with a second index in front
        (kind,), at = _I32.unpack_from(body, at), at + _I32.size
    if kind not in (_RAW_STR, _BYTE_ARRAY, _STR, _BYTES):
        raise UnreadableError(f"an argument of type {kind}")
    (size,), at = _U64.unpack_from(body, at), at + _U64.size
    data = body[at : at + size]
    if len(data) < size:
        raise UnreadableError("a packet that is too short")
    return data if kind in (_BYTE_ARRAY, _BYTES) else data.decode(), at + size


def _none() -> bytes:
    return _I32.pack(_NONE)


def _coded(value: Any) -> tuple[int, bytes]:
    """Type index of a result, and the result as a value of a packed sequence."""
    if value is None:
        return _NONE, _none()
    if isinstance(value, int):
        return _INT, _I32.pack(_INT) + _I64.pack(value)
    if isinstance(value, float):
        return _FLOAT, _I32.pack(_FLOAT) + _F64.pack(value)
    if isinstance(value, str):
        data = value.encode()
        return _STR, _I32.pack(_RAW_STR) + _U64.pack(len(data)) + data
    if isinstance(value, bytes):
        return _BYTES, _I32.pack(_BYTE_ARRAY) + _U64.pack(len(value)) + value
    raise TypeError(f"a result of type {type(value).__name__} can't be sent")


def _returned(*values: bytes) -> bytes:
    return packet(Code.RETURN, _I32.pack(len(values)) + b"".join(values))
