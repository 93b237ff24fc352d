"""The report parser reads what a stranger's USB stick holds."""

from __future__ import annotations

import io
from collections.abc import Callable
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import Tampered
from birthmark.tlog.merkle import Frontier, leaf_hashes
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.tiles import encode_entries
from birthmark.wire import report as reports
from birthmark.wire.frames import FrameWriter
from birthmark.wire.report import (
    REPORT_MAGIC,
    Acknowledgement,
    ReportHeader,
    ReportReader,
    open_acknowledgement,
    sign_acknowledgement,
    write_report,
)

ENTRIES = st.lists(st.binary(max_size=300), max_size=40)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def header_of(entries: list[bytes], first: int, size: int | None = None) -> ReportHeader:
    edge = Frontier().extend(leaf_hashes(entries[:first]))
    hashes = tuple(item.hex() for item in edge.hashes)
    return ReportHeader(origin="o/s", first=first, size=len(entries) if size is None else size, edge=hashes)


def written(entries: list[bytes], first: int = 0, size: int | None = None, checkpoint: bytes = b"note") -> bytes:
    file = io.BytesIO()
    write_report(file.write, header_of(entries, first, size), checkpoint, [encode_entries(entries[first:])])
    return file.getvalue()


def framed(*frames: tuple[bytes, bytes]) -> bytes:
    file = io.BytesIO()
    writer = FrameWriter(file.write, REPORT_MAGIC)
    for kind, payload in frames:
        writer.frame(kind, payload)
    writer.end()
    return file.getvalue()


def read(data: bytes) -> tuple[ReportReader, list[bytes]]:
    reader = ReportReader(io.BytesIO(data).read)
    return reader, [entry for piece in reader.entries() for entry in piece]


def refused(data: bytes, *codes: str) -> None:
    with pytest.raises(Tampered) as told:
        read(data)
    assert told.value.code in codes


@given(ENTRIES, st.data())
def test_what_was_written_is_read(entries: list[bytes], data: st.DataObject):
    first = data.draw(st.integers(0, len(entries)))
    reader, found = read(written(entries, first))
    assert found == entries[first:]
    assert reader.checkpoint == b"note"
    assert reader.edge == Frontier().extend(leaf_hashes(entries[:first]))
    assert reader.edge.extend(leaf_hashes(found)) == Frontier().extend(leaf_hashes(entries))


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes):
    for data in (noise, REPORT_MAGIC + b"\n" + noise):
        with pytest.raises(Tampered):
            read(data)


@given(ENTRIES, st.data())
@settings(max_examples=200)
def test_no_change_of_one_octet_goes_unnoticed(entries: list[bytes], data: st.DataObject):
    good = written(entries)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    with pytest.raises(Tampered):
        read(bad)


@given(ENTRIES, st.data())
def test_no_cut_goes_unnoticed(entries: list[bytes], data: st.DataObject):
    good = written(entries)
    with pytest.raises(Tampered):
        read(good[: data.draw(st.integers(0, len(good) - 1))])


@given(st.lists(st.tuples(st.sampled_from([b"H", b"C", b"E", b"X", b"\0"]), st.binary(max_size=60)), max_size=6))
def test_frames_in_any_order_are_read_or_refused(frames: list[tuple[bytes, bytes]]):
    try:
        _, entries = read(framed(*frames))
    except Tampered:
        return
    assert entries == []


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}",
        b'{"edge":[],"first":0,"origin":"o","size":1,"x":1}',
        b'{"edge":[],"first":0,"origin":"o", "size":0}',
        b'{"first":0,"edge":[],"origin":"o","size":0}',
        b'{"edge":[],"first":-1,"origin":"o","size":0}',
        b'{"edge":[],"first":2,"origin":"o","size":1}',
        b'{"edge":[],"first":1,"origin":"o","size":1}',
        b'{"edge":["00"],"first":1,"origin":"o","size":1}',
        b'{"edge":["' + b"0" * 64 + b'"],"first":0,"origin":"o","size":1}',
        b'{"edge":[],"first":0,"origin":"o","size":99999999999999999999}',
        b'{"edge":[],"first":0,"origin":"","size":0}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_is_none_is_refused(header: bytes):
    refused(framed((b"H", header), (b"C", b"note")), "report.malformed")


@pytest.mark.parametrize("size", [2, 4, 1 << 62])
def test_more_or_fewer_entries_than_it_says_are_refused(size: int):
    refused(written([b"a", b"b", b"c"], 0, size), "report.malformed")


def test_an_entry_over_the_end_of_its_frame_is_refused():
    head = b'{"edge":[],"first":0,"origin":"o","size":2}'
    whole = encode_entries([b"aa", b"bb"])
    refused(framed((b"H", head), (b"C", b"n"), (b"E", whole[:3]), (b"E", whole[3:])), "report.malformed")
    refused(framed((b"H", head), (b"C", b"n"), (b"E", b""), (b"E", whole)), "report.malformed")


def test_a_frame_that_claims_a_gigabyte_is_not_waited_for():
    asked: list[int] = []
    source = io.BytesIO(REPORT_MAGIC + b"\nH\x40\x00\x00\x00")

    def reading(count: int) -> bytes:
        asked.append(count)
        return source.read(count)

    with pytest.raises(Tampered, match=r"frames\.too_long"):
        ReportReader(reading)
    assert max(asked) < 100


def test_frames_stay_small_however_the_entries_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reports, "_PIECE_OCTETS", 1000)
    entries = [bytes(number % 700) for number in range(3000)]
    for step in (1, 7, 3000):
        file = io.BytesIO()
        pieces = (encode_entries(entries[at : at + step]) for at in range(0, 3000, step))
        write_report(file.write, header_of(entries, 0), b"note", pieces)
        reader = ReportReader(io.BytesIO(file.getvalue()).read)
        found = list(reader.entries())
        assert [entry for piece in found for entry in piece] == entries
        assert max(sum(2 + len(entry) for entry in piece) for piece in found) < 1000 + 702


@pytest.mark.parametrize("change", [lambda data: data[:-3], lambda data: data.replace(b"7", b"8", 1)])
def test_an_acknowledgement_holds_only_as_it_was_signed(change: Callable[[bytes], bytes]):
    ack = Acknowledgement(
        authority="o", site="s", origin="o/site/s", size=7, root=sha256(b"").hexdigest(), at="2026-11-24T02:10:11.123Z"
    )
    vkey = encode_vkey("o", public_octets(KEY))
    note = sign_acknowledgement(ack, KEY)
    assert open_acknowledgement(note, vkey) == ack
    with pytest.raises(Tampered):
        open_acknowledgement(change(note), vkey)
