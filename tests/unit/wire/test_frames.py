"""Framed files: what is cut off, damaged, overlong or goes on behind its end is never taken for whole."""

from __future__ import annotations

import io
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Tampered
from birthmark.wire.frames import FRAME_LIMIT, FrameWriter, read_frames, read_whole_frames

MAGIC = b"test/1"
FRAMES = [(b"H", b"header"), (b"C", b""), (b"C", b"x" * 300)]


def written(frames: list[tuple[bytes, bytes]]) -> bytes:
    parts: list[bytes] = []
    writer = FrameWriter(parts.append, MAGIC)
    for kind, payload in frames:
        writer.frame(kind, payload)
    writer.end()
    return b"".join(parts)


def read(data: bytes, **more: int) -> list[tuple[bytes, bytes]]:
    return list(read_frames(io.BytesIO(data).read, MAGIC, **more))


def refusal(data: bytes, **more: int) -> str:
    with pytest.raises(Tampered) as caught:
        read(data, **more)
    return caught.value.code


def test_octets_are_those_of_the_page() -> None:
    body = b"test/1\nH\0\0\0\x06headerC\0\0\0\0C\0\0\x01\x2c" + b"x" * 300
    assert written(FRAMES) == body + b"Z\0\0\0\x20" + sha256(body).digest()


def test_frames_come_back_and_the_digest_with_them() -> None:
    data, digest = written(FRAMES), sha256()
    assert list(read_frames(io.BytesIO(data).read, MAGIC, digest=digest)) == FRAMES
    assert digest.digest() == data[-32:]


def test_every_cut_is_noticed() -> None:
    data = written(FRAMES)
    codes = {refusal(data[:at]) for at in range(len(data))}
    assert codes == {"frames.magic", "frames.truncated"}


def test_every_flipped_bit_is_noticed() -> None:
    data = written(FRAMES)
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        assert refusal(bytes(flipped)).startswith("frames.")


def test_something_behind_the_end_is_noticed() -> None:
    assert refusal(written(FRAMES) + b"\0") == "frames.trailing"
    assert refusal(written(FRAMES) * 2) == "frames.trailing"


def test_frames_in_another_order_are_noticed() -> None:
    data = written(FRAMES)
    swapped = written([FRAMES[0], FRAMES[2], FRAMES[1]])
    assert refusal(swapped[:-32] + data[-32:]) == "frames.digest"


def test_length_that_lies_costs_no_memory() -> None:
    asked: list[int] = []
    source = io.BytesIO(MAGIC + b"\nC\xff\xff\xff\xff")

    def reading(octets: int) -> bytes:
        asked.append(octets)
        return source.read(octets)

    with pytest.raises(Tampered) as caught:
        list(read_frames(reading, MAGIC))
    assert caught.value.code == "frames.too_long"
    assert max(asked) <= len(MAGIC) + 1


def test_a_limit_below_the_format_s_holds() -> None:
    assert refusal(written(FRAMES), limit=299) == "frames.too_long"
    assert read(written(FRAMES), limit=300) == FRAMES


@pytest.mark.parametrize(("kind", "octets"), [(b"", 1), (b"CC", 1), (b"C", FRAME_LIMIT + 1)])
def test_what_no_reader_would_take_is_not_written(kind: bytes, octets: int) -> None:
    with pytest.raises(ValueError, match="frame"):
        FrameWriter(lambda data: None, MAGIC).frame(kind, bytes(octets))


def test_an_unfinished_file_is_gone_on_with_to_the_same_octets() -> None:
    data = written(FRAMES)
    for at in range(len(data)):
        kept = list(read_whole_frames(io.BytesIO(data[:at]).read, MAGIC))
        assert kept == FRAMES[: len(kept)]
        if at < len(MAGIC) + 1:
            assert kept == []
            continue
        rest: list[bytes] = []
        writer = FrameWriter(rest.append, MAGIC, kept=True)
        for frame in kept:
            writer.keep(*frame)
        begin = writer.octets
        for frame in FRAMES[len(kept) :]:
            writer.frame(*frame)
        digest = writer.end()
        assert data[:begin] + b"".join(rest) == data
        assert digest == data[-32:]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_by_name_and_yields_whole_frames_at_most(noise: bytes) -> None:
    for data in (noise, MAGIC + b"\n" + noise, MAGIC + b"\nC\0\0\0\x05" + noise):
        assert refusal(data).startswith("frames.")
        for _, payload in read_whole_frames(io.BytesIO(data).read, MAGIC):
            assert len(payload) <= len(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"A", b"C", b"E"]), st.binary(max_size=200)), max_size=8))
def test_whatever_is_written_is_read(frames: list[tuple[bytes, bytes]]) -> None:
    assert read(written(frames)) == frames
    assert list(read_whole_frames(io.BytesIO(written(frames)).read, MAGIC)) == frames
