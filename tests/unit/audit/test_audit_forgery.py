"""Somebody who holds the keys of log and CA rewrites history: all hashes agree, the invariants do not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.model import events as e
from support.forgery import AT, Entries, appended, changed, document_of, entry_of, find, without
from support.make_ledger import ORIGIN, STATION, LedgerMaker, ca_certificate, database, publish, rewrite_log, serials

LOG = ("audit.entry.hash", "audit.tile.mismatch", "audit.tile.root", "audit.checkpoint.root", "audit.checkpoint.fork")


def _forge(story, change: Callable[[Entries], Entries]) -> set[str]:
    """Rewrite the log; return the codes found. Whatever happened, the log itself must be consistent again."""
    rewrite_log(story.root, story.maker.log_key, change)
    totals = story.audit().totals
    assert not set(totals) & set(LOG), totals
    return set(totals)


def test_a_rewritten_log_without_changes_is_lawful(story) -> None:
    assert _forge(story, lambda entries: entries) == set()


def test_device_drawn_twice_is_found(story) -> None:
    drawn = {"at": AT, "attempt": "attempt-9999", "device": "P-00020", "station": STATION, "type": "drawn"}
    assert {"audit.pool.drawn_twice", "audit.fold.attempt"} <= _forge(story, appended(entry_of(drawn, b"")))


def test_verified_without_installation_is_found(story) -> None:
    assert "audit.device.state" in _forge(story, without("installed", device="P-00007"))


def test_verified_pool_key_without_erasure_record_is_found(story) -> None:
    assert "audit.vault.undrawn_erased" in _forge(story, without("key_erased", device="P-00007"))


def test_issued_without_reservation_is_found(story) -> None:
    assert "audit.intent.missing" in _forge(story, without("reserved", order="pool", chunk=2))


def test_certificate_for_an_abandoned_intent_is_found(story) -> None:
    def change(entries: Entries) -> Entries:
        intent = find(entries, "reserved", order="pool", chunk=3)
        at = find(entries, "rejected")
        entries[at] = entry_of({"at": AT, "intent": intent, "reason": "x", "type": "abandoned"}, b"")
        return entries

    assert "audit.entry.unlawful" in _forge(story, change)


def test_one_attempt_for_two_devices_is_found(story) -> None:
    change = changed("drawn", device="P-00020")(attempt="attempt-0001")
    assert "audit.attempt.double" in _forge(story, change)


def test_ordered_twice_is_found(story) -> None:
    listed = {"at": AT, "chunk": 1, "count": 1, "first": 10, "order": "waiting", "type": "devices_ordered"}
    found = _forge(story, appended(entry_of(listed, b"P-00001")))
    assert {"audit.device.double", "audit.conservation"} <= found


def test_one_key_for_two_devices_is_found_and_both_are_named(story) -> None:
    def change(entries: Entries) -> Entries:
        at = find(entries, "reserved", order="pool", chunk=2)
        head, _, records = entries[at].partition(b"\n")
        entries[at] = head + b"\n" + records[:80] + records[8:40] + records[112:]
        return entries

    rewrite_log(story.root, story.maker.log_key, change)
    (finding,) = story.found("audit.key.double")
    assert "P-00128" in finding.what
    assert "P-00129" in finding.what


def test_one_certificate_serial_for_two_devices_is_found(story) -> None:
    def change(entries: Entries) -> Entries:
        prefix = document_of(entries[find(entries, "reserved", order="pool", chunk=1)])["serial_prefix"]
        return changed("reserved", order="pool", chunk=2)(serial_prefix=prefix)(entries)

    assert "audit.serial.double" in _forge(story, change)


def test_clock_that_goes_back_is_a_warning(story) -> None:
    rewrite_log(story.root, story.maker.log_key, changed("rejected")(at="2026-11-01T00:00:00.000Z"))
    (finding,) = story.found("audit.clock.back")
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    "bad",
    [
        b'{"at": "2026-11-24T02:00:01.000Z","code":"x","station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","station":"s","code":"x","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","code":"x","device":null,"station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","code":"x","more":1,"station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01Z","code":"x","station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","code":7,"station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","code":"\\u0078","station":"s","type":"rejected"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","device":"P-00001","intent":01,"type":"issued"}\n',
        b'{"at":"2026-11-24T02:00:01.000Z","type":"blessed"}\n',
    ],
)
def test_entry_in_another_spelling_is_found(story, bad: bytes) -> None:
    rewrite_log(story.root, story.maker.log_key, appended(bad))
    report = story.audit()
    (finding,) = [f for f in report.findings if f.code in ("audit.entry.canonical", "audit.entry.malformed")]
    assert finding.where == "entry 435"


def test_entry_that_is_no_object_is_found(story) -> None:
    for bad in (b"", b"\n", b"[]\n", b"{}\n", b"\xff\n", b"no line feed"):
        rewrite_log(story.root, story.maker.log_key, appended(bad))
        assert any(c in story.audit().totals for c in ("audit.entry.canonical", "audit.entry.malformed"))


def _reissued(story, device: str, tbs: Callable[[bytes], bytes], key: ec.EllipticCurvePrivateKey) -> set[str]:
    """Sign another certificate for a device; with ``reserve`` the record is forged to fit."""

    def change(entries: Entries) -> Entries:
        at = find(entries, "issued", device=device)
        old = story.maker.identities[device].certificate
        from cryptography import x509

        body = tbs(x509.load_der_x509_certificate(old).tbs_certificate_bytes)
        certificate = LedgerMaker.assemble(body, key.sign(body, ec.ECDSA(hashes.SHA256())))
        entries[at] = entries[at].partition(b"\n")[0] + b"\n" + certificate
        intent = document_of(entries[at])["intent"]
        head, _, records = entries[intent].partition(b"\n")
        place = story.maker.identities[device].position
        record = records[72 * place : 72 * place + 40] + hashlib.sha256(body).digest()
        entries[intent] = head + b"\n" + records[: 72 * place] + record + records[72 * place + 72 :]
        return entries

    return _forge(story, change)


def test_certificate_signed_by_another_key_is_found(story) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    found = _reissued(story, "P-00200", lambda tbs: tbs, stranger)
    assert found == {"audit.signature"}


def test_certificate_for_another_device_is_found(story) -> None:
    found = _reissued(story, "P-00200", lambda tbs: tbs.replace(b"P-00200", b"P-00201"), story.maker.issuing_key)
    assert "audit.certificate.name" in found


def test_certificate_with_a_changed_extension_is_found(story) -> None:
    usage = bytes.fromhex("0603551d0f0101ff0404030207 80".replace(" ", ""))
    found = _reissued(story, "P-00200", lambda tbs: tbs.replace(usage, usage[:-1] + b"\x00"), story.maker.issuing_key)
    assert "audit.certificate.template" in found


def test_certificate_with_another_serial_is_found(story) -> None:
    serial = story.maker.identities["P-00200"].cert_serial
    other = serial[:-1] + bytes((serial[-1] ^ 1,))
    found = _reissued(story, "P-00200", lambda tbs: tbs.replace(serial, other), story.maker.issuing_key)
    assert "audit.certificate.serial" in found


def test_certificate_over_other_bytes_than_reserved_is_found(story) -> None:
    def change(entries: Entries) -> Entries:
        intent = document_of(entries[find(entries, "issued", device="P-00200")])["intent"]
        place = story.maker.identities["P-00200"].position
        at = len(entries[intent].partition(b"\n")[0]) + 1 + 72 * place + 40
        entries[intent] = entries[intent][:at] + bytes(32) + entries[intent][at + 32 :]
        return entries

    rewrite_log(story.root, story.maker.log_key, change)
    (finding,) = story.found("audit.tbs.differs")
    assert finding.device_serial == "P-00200"


def test_certificates_in_another_order_than_reserved_are_found(story) -> None:
    def change(entries: Entries) -> Entries:
        one, two = (find(entries, "issued", device=device) for device in ("P-00210", "P-00211"))
        entries[one], entries[two] = entries[two], entries[one]
        return entries

    assert "audit.intent.incomplete" in _forge(story, change)


def _receipt_forged(story, receipt: bytes, **values: Any) -> set[str]:
    def change(entries: Entries) -> Entries:
        at = find(entries, "verified", device="P-00009")
        document = {**document_of(entries[at]), "receipt_sha256": hashlib.sha256(receipt).hexdigest(), **values}
        entries[at] = entry_of(document, receipt)
        return entries

    return _forge(story, change)


def test_forged_receipts_are_found(story) -> None:
    maker, attempt = story.maker, "attempt-0009"
    good = maker.receipt("P-00009", attempt)
    assert _receipt_forged(story, good) == set()
    assert _receipt_forged(story, good, receipt_sha256="00" * 32) == {"audit.receipt.hash"}
    assert _receipt_forged(story, good.replace(b"files:out", b"files:0ut")) == {"audit.receipt.signature"}
    assert _receipt_forged(story, b"no receipt") == {"audit.receipt.signature"}
    assert _receipt_forged(story, maker.receipt("P-00008", "attempt-0008")) == {"audit.receipt.names"}
    assert _receipt_forged(story, maker.receipt("P-00009", attempt, origin="else/where")) == {"audit.receipt.names"}
    assert _receipt_forged(story, maker.receipt("P-00009", attempt, nonce="cd" * 32)) == {"audit.receipt.proof"}
    other = json.loads(maker.receipt("P-00008", "attempt-0008").split(b"\n")[0])["signature"]
    assert _receipt_forged(story, maker.receipt("P-00009", attempt, signature=other)) == {"audit.receipt.proof"}


def test_another_certificate_installed_than_issued_is_found(story) -> None:
    change = changed("installed", device="P-00009")(cert_sha256="ab" * 32)
    assert _forge(story, change) == {"audit.device.certificate"}


def test_cas_that_may_not_sign_are_found(story) -> None:
    maker = story.maker
    stranger = ec.generate_private_key(ec.SECP256R1())
    cases = {
        "audit.ca.signature": ca_certificate("Test Issuing", maker.issuing_key, maker.root_ca, stranger),
        "audit.ca.basic_constraints": ca_certificate(
            "Test Issuing", maker.issuing_key, maker.root_ca, maker.root_key, ca=False
        ),
        "audit.certificate.issuer": ca_certificate("Other Name", maker.issuing_key, maker.root_ca, maker.root_key),
        "audit.certificate.validity": ca_certificate(
            "Test Issuing", maker.issuing_key, maker.root_ca, maker.root_key, days=400
        ),
        "audit.signature": ca_certificate("Test Issuing", stranger, maker.root_ca, maker.root_key),
    }
    for code, certificate in cases.items():
        der = certificate.public_bytes(Encoding.DER)
        change = changed("ca_created", der, ca="issuing")(cert_sha256=hashlib.sha256(der).hexdigest())
        assert code in _forge(story, change), code
    garbage = changed("ca_created", b"garbage", ca="issuing")()
    assert {"audit.ca.malformed", "audit.ca.hash"} <= _forge(story, garbage)


def test_template_that_cannot_be_read_is_found(story) -> None:
    assert "audit.template.malformed" in _forge(story, changed("template_admitted", b"{}")())


def test_revocation_of_a_strangers_certificate_is_found(story) -> None:
    stranger = story.maker.identities["P-00100"].cert_serial.hex()
    found = _forge(story, changed("revoked", device="P-00003")(cert_serial=stranger))
    assert {"audit.entry.unlawful", "audit.fold.revoked"} <= found


def test_ledger_set_back_is_a_rollback(story, tmp_path: Path) -> None:
    maker = LedgerMaker(tmp_path / "young")
    maker.make("pool", serials("A", 4))
    root = maker.close()
    backup = Path(shutil.copytree(root, tmp_path / "backup"))
    maker = story.maker
    shutil.copytree(story.root / "ledger", backup / "ledger", dirs_exist_ok=True)
    shutil.rmtree(story.root / "ledger")
    shutil.copytree(root / "ledger", story.root / "ledger")
    found = story.audit().totals
    assert "audit.checkpoint.rollback" in found


def test_kept_head_of_a_rewritten_log_does_not_fit(story) -> None:
    kept = story.root.parent / "kept"
    shutil.copy(story.root / "log/checkpoint", kept)
    assert not story.audit(kept_heads=[kept]).totals
    rewrite_log(story.root, story.maker.log_key, changed("rejected")(code="pool.other"))
    assert not story.audit().totals
    report = story.audit(kept_heads=[kept])
    assert report.totals == {"audit.checkpoint.root": 1}


def test_other_log_key_is_found_when_the_auditor_knows_the_right_one(story) -> None:
    vkey = (story.root / "log/vkey").read_text()
    from birthmark.tlog.note import encode_vkey, public_octets

    forged = encode_vkey(ORIGIN, public_octets(story.maker.station_key))
    (story.root / "log/vkey").write_text(forged)
    publish(story.root, story.maker.station_key)
    assert not story.audit().totals
    assert "audit.checkpoint.signature" in story.audit(vkey=vkey).totals


def test_unpublished_entries_are_told_but_no_violation(tmp_path: Path) -> None:
    maker = LedgerMaker(tmp_path / "w")
    maker.make("pool", serials("A", 4))
    maker.publish()
    maker.draw("A-00001", "attempt-0001")
    root = maker.close(publish=False)
    from birthmark.adapters.audit.verify import verify_workspace

    report = verify_workspace(root, processes=1)
    assert (report.totals, report.errors) == ({"audit.entry.unpublished": 1}, 0)


def test_two_live_identities_of_one_device_are_found(story) -> None:
    maker = story.maker

    def change(entries: Entries) -> Entries:
        at = find(entries, "superseded", device="P-00003")
        entries[at] = entry_of({"at": AT, "code": "x", "station": "s", "type": "rejected"}, b"")
        return entries

    assert "audit.device.two_live" in _forge(story, change)
    assert maker.identities["P-00003"].device == "P-00003"


def test_event_of_a_device_that_nobody_ordered_is_found(story) -> None:
    scrapped = {"at": AT, "by": "x", "device": "NOBODY", "reason": "x", "type": "scrapped"}
    assert _forge(story, appended(entry_of(scrapped, b""))) == {"audit.device.unknown"}


def test_second_workspace_entry_is_unlawful(story) -> None:
    event = e.WorkspaceCreated(at=AT, workspace="two", origin="two", site_prefix="0101", software="1", by="x")
    assert "audit.entry.unlawful" in _forge(story, appended(e.encode_entry(event)))


def test_checkpoint_file_behind_the_signed_head_is_a_warning(story) -> None:
    shutil.rmtree(story.root / "log/tile")
    connection = database(story.root)
    ((note,),) = connection.execute("SELECT checkpoint FROM head").fetchall()
    connection.close()
    assert note == (story.root / "log/checkpoint").read_bytes()
    (story.root / "log/checkpoint").unlink()
    found = story.audit().totals
    assert {"audit.checkpoint.missing", "audit.tile.missing"} <= set(found)
