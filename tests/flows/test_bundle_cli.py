"""An order travels in a bundle: sealed and opened by the commands, read by a decoder written from the page alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from birthmark.model.events import SiteReported, SiteSettled, SiteStopped
from birthmark.shell.cli.main import main
from birthmark.shell.workspace.wiring import open_workspace
from support.bundleworld import DEVICES, GONE, ORDER, SITE, Pair, build_pair, call

AT = "2026-11-24T02:10:11.123Z"


@pytest.fixture(scope="module")
def assigned(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A made order of 600, three of which are used at the authority, assigned to a site."""
    return build_pair(tmp_path_factory.mktemp("pair"), gone=True)


@pytest.fixture(scope="module")
def carried(assigned: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same with its bundle sealed."""
    pair = assigned.copy(tmp_path_factory.mktemp("carried"))
    move(pair, assigned)
    assert pair.seal() == 0
    return pair


@pytest.fixture
def pair(carried: Pair, tmp_path: Path) -> Pair:
    copied = carried.copy(tmp_path / "pair")
    move(copied, carried)
    return copied


@pytest.fixture
def unsealed(assigned: Pair, tmp_path: Path) -> Pair:
    copied = assigned.copy(tmp_path / "pair")
    move(copied, assigned)
    return copied


def move(pair: Pair, source: Pair) -> None:
    """Let the settings of a copy name its own passphrase."""
    for place in (pair.authority, pair.site):
        settings = place / "birthmark.toml"
        settings.write_text(settings.read_text().replace(str(source.root), str(pair.root)))


# A second implementation, from docs/formats/bundle.md and vault.md.


def frames(data: bytes, magic: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert data.startswith(magic + b"\n")
    at = len(magic) + 1
    while True:
        kind, length = data[at : at + 1], struct.unpack(">I", data[at + 1 : at + 5])[0]
        payload = data[at + 5 : at + 5 + length]
        assert len(payload) == length
        if kind == b"Z":
            assert payload == hashlib.sha256(data[:at]).digest()
            assert at + 5 + length == len(data)
            return
        yield kind, payload
        at += 5 + length


def parts(payload: bytes) -> list[bytes]:
    found = []
    while payload:
        length = struct.unpack(">I", payload[:4])[0]
        found.append(payload[4 : 4 + length])
        payload = payload[4 + length :]
    return found


def site_keys(pair: Pair) -> tuple[Any, Any]:
    passphrase = (pair.authority / "secrets" / "passphrase").read_bytes()
    pem = (pair.site / "keys" / "vault.pem").read_bytes()
    blocks = [b"-----BEGIN" + block for block in pem.split(b"-----BEGIN")[1:]]
    mlkem, x25519 = (load_pem_private_key(block, passphrase) for block in blocks)
    return mlkem, x25519


def hpke(pair: Pair, suite: str) -> tuple[Suite, Any]:
    mlkem, x25519 = site_keys(pair)
    kem, key = {
        "mlkem768-x25519": (KEM.MLKEM768_X25519, MLKEM768X25519PrivateKey(mlkem, x25519)),
        "x25519": (KEM.X25519, x25519),
    }[suite]
    return Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM), key


def decode(pair: Pair) -> dict[str, tuple[bytes, bytes]]:
    """Return device serial → (certificate, private key) of everything in the bundle."""
    (kind, header_payload), *chunks = frames(pair.bundle.read_bytes(), b"birthmark-bundle/1")
    assert kind == b"H"
    header = json.loads(header_payload)
    suite, key = hpke(pair, header["suite"])
    found: dict[str, tuple[bytes, bytes]] = {}
    for number, (kind, payload) in enumerate(chunks):
        assert kind == b"C"
        told, serials, bits, packed, sealed, slots = parts(payload)
        facts = json.loads(told)
        assert facts["chunk"] == number
        info = b"birthmark-bundle/1\0" + hashlib.sha256(header_payload).digest() + struct.pack(">Q", number)
        assert hashlib.sha256(sealed[32:]).digest() == sealed[:32]
        content = AESGCM(suite.decrypt(sealed[32:], key, info))
        for place, serial in enumerate(serials.decode().split("\n")):
            slot = slots[place * header["slot_octets"] :][: header["slot_octets"]]
            if not bits[place // 8] & 0x80 >> place % 8:
                assert slot == bytes(len(slot))
                continue
            length = struct.unpack(">H", packed[:2])[0]
            certificate, packed = packed[2 : 2 + length], packed[2 + length :]
            spki = x509.load_der_x509_certificate(certificate).public_key().public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            )  # fmt: skip
            plain = content.decrypt(place.to_bytes(12, "big"), slot, hashlib.sha256(spki).digest())
            found[serial] = (certificate, plain)
        assert packed == b""
    return found


def without_filling(plain: bytes) -> bytes:
    """Return the PKCS#8 by its own DER length: a key may end in a zero itself."""
    assert plain[:2] == b"\x30\x81"
    octets = 3 + plain[2]
    assert plain[octets:].strip(b"\0") == b""
    return plain[:octets]


def open_note(pair: Pair) -> dict[str, Any]:
    """Check the manifest's signature by hand (c2sp.org/signed-note) and return it."""
    import base64

    text, _, signature = pair.manifest.read_bytes().partition(b"\n\n")
    vkey = (pair.authority / "log" / "vkey").read_text().strip()
    public = base64.b64decode(vkey.split("+", 2)[2])[1:]
    octets = base64.b64decode(signature.split(b" ")[2])[4:]
    ed25519.Ed25519PublicKey.from_public_bytes(public).verify(octets, text + b"\n")
    return json.loads(text)


@pytest.mark.parametrize("suite", ["mlkem768-x25519", "x25519"])
def test_a_decoder_from_the_page_alone_reads_every_identity(unsealed: Pair, suite: str) -> None:
    assert unsealed.seal("--suite", suite) == 0
    manifest, found = open_note(unsealed), decode(unsealed)
    assert manifest["bundle_sha256"] == hashlib.sha256(unsealed.bundle.read_bytes()[:-37]).hexdigest()
    assert (manifest["devices"], manifest["quantity"], manifest["chunks"]) == (len(found), DEVICES, 2)
    assert set(found) == {f"TH-{number:04d}" for number in range(1, DEVICES + 1)} - set(GONE)
    keys = set()
    for certificate, plain in found.values():
        public = load_der_private_key(without_filling(plain), None).public_key()
        assert public == x509.load_der_x509_certificate(certificate).public_key()
        keys.add(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert len(keys) == len(found) == DEVICES - len(GONE)
    assert unsealed.bundle.stat().st_mode & 0o077 == 0


def test_from_seal_to_a_provisioned_device(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = call(capsys, "bundle", "open", pair.bundle, "-C", pair.site)
    assert (code, told["taken"], told["before"]) == (0, DEVICES - len(GONE), False)
    for serial in ("TH-0001", "TH-0512", "TH-0600"):
        place = pair.root / "dut" / serial
        place.mkdir(parents=True)
        where = ("--device-serial", serial, "--target", f"files:{place}", "--handshake")
        code, line = call(capsys, "station", "provision", *where, "-C", pair.site)
        assert (code, line["status"]) == (0, "pass"), line
    for workspace in (pair.site, pair.authority):
        assert call(capsys, "ledger", "replay", "-C", workspace)[0] == 0


@pytest.mark.parametrize("serial", list(GONE))
def test_device_that_was_used_at_the_authority_is_not_in_the_bundle(
    pair: Pair, capsys: pytest.CaptureFixture[str], serial: str
) -> None:
    assert pair.open() == 0
    (pair.root / "dut" / serial).mkdir(parents=True, exist_ok=True)
    where = ("--device-serial", serial, "--target", f"files:{pair.root}/dut/{serial}")
    code, line = call(capsys, "station", "provision", *where, "-C", pair.site)
    assert (code, line["error"]) == (3, "pool.not_made")


def test_what_left_cannot_be_drawn_at_the_authority(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    (pair.root / "dut" / "TH-0100").mkdir(parents=True)
    where = ("--device-serial", "TH-0100", "--target", f"files:{pair.root}/dut/TH-0100")
    code, line = call(capsys, "station", "provision", *where, "-C", pair.authority)
    assert code == 3, line
    code, shown = call(capsys, "device", "show", "TH-0100", "-C", pair.authority)
    assert shown["state"] == "consigned"


def test_sealing_again_gives_the_same_octets(pair: Pair) -> None:
    before = pair.bundle.read_bytes(), pair.manifest.read_bytes()
    assert pair.seal() == 0
    assert (pair.bundle.read_bytes(), pair.manifest.read_bytes()) == before


def test_unfinished_file_is_finished_and_keeps_its_whole_chunks(pair: Pair) -> None:
    whole, bundle = pair.bundle.read_bytes(), open_note(pair)["bundle"]
    ends = [len("birthmark-bundle/1\n")]
    for _, payload in frames(whole, b"birthmark-bundle/1"):
        ends.append(ends[-1] + 5 + len(payload))
    for at in (0, 5, 40, ends[1], ends[2] - 1, ends[2], ends[2] + 4000, ends[3], len(whole) - 1):
        pair.bundle.write_bytes(whole[:at])
        assert pair.seal() == 0
        kept = max((end for end in ends if end <= at), default=0)
        finished = pair.bundle.read_bytes()
        assert finished[:kept] == whole[:kept]
        assert (finished == whole) is (kept == ends[-1])
        assert open_note(pair)["bundle"] == bundle
        assert len(decode(pair)) == DEVICES - len(GONE)


def test_torn_pages_of_an_unfinished_file_are_written_anew(pair: Pair) -> None:
    """What a power cut may leave: the length is there, some pages of it are zeros."""
    whole = pair.bundle.read_bytes()
    for at in range(400, len(whole), 9001):
        torn = bytearray(whole)
        torn[at : at + 4096] = bytes(len(torn[at : at + 4096]))
        pair.bundle.write_bytes(torn)
        assert pair.seal() == 0
        assert len(decode(pair)) == DEVICES - len(GONE)


def test_a_file_that_is_something_else_is_never_written_over(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    other = b"my thesis, the only copy"
    pair.bundle.write_bytes(other)
    chosen = ("--order", ORDER, "--site", SITE, "-o", pair.bundle, "-C", pair.authority)
    code, told = call(capsys, "bundle", "seal", *chosen)
    assert (code, told["error"]) == (3, "bundle.file_exists")
    assert pair.bundle.read_bytes() == other


def test_opened_once(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.open() == 0
    size = log_size(pair.site)
    code, told = call(capsys, "bundle", "open", pair.bundle, "-C", pair.site)
    assert (code, told["before"], told["taken"]) == (0, True, 0)
    other = pair.bundle.with_name("again")
    seal = ("--order", ORDER, "--site", SITE, "-o", other, "-C", pair.authority)
    assert call(capsys, "bundle", "seal", *seal)[0] == 0
    assert other.read_bytes() != pair.bundle.read_bytes()
    code, told = call(capsys, "bundle", "open", other, "-C", pair.site)
    assert (code, told["before"]) == (0, True)
    assert log_size(pair.site) == size


def log_size(workspace: Path) -> int:
    database = sqlite3.connect(workspace / "ledger" / "ledger.db")
    try:
        return int(database.execute("SELECT size FROM head").fetchone()[0])
    finally:
        database.close()


def refused_without_trace(pair: Pair, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    size = log_size(pair.site)
    code, told = call(capsys, "bundle", "open", pair.bundle, "-C", pair.site, *more)
    assert code in (2, 3, 7), told
    assert log_size(pair.site) == size
    return str(told["error"])


def test_every_damage_is_refused_and_leaves_no_trace(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    whole = pair.bundle.read_bytes()
    chunks = [payload for kind, payload in frames(whole, b"birthmark-bundle/1") if kind == b"C"]
    head = whole[: whole.index(b"C" + struct.pack(">I", len(chunks[0])))]
    wrong = {
        "cut in the middle": whole[: len(whole) // 2],
        "cut before the end": whole[:-37],
        "cut in the end": whole[:-1],
        "goes on": whole + b"\0",
        "bit in the header": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        "bit in a slot": whole[:-2000] + bytes([whole[-2000] ^ 1]) + whole[-1999:],
        "bit in the digest": whole[:-1] + bytes([whole[-1] ^ 1]),
        "chunks swapped": rebuilt(head, [chunks[1], chunks[0]]),
        "chunk left out": rebuilt(head, chunks[:1]),
        "chunk twice": rebuilt(head, [*chunks, chunks[1]]),
        "no header": rebuilt(b"birthmark-bundle/1\n", chunks),
        "empty": b"",
        "bomb": b"birthmark-bundle/1\nH\xff\xff\xff\xff",
        "a report": b"birthmark-report/1\n",
    }
    for what, data in wrong.items():
        pair.bundle.write_bytes(data)
        assert refused_without_trace(pair, capsys).partition(".")[0] in ("frames", "bundle"), what
    for at in range(19, len(whole), 40_009):
        pair.bundle.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        refused_without_trace(pair, capsys)
    pair.bundle.write_bytes(whole)
    assert pair.open() == 0


def rebuilt(head: bytes, chunks: list[bytes]) -> bytes:
    """Return a file whose own digest is right."""
    body = head + b"".join(b"C" + struct.pack(">I", len(chunk)) + chunk for chunk in chunks)
    return body + b"Z\0\0\0\x20" + hashlib.sha256(body).digest()


def test_forged_manifest_and_a_manifest_of_another_bundle(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = pair.manifest.read_bytes()
    pair.manifest.write_bytes(note.replace(b'"devices":597', b'"devices":598'))
    assert refused_without_trace(pair, capsys) == "document.signature"
    pair.manifest.write_bytes(b"\xff" * 70_000)
    assert refused_without_trace(pair, capsys) == "bundle.file.size"
    pair.manifest.unlink()
    assert refused_without_trace(pair, capsys) == "bundle.file.missing"
    pair.manifest.write_bytes(note)
    assert refused_without_trace(pair, capsys, "--manifest", str(pair.bundle)) == "bundle.file.size"


def test_another_site_opens_nothing(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    """A second site of the same authority got the stick; and a copy of the site's machine with another vault key."""
    from birthmark.shell.bench.pair import introduce, make_site

    with open_workspace(pair.authority) as authority:
        make_site(pair.root / "second", authority, name="second", site_prefix="0303")
        introduce(authority, pair.root / "second", mode="pool")
    code, told = call(capsys, "bundle", "open", pair.bundle, "-C", pair.root / "second")
    assert (code, told["error"]) == (3, "bundle.foreign")
    shutil.copy(pair.root / "second" / "keys" / "vault.pem", pair.site / "keys" / "vault.pem")
    assert refused_without_trace(pair, capsys) == "vault.content_key"
    code, told = call(capsys, "bundle", "open", pair.bundle, "-C", pair.authority)
    assert (code, told["error"]) == (3, "bundle.no_authority")


def test_order_that_is_not_for_the_site_or_not_made_is_not_sealed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = build_pair(tmp_path / "w", devices=3, made=False)
    options = ("-o", made.bundle, "-C", made.authority)
    for order, site, code in (
        (ORDER, SITE, "bundle.unmade"), (ORDER, "nowhere", "site.unknown"), ("nothing", SITE, "order.unknown"),
    ):  # fmt: skip
        size = log_size(made.authority)
        exit_code, told = call(capsys, "bundle", "seal", "--order", order, "--site", site, *options)
        assert (exit_code in (2, 3), told["error"]) == (True, code)
        assert log_size(made.authority) == size
    extra = ("order", "create", "other", "--product", "device", "--quantity", "1", "--first", "X-1")
    assert call(capsys, *extra, "-C", made.authority)[0] == 0
    told = call(capsys, "bundle", "seal", "--order", "other", "--site", SITE, *options)[1]
    assert told["error"] == "bundle.assignment"
    with open_workspace(made.authority) as authority, authority.ledger.transaction() as tx:
        tx.append(SiteStopped(at=AT, site=SITE, reason="it forks", by="tester"))
    told = call(capsys, "bundle", "seal", "--order", ORDER, "--site", SITE, *options)[1]
    assert told["error"] == "site.stopped"


@pytest.mark.parametrize("mode", ["online", "factory_ca"])
def test_work_order_lists_the_devices_and_holds_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: Any
) -> None:
    made = build_pair(tmp_path / "w", mode=mode, devices=700, made=False)
    assert made.seal() == 0
    first = made.bundle.read_bytes(), made.manifest.read_bytes()
    assert made.seal() == 0
    assert (made.bundle.read_bytes(), made.manifest.read_bytes()) == first
    manifest = open_note(made)
    assert (manifest["mode"], manifest["devices"]) == (mode, 700)
    for _, payload in list(frames(first[0], b"birthmark-bundle/1"))[1:]:
        assert parts(payload)[2:] == [b""] * 4
    code, told = call(capsys, "bundle", "open", made.bundle, "-C", made.site)
    assert (code, told["taken"], told["devices"]) == (0, 0, 700)
    assert call(capsys, "bundle", "open", made.bundle, "-C", made.site)[1]["before"] is True
    assert call(capsys, "order", "show", ORDER, "-C", made.site)[1]["open"] == 700
    assert call(capsys, "ledger", "replay", "-C", made.site)[0] == 0


def test_p256_needs_a_key_of_the_site_for_it(unsealed: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    seal = ("bundle", "seal", "--order", ORDER, "--site", SITE, "-o", unsealed.bundle, "-C", unsealed.authority)
    assert call(capsys, *seal, "--suite", "p256")[1]["error"] == "bundle.recipient"
    uri = f"file:keys/bundle.pem?secret=file:{unsealed.authority}/secrets/passphrase"
    pem = unsealed.root / "stick" / "site.pem"
    code, told = call(capsys, "bundle", "recipient", uri, "-o", pem, "-C", unsealed.site)
    assert (code, told["sha256"]) == (0, hashlib.sha256(pem.read_bytes()).hexdigest())
    assert call(capsys, "bundle", "recipient", uri, "-o", pem, "-C", unsealed.site)[1] == told
    assert call(capsys, *seal, "--suite", "p256", "--recipient", pem)[0] == 0
    assert call(capsys, *seal)[1]["error"] == "bundle.suite"
    assert refused_without_trace(unsealed, capsys) == "bundle.recipient"
    assert unsealed.open("--key", uri) == 0
    assert call(capsys, "order", "show", ORDER, "-C", unsealed.site)[1]["stock"] == DEVICES - len(GONE)


def test_show_tells_what_it_is_and_whether_it_is_signed(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    vkey = (pair.authority / "log" / "vkey").read_text().strip()
    code, told = call(capsys, "bundle", "show", pair.bundle)
    assert (code, told["order"], told["devices"], told["manifest"]) == (0, ORDER, 597, "not compared")
    assert call(capsys, "bundle", "show", pair.bundle, "--vkey", vkey)[1]["manifest"] == "verified"
    whole = pair.bundle.read_bytes()
    payloads = list(frames(whole, b"birthmark-bundle/1"))
    changed = payloads[0][1].replace(b'"shenzhen"', b'"shenzhex"')
    head = b"birthmark-bundle/1\nH" + struct.pack(">I", len(changed)) + changed
    pair.bundle.write_bytes(rebuilt(head, [payload for _, payload in payloads[1:]]))
    assert call(capsys, "bundle", "show", pair.bundle)[0] == 0
    assert call(capsys, "bundle", "show", pair.bundle, "--vkey", vkey)[1]["error"] == "bundle.manifest"


def test_leftovers_are_destroyed_on_record_once(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "bundle", "close", ORDER, "--reason", "done", "-C", pair.site)[1]["error"] == "bundle.unopened"
    assert pair.open() == 0
    (pair.root / "dut" / "TH-0100").mkdir(parents=True)
    where = ("--device-serial", "TH-0100", "--target", f"files:{pair.root}/dut/TH-0100")
    assert call(capsys, "station", "provision", *where, "-C", pair.site)[0] == 0
    code, told = call(capsys, "bundle", "close", ORDER, "--reason", "end of lot", "-C", pair.site)
    assert (code, told["closed"]) == (0, 596)
    totals = call(capsys, "order", "show", ORDER, "-C", pair.site)[1]
    assert (totals["stock"], totals["scrapped"], totals["verified"], totals["open"]) == (0, 596, 1, 3)
    size = log_size(pair.site)
    assert call(capsys, "bundle", "close", ORDER, "--reason", "again", "-C", pair.site)[1]["before"] is True
    assert log_size(pair.site) == size
    assert left_in_vault(pair.site) == 0
    assert call(capsys, "ledger", "replay", "-C", pair.site)[0] == 0


def left_in_vault(workspace: Path) -> int:
    """Count the keys that are not erased."""
    database = sqlite3.connect(workspace / "ledger" / "ledger.db")
    try:
        rows = database.execute("SELECT slot_size, slots FROM vault").fetchall()
    finally:
        database.close()
    return sum(slots[at : at + size] != bytes(size) for size, slots in rows for at in range(0, len(slots), size))


def test_leftovers_that_go_back_scrap_no_device(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    assert pair.open() == 0
    close = ("bundle", "close", ORDER, "--reason", "wrong product", "--returned", "-C", pair.site)
    assert call(capsys, *close)[1]["closed"] == 597
    assert left_in_vault(pair.site) == 0
    assert call(capsys, "order", "show", ORDER, "-C", pair.site)[1]["scrapped"] == 0


def test_authority_forgets_only_what_is_known_to_have_arrived(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    forget = ("bundle", "forget", ORDER, "-C", pair.authority)
    assert call(capsys, *forget)[1]["error"] == "bundle.unreported"
    kept = left_in_vault(pair.authority)
    with open_workspace(pair.authority) as authority, authority.ledger.transaction() as tx:
        tx.append(SiteReported(at=AT, site=SITE, size=9, root="00" * 32), b"checkpoint")
    assert call(capsys, *forget)[1]["error"] == "bundle.unreported"
    lines = "\n".join(f"TH-{number:04d} pooled 7 {'00' * 32}" for number in (100, 101, 600))
    with open_workspace(pair.authority) as authority, authority.ledger.transaction() as tx:
        tx.append(SiteSettled(at=AT, site=SITE, order=ORDER, upto=8, count=3), lines.encode())
    told = call(capsys, *forget)[1]
    assert (told["erased"], told["kept"]) == (3, 594)
    assert left_in_vault(pair.authority) == kept - 3
    assert call(capsys, *forget)[1]["erased"] == 0
    assert call(capsys, "ledger", "replay", "-C", pair.authority)[0] == 0
    assert main(["bundle", "forget", "nothing", "-C", str(pair.authority), "--json"]) == 3


def test_bench_measures_product_and_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = call(capsys, "bench", "bundle", "--count", "600", "--parent", tmp_path)
    assert (code, told["bench"], told["count"]) == (0, "bundle", 600)
    assert min(told[name] for name in ("rate", "floor", "ratio", "seal_per_core", "open_per_core", "peak_mb")) > 0
    assert list(tmp_path.iterdir()) == []
