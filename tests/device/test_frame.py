# SPDX-License-Identifier: Apache-2.0
"""The framing, Python against the C in the generated application: garbage and damage are refused, the next frame works."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.device_model import expected, sample, write_crasher
from tvm_tiny.boards import find_board
from tvm_tiny.device import ProjectOptions, find_handler
from tvm_tiny.device.artifact import Artifact, open_artifact, pack_inputs, unpack_outputs
from tvm_tiny.device.frame import FrameError, FrameType, encode, receive
from tvm_tiny.device.link import Link
from tvm_tiny.device.runner import built_project
from tvm_tiny.device.session import StandaloneSession
from tvm_tiny.device.transport import FileTransport, TransportClosed

N = 64


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    """A small model."""
    with open_artifact(write_crasher(tmp_path_factory.mktemp("frame") / "mlf", N)) as artifact:
        yield artifact


@pytest.fixture(scope="module")
def session(artifact: Artifact) -> Iterator[tuple[Link, StandaloneSession]]:
    """A native process that has said hello."""
    with (
        built_project(artifact, find_board("native"), ProjectOptions()) as project,
        find_handler(project.board).open_transport(project) as link,
    ):
        talk = StandaloneSession(link, project, artifact)
        talk.hello()
        yield link, talk


def soon() -> float:
    """A deadline."""
    return time.monotonic() + 10


@pytest.mark.host_cc
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda good: good[:-1] + bytes([good[-1] ^ 1]), 1),
        (lambda good: good[:20] + bytes([good[20] ^ 0x80]) + good[21:], 1),
        (lambda good: encode(FrameType.RUN, 7, b"short"), 2),
        (lambda good: encode(FrameType.RESULT, 7, b""), 3),
    ],
)
def test_damaged_frame_is_refused(
    damage, reason: int, session: tuple[Link, StandaloneSession], artifact: Artifact, rng: np.random.Generator
) -> None:
    """Wrong CRC, flipped payload, wrong length, wrong type: an error comes, and the next request is served."""
    link, talk = session
    good = encode(FrameType.RUN, 7, pack_inputs(artifact, sample(rng, N)))
    link.transport.write(damage(good), soon())
    answer = receive(link.transport, soon())
    assert (answer.type, answer.payload) == (FrameType.ERROR, struct.pack("<I", reason))
    inputs = sample(rng, N)
    outputs = unpack_outputs(artifact.outputs, talk.run(pack_inputs(artifact, inputs), 10).outputs)
    np.testing.assert_array_equal(outputs["image_out"], expected(inputs)["image_out"])


@pytest.mark.host_cc
def test_garbage_before_a_frame_is_skipped(session: tuple[Link, StandaloneSession], artifact: Artifact, rng: np.random.Generator) -> None:
    """Also garbage that looks like the start of a magic number."""
    link, talk = session
    link.transport.write(b"TNY" + rng.bytes(300) + b"TNTNY", soon())
    inputs = sample(rng, N)
    outputs = unpack_outputs(artifact.outputs, talk.run(pack_inputs(artifact, inputs), 10).outputs)
    np.testing.assert_array_equal(outputs["sums"], expected(inputs)["sums"])


@pytest.fixture
def loop() -> Iterator[FileTransport]:
    """What is written comes back."""
    transport = FileTransport(*os.pipe(), alive=lambda: True)
    yield transport
    transport.close()


def test_frame_layout(loop: FileTransport) -> None:
    """The bytes are those of frame.h, and come back as they went."""
    data = encode(FrameType.RESULT, 0x1234, b"abc")
    assert data == b"TNY1" + struct.pack("<HHI", 3, 0x1234, 3) + b"abc" + struct.pack("<I", zlib.crc32(data[4:-4]))
    loop.write(b"noise" + data, soon())
    frame = receive(loop, soon())
    assert (frame.type, frame.sequence, frame.payload) == (FrameType.RESULT, 0x1234, b"abc")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode(FrameType.RUN, 1, b"abc")[:-1] + b"\0", "wrong CRC"),
        (b"TNY1" + struct.pack("<HHI", 1, 1, 1 << 30), "claims 1073741824 bytes"),
    ],
)
def test_host_refuses_damage(data: bytes, words: str, loop: FileTransport) -> None:
    """The host's half checks too."""
    loop.write(data, soon())
    with pytest.raises(FrameError, match=words):
        receive(loop, soon())


def test_deadlines(loop: FileTransport) -> None:
    """A silent line, a line nobody reads, and a closed line."""
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        loop.read(1, start + 0.2)
    with pytest.raises(TimeoutError):
        loop.write(bytes(1 << 20), time.monotonic() + 0.2)
    assert time.monotonic() - start < 5
    loop.close()
    loop.close()
    with pytest.raises(TransportClosed):
        loop.read(1, soon())


def test_last_words_of_a_dead_device_are_read() -> None:
    """What came before the end is delivered, then the end."""
    read_fd, write_fd = os.pipe()
    transport = FileTransport(read_fd, write_fd, alive=lambda: False)
    os.write(write_fd, b"xy")
    assert transport.read(2, soon()) == b"xy"
    with pytest.raises(TransportClosed):
        transport.read(1, soon())
    transport.close()


@pytest.mark.host_cc
def test_nothing_stays_in_the_temporary_directory(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Projects and pipes are removed, after success and after a crash."""
    import tempfile

    from tvm_tiny.device import DeviceFault, run

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run(artifact.directory, "native", sample(rng, N))
    with pytest.raises(DeviceFault):
        run(artifact.directory, "native", sample(rng, N, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.host_cc
def test_mutated_frames_under_sanitizers(artifact: Artifact, rng: np.random.Generator) -> None:
    """Frames with flipped bits, each followed by a sound one: never a crash, a hang or a wrong answer (AddressSanitizer, UBSan)."""
    options = ProjectOptions(extra_flags=("-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    with built_project(artifact, find_board("native"), options) as project, find_handler(project.board).open_transport(project) as link:
        assert receive(link.transport, soon()).type == FrameType.HELLO
        refused = sum(_damaged_then_sound(link, artifact, rng, i) for i in range(1, 1001))
        assert link.process is not None
        assert link.process.alive()
    # Damage to the magic number is skipped without a word; all other damage is answered.
    assert 700 < refused <= 1000


def _damaged_then_sound(link: Link, artifact: Artifact, rng: np.random.Generator, sequence: int) -> bool:
    """Whether the damaged frame was refused aloud. The sound one must be answered exactly."""
    inputs = sample(rng, N)
    data = pack_inputs(artifact, inputs)
    damaged = bytearray(encode(FrameType.RUN, 0, data))
    # Half of the flips hit the header, where most can go wrong.
    at = int(rng.integers(16 if rng.random() < 0.5 else len(damaged)))
    damaged[at] ^= 1 << int(rng.integers(8))
    link.transport.write(bytes(damaged) + encode(FrameType.RUN, sequence, data), soon())
    answer = receive(link.transport, soon())
    refused = answer.type == FrameType.ERROR
    if refused:
        answer = receive(link.transport, soon())
    assert (answer.type, answer.sequence) == (FrameType.RESULT, sequence)
    np.testing.assert_array_equal(unpack_outputs(artifact.outputs, answer.payload[8:])["image_out"], expected(inputs)["image_out"])
    return refused


@pytest.mark.host_cc
def test_an_empty_hello_is_answered(session: tuple[Link, StandaloneSession], artifact: Artifact) -> None:
    """A host that comes late asks; the answer carries the question's number, and a damaged question is refused."""
    link, _ = session
    question = encode(FrameType.HELLO, 9, b"")
    link.transport.write(question, soon())
    answer = receive(link.transport, soon())
    assert (answer.type, answer.sequence) == (FrameType.HELLO, 9)
    assert struct.unpack("<4I", answer.payload)[1] == sum(t.nbytes for t in artifact.inputs)
    link.transport.write(question[:-1] + bytes([question[-1] ^ 1]), soon())
    assert receive(link.transport, soon()).type == FrameType.ERROR
