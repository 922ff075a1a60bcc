# SPDX-License-Identifier: Apache-2.0
"""Frames: what is coded is decoded, and damage never yields a frame that was not sent."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.support.rpc import Faults
from tvm_tiny.device.rpc.frame import MAX_PAYLOAD, Decoder, Frame, FrameType, decode, encode, stuff, unstuff

# Runs of zeros and runs of 254 bytes and more are where byte stuffing has its corners.
runs = st.lists(st.tuples(st.sampled_from([0, 1, 255]), st.integers(0, 600)), max_size=4)
payloads = st.one_of(st.binary(max_size=600), runs.map(lambda r: b"".join(bytes([value]) * count for value, count in r)))


@given(payloads)
def test_stuffing_is_undone_and_has_no_zeros(data: bytes) -> None:
    coded = stuff(data)
    assert 0 not in coded
    assert unstuff(coded) == data
    assert len(coded) <= len(data) + len(data) // 254 + 1


@given(st.binary(min_size=1, max_size=300).map(lambda b: b.replace(b"\0", b"\1")))
def test_unstuffing_takes_anything(noise: bytes) -> None:
    data = unstuff(noise)
    assert data is None or len(data) < len(noise)


@given(payloads, st.integers(0, 2**16 - 1), st.integers(1, 2**32 - 1))
def test_frames_survive(payload: bytes, sequence: int, session: int) -> None:
    frame = Frame(FrameType.DEVICE_DATA, 1, sequence, session, payload)
    assert Decoder().feed(encode(frame)) == [frame]


def test_every_single_bit_matters() -> None:
    coded = encode(Frame(FrameType.DEVICE_DATA, 1, 7, 99, bytes(range(40))))[1:-1]
    for bit in range(8 * len(coded)):
        damaged = bytearray(coded)
        damaged[bit // 8] ^= 1 << bit % 8
        assert all(decode(piece) is None for piece in bytes(damaged).split(b"\0"))


def test_a_noisy_stream_yields_only_what_was_sent() -> None:
    rng = random.Random(2)
    sent = [Frame(FrameType.DEVICE_DATA, 0, i, 5, rng.randbytes(rng.randrange(300))) for i in range(2000)]
    faults = Faults(drop=5e-4, flip=5e-4, double=5e-4, insert=5e-4, rng=rng)
    decoder, got = Decoder(), []
    for frame in sent:
        got += decoder.feed(faults.damage(encode(frame)))
    expected = {frame.sequence: frame for frame in sent}
    assert all(frame == expected[frame.sequence] for frame in got)
    assert 0 < decoder.damaged
    assert len(sent) - len(got) <= faults.done  # each fault costs at most one frame: the next zero brings the receiver back in step
    assert len(got) > 1000


def test_a_line_without_zeros_fills_no_memory() -> None:
    decoder = Decoder()
    for _ in range(100):
        assert decoder.feed(b"\x55" * 65536) == []
    assert len(decoder._piece) <= 3 * MAX_PAYLOAD
    frame = Frame(FrameType.DEVICE_ACK, 0, 1, 2)
    assert decoder.feed(encode(frame)) == [frame]
