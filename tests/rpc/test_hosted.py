# SPDX-License-Identifier: Apache-2.0
"""Devices made of Python functions, packet by packet; behind the bridge they are used in tests/test_fleet_tuning.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tvm_tiny.device.rpc.hosted import HostedDevice, UnreadableError, read_values
from tvm_tiny.device.rpc.packets import Code, packet
from tvm_tiny.errors import DeviceError, OptionError

INIT = packet(Code.INIT_SERVER, struct.pack("<Q5si", 5, b"0.8.0", 0))


def text(value: str) -> bytes:
    return struct.pack("<iQ", 8, len(value)) + value.encode()


def sequence(*values: bytes) -> bytes:
    return struct.pack("<i", len(values)) + b"".join(values)


def call(device: HostedDevice, name: str, *values: bytes) -> bytes:
    """The answer to a call, its code in front."""
    found = device.request(packet(Code.GET_GLOBAL_FUNC, sequence(text(name))), 1)
    handle = struct.unpack_from("<Q", found, 20)[0]
    return device.request(packet(Code.CALL_FUNC, struct.pack("<Q", handle) + sequence(*values)), 1)[8:]


def failing(error: Exception) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


RESULTS = [
    (None, struct.pack("<iiiqi", 4, 2, 1, 0, 0)),
    (7, struct.pack("<iiiqiq", 4, 2, 1, 1, 1, 7)),
    (1.5, struct.pack("<iiiqid", 4, 2, 1, 3, 3, 1.5)),
    ("ü", struct.pack("<iiiqiQ", 4, 2, 1, 65, 8, 2) + "ü".encode()),
    (b"\0b", struct.pack("<iiiqiQ", 4, 2, 1, 66, 9, 2) + b"\0b"),
]


@pytest.mark.parametrize(("value", "answer"), RESULTS, ids=lambda v: repr(v)[:12])
def test_results(value: Any, answer: bytes) -> None:
    """Two values, the type's index before the result: what TVM's client expects of a call."""
    device = HostedDevice({"f": lambda: value})
    assert device.request(INIT, 1) == packet(Code.RETURN, struct.pack("<ii", 1, 0))
    assert call(device, "f") == answer


def test_arguments() -> None:
    """Numbers, None, strings, and bytes tagged twice as the client sends them."""
    values = [
        struct.pack("<iq", 1, -3), struct.pack("<iq", 2, 1), struct.pack("<id", 3, 2.5), struct.pack("<i", 0), text("name"),
        struct.pack("<iiQ", 66, 66, 3) + b"abc", struct.pack("<iiQ", 12, 66, 1) + b"\0",
    ]  # fmt: skip
    assert read_values(sequence(*values)) == [-3, 1, 2.5, None, "name", b"abc", b"\0"]
    whole = sequence(*values)
    for end in range(len(whole)):
        with pytest.raises(UnreadableError):
            read_values(whole[:end])
    with pytest.raises(UnreadableError, match="an argument of type 7"):
        read_values(sequence(struct.pack("<i", 7)))


def test_errors_are_answers_and_a_lost_device_is_not() -> None:
    device = HostedDevice(
        {
            "user": failing(OptionError("no such thing", remedy="take another")),
            "bug": failing(KeyError("k")),
            "lost": failing(DeviceError("gone")),
            "odd": lambda: object(),
        }
    )
    assert b"OptionError: " in call(device, "user")
    assert b"no such thing" in call(device, "user")
    assert b"RuntimeError: KeyError: 'k'" in call(device, "bug")
    assert b"a result of type object can't be sent" in call(device, "odd")
    with pytest.raises(DeviceError, match="gone"):
        call(device, "lost")


def test_what_is_not_there() -> None:
    device = HostedDevice({"f": lambda: None})
    assert device.request(packet(Code.GET_GLOBAL_FUNC, sequence(text("g"))), 1)[20:] == bytes(8)
    for message, words in (
        (packet(Code.CALL_FUNC, struct.pack("<Qi", 2, 0)), b"no function of this device"),
        (packet(Code.CALL_FUNC, b"\1"), b"RuntimeError"),
        (struct.pack("<Qi", 4, 17), b"no memory for tensors"),
        (packet(Code.INIT_SERVER, struct.pack("<Q5si", 5, b"0.9.9", 0)), b"another version than 0.8.0"),
    ):
        assert words in device.request(message, 1)
    assert device.request(packet(Code.SHUTDOWN), 1) == b""


def test_a_device_that_can_not_be_used_opens_no_session() -> None:
    with pytest.raises(DeviceError, match="unplugged"):
        HostedDevice({}, failing(DeviceError("unplugged"))).open_session(1)
