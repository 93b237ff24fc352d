"""Somebody who holds the log's key lies about preloaded and adopted identities: every broken law is found."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main
from birthmark.shell.evidence.directory import export_evidence
from birthmark.shell.line.heads import open_heads
from birthmark.shell.sites.preload import ingest_manifest
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.preload import PreloadedIdentity, pack_identity, unpack_identities
from birthmark.workflow.orders.order import NewOrder, create_order
from support.chipvendor import Chip, ChipVendor, der, self_signed
from support.forgery import Entries, changed, document_of, entry_of, find, without
from support.ledgerfiles import all_entries, rewrite_log

VENDOR = ChipVendor()
CHIPS = VENDOR.chips(4)


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a manifest of four chips, two of them bound, and one adopted device."""
    place = tmp_path_factory.mktemp("audit")
    make_workspace(place / "fab")
    VENDOR.settle(place / "fab")
    manifest = VENDOR.manifest(place / "m.json", CHIPS)
    key = ec.generate_private_key(ec.SECP256R1())
    units = {"PR-1": CHIPS[0], "PR-2": CHIPS[1], "AD-1": Chip("ad", key, self_signed("ad", key, ca=True), [])}
    with open_workspace(place / "fab") as opened:
        ingest_manifest(opened, "microchip", manifest)
        for name, origin, devices in (("lot", "preloaded", ["PR-1", "PR-2", "PR-3"]), ("old", "adopted", ["AD-1"])):
            product = opened.product("device")
            order: Any = NewOrder(name, "device", opened.profile(product.profile), "p256", origin, product.ca, "t")
            create_order(opened.ledger, order, devices, clock=opened.clock)
        with open_heads(opened) as heads:
            for serial, chip in units.items():
                target = f"files:{chip.put_into(place / 'out' / serial)}"
                heads.take_over("adopted" if serial == "AD-1" else "preloaded", serial, target)
    return place / "fab"


@pytest.fixture
def fab(bound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bound, tmp_path / "fab"))


def found(fab: Path, change: Callable[[Entries], Entries] | None = None) -> set[str]:
    if change is not None:
        with open_workspace(fab, publish=False) as opened:
            key, origin = opened.private_key(opened.settings.log.key), opened.settings.origin
        rewrite_log(fab, key, change, origin)
    report = verify_workspace(fab, processes=1)
    return {code for code in report.totals if code != "audit.entry.unpublished"}


def rebuilt(change: Callable[[list[PreloadedIdentity]], list[PreloadedIdentity]], **members: Any) -> Any:
    """Return a change of the ``preloaded`` entry: other records, other members."""

    def forged(entries: Entries) -> Entries:
        at = find(entries, "preloaded")
        identities = unpack_identities(entries[at].partition(b"\n")[2])
        assert identities is not None
        data = b"".join(map(pack_identity, change(identities)))
        entries[at] = entry_of({**document_of(entries[at]), **members}, data)
        return entries

    return forged


def test_lawful_story_has_no_findings_also_when_written_anew(fab: Path) -> None:
    assert found(fab) == set()
    assert found(fab, lambda entries: entries) == set()


def test_chip_bound_twice_is_a_clone(fab: Path) -> None:
    def twice(entries: Entries) -> Entries:
        at = find(entries, "requested", device="PR-1")
        document, attachment = document_of(entries[at]), entries[at].partition(b"\n")[2]
        new = {**document, "device": "PR-3", "attempt": "another-attempt"}
        received = entries[find(entries, "received", device="PR-1")].partition(b"\n")[2]
        said = {"at": document["at"], "device": "PR-3", "intent": len(entries), "type": "received"}
        return [*entries, entry_of(new, attachment), entry_of(said, received)]

    assert {"audit.preload.clone", "audit.fold.attempt"} <= found(fab, twice)


def test_device_bound_to_a_chip_that_nobody_preloaded(fab: Path) -> None:
    assert "audit.preload.unknown" in found(fab, rebuilt(lambda some: some[1:], count=3))
    assert "audit.preload.unknown" in found(fab, without("preloaded"))


def test_certificate_that_is_not_of_the_chip(fab: Path) -> None:
    other = VENDOR.chip(key=CHIPS[0].key)

    def swapped(entries: Entries) -> Entries:
        at = find(entries, "requested", device="PR-1")
        digest = hashlib.sha256(der(other.certificate)).digest()
        entries[at] = entry_of(document_of(entries[at]), CHIPS[0].spki_sha256 + digest)
        at = find(entries, "received", device="PR-1")
        entries[at] = entry_of(document_of(entries[at]), der(other.certificate))
        return entries

    assert {"audit.preload.certificate", "audit.device.certificate", "audit.receipt.names"} <= found(fab, swapped)


def test_chip_of_a_stranger_in_a_manifest(fab: Path) -> None:
    foreign = ChipVendor().chip()

    def with_foreign(some: list[PreloadedIdentity]) -> list[PreloadedIdentity]:
        one = PreloadedIdentity(foreign.spki_sha256, foreign.unique_id, der(foreign.certificate))
        return [*some[:3], one]

    assert {"audit.signature", "audit.fold.preload"} <= found(fab, rebuilt(with_foreign))


def test_record_with_another_key_than_its_certificate(fab: Path) -> None:
    def lied(some: list[PreloadedIdentity]) -> list[PreloadedIdentity]:
        return [*some[:3], PreloadedIdentity(bytes(32), some[3].unique_id, some[3].certificate)]

    assert {"audit.certificate.key", "audit.fold.preload", "audit.fold.site_key"} <= found(fab, rebuilt(lied))


def test_one_id_on_two_chips(fab: Path) -> None:
    def doubled(some: list[PreloadedIdentity]) -> list[PreloadedIdentity]:
        return [*some[:3], PreloadedIdentity(some[3].spki_sha256, some[0].unique_id.upper(), some[3].certificate)]

    assert {"audit.preload.id", "audit.fold.preload"} <= found(fab, rebuilt(doubled))


def test_one_key_on_two_chips(fab: Path) -> None:
    assert "audit.key.double" in found(fab, rebuilt(lambda some: [*some[:3], some[0]]))


def test_certificate_of_a_ca_as_a_chip(fab: Path) -> None:
    def with_ca(some: list[PreloadedIdentity]) -> list[PreloadedIdentity]:
        chip = Chip("x", VENDOR.ca_key, VENDOR.ca, [])
        return [*some[:3], PreloadedIdentity(chip.spki_sha256, some[3].unique_id, der(VENDOR.ca))]

    assert "audit.certificate.ca" in found(fab, rebuilt(with_ca))


def test_manifest_that_is_not_whole(fab: Path) -> None:
    assert "audit.preload.manifest" in found(fab, changed("preload_taken_in")(count=5))


def test_manifest_in_more_chunks_than_there_are(fab: Path) -> None:
    assert "audit.preload.manifest" in found(fab, changed("preload_taken_in")(chunks=2))


def test_identities_of_a_ca_that_is_not_the_vendors(fab: Path) -> None:
    assert {"audit.preload.issuer", "audit.preload.manifest"} <= found(fab, changed("preloaded")(vendor="other"))
    issuing = next(
        document_of(entry)["ca"] for entry in all_entries(fab) if document_of(entry).get("kind") == "issuing"
    )
    assert "audit.preload.issuer" in found(fab, changed("preloaded")(ca=issuing))


def test_vendor_that_signed_more_than_its_quota(fab: Path) -> None:
    def narrowed(entries: Entries) -> Entries:
        ca = document_of(entries[find(entries, "preloaded")])["ca"]
        said = {"at": document_of(entries[-1])["at"], "by": "t", "ca": ca, "quota": 3, "vendor": "microchip"}
        return [*entries, entry_of({**said, "type": "vendor_delegated"}, b"")]

    assert {"audit.preload.quota", "audit.fold.vendor_ca"} <= found(fab, narrowed)


def test_identity_from_elsewhere_than_the_order_says(fab: Path) -> None:
    assert "audit.preload.origin" in found(fab, changed("order_created", order="lot")(key_origin="device"))


def test_adopted_device_under_an_order_of_preloaded_ones(fab: Path) -> None:
    assert "audit.preload.origin" in found(fab, changed("order_created", order="old")(key_origin="preloaded"))


def test_adopted_certificate_that_was_exchanged(fab: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def exchanged(entries: Entries) -> Entries:
        at = find(entries, "received", device="AD-1")
        entries[at] = entry_of(document_of(entries[at]), der(self_signed("ad", key)))
        return entries

    assert {"audit.certificate.key", "audit.receipt.names"} <= found(fab, exchanged)


def test_adopted_key_that_another_device_has(fab: Path) -> None:
    def again(entries: Entries) -> Entries:
        at = find(entries, "requested", device="AD-1")
        document, attachment = document_of(entries[at]), entries[at].partition(b"\n")[2]
        return [*entries, entry_of({**document, "device": "PR-3", "attempt": "another-attempt"}, attachment)]

    assert {"audit.key.double", "audit.device.state"} <= found(fab, again)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE preload SET device_serial = 'PR-3' WHERE device_serial = 'PR-1'", "audit.fold.preload"),
        ("UPDATE preload SET device_serial = NULL, bound = NULL", "audit.fold.preload"),
        ("UPDATE preload SET unique_id = 'x' WHERE device_serial = 'PR-1'", "audit.fold.preload"),
        ("DELETE FROM preload WHERE device_serial IS NULL", "audit.fold.preload"),
        ("INSERT INTO preload VALUES (x'00', x'00', 'v', 'i', 'c', 1, NULL, NULL)", "audit.fold.preload"),
        ("UPDATE preload_file SET count = 9", "audit.fold.preload_file"),
        ("DELETE FROM preload_file", "audit.fold.preload_file"),
        ("INSERT INTO vendor_ca VALUES ('c', 'v', 1, 0, 1)", "audit.fold.vendor_ca"),
        ("DELETE FROM site_key", "audit.fold.site_key"),
    ],
)
def test_changed_table_is_found(fab: Path, statement: str, code: str) -> None:
    connection = sqlite3.connect(fab / "ledger" / "ledger.db")
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert code in found(fab)


def test_the_writer_packs_what_the_page_says() -> None:
    """docs/formats/preload.md, by hand."""
    one = PreloadedIdentity(b"k" * 32, "0123ab", b"certificate")
    assert pack_identity(one) == b"k" * 32 + b"\x06" + b"0123ab" + b"\x00\x0b" + b"certificate"


def test_exported_evidence_of_such_devices_is_checked_without_birthmark(fab: Path, tmp_path: Path) -> None:
    out = tmp_path / "evidence"
    export_evidence(fab, out, progress=lambda done, total: None)
    python = shutil.which("python3", path="/usr/bin:/bin")
    assert python, "python3 of the system is needed"
    command = ["env", "-i", "PATH=/usr/bin:/bin", python, "-I", "check.py", "."]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "GOOD"
    assert "3 certificates, 3 receipts" in done.stdout


def test_report_names_where_the_keys_come_from(fab: Path, tmp_path: Path) -> None:
    pages = tmp_path / "report.html"
    assert main(["audit", "report", str(fab), "--output", str(pages)]) == 0
    text = pages.read_text()
    assert "in the chip, by its vendor" in text
    assert "elsewhere, before the device came here" in text
