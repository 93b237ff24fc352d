"""Somebody who holds the log's key rewrites what an authority or a site recorded; every broken law is named."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.adapters.audit.verify import verify_workspace
from support.forgery import AT, Entries, appended, changed, document_of, entry_of, find, without
from support.ledgerfiles import all_entries, publish, rewrite_log
from support.make_ledger import ca_certificate
from support.make_sites import FACTORY, LIVE, POOL, World, der, plan_text, signed_document, signed_plan

Change = Callable[[Entries], Entries]
BUNDLE = "b1" * 16


def _forge(world_root: Path, world: World, part: str, change: Change) -> set[str]:
    maker = world.authority if part == "authority" else world.sites[part]
    rewrite_log(world_root / part, maker.log_key, change, maker.origin)
    return set(verify_workspace(world_root / part, processes=1).totals)


def _settled_lines(edit: Callable[[bytes], bytes], **members: Any) -> Change:
    def change(entries: Entries) -> Entries:
        at = find(entries, "site_settled", **members)
        head, _, lines = entries[at].partition(b"\n")
        entries[at] = head + b"\n" + edit(lines)
        return entries

    return change


def _certificates_swapped(first: str, second: str) -> Change:
    def change(entries: Entries) -> Entries:
        one, two = (find(entries, "received", device=device) for device in (first, second))
        (head, _, mine), (other, _, theirs) = (entries[at].partition(b"\n") for at in (one, two))
        entries[one], entries[two] = head + b"\n" + theirs, other + b"\n" + mine
        return entries

    return change


def _event(kind: str, attachment: bytes = b"", **members: Any) -> bytes:
    return entry_of({"at": AT, "type": kind, **members}, attachment)


SITE_GONE = {"site": "nowhere", "reason": "x", "by": "x"}
AUTHORITY: dict[str, tuple[str, Change]] = {
    "site twice": (
        "audit.entry.unlawful",
        changed("site_added", site=LIVE)(site_prefix="0201"),
    ),
    "site with the authority's prefix": (
        "audit.entry.unlawful",
        changed("site_added", site=LIVE)(site_prefix="0101"),
    ),
    "request of another site": ("audit.site.request", changed("site_added", site=LIVE)(mode="pool")),
    "request without signature": ("audit.site.request", changed("site_added", b"{}\n", site=LIVE)()),
    "stopped nobody": ("audit.entry.unlawful", appended(_event("site_stopped", **SITE_GONE))),
    "resumed nobody": ("audit.entry.unlawful", appended(_event("site_resumed", **SITE_GONE))),
    "access of another certificate": (
        "audit.access.certificate",
        changed("access_granted", name="olga")(cert_sha256="00" * 32),
    ),
    "access of another key": (
        "audit.access.certificate",
        changed("access_granted", name="olga")(spki_sha256="00" * 32),
    ),
    "station of another site": ("audit.entry.unlawful", changed("access_granted", name="alpha/line1")(site=POOL)),
    "withdrawn twice": (
        "audit.entry.unlawful",
        lambda entries: [*entries, entries[find(entries, "access_withdrawn")]],
    ),
    "let in twice": ("audit.entry.unlawful", lambda entries: [*entries, entries[find(entries, "access_granted")]]),
    "assigned twice": ("audit.entry.unlawful", lambda entries: [*entries, entries[find(entries, "order_assigned")]]),
    "assigned in another mode": ("audit.entry.unlawful", changed("order_assigned", order="fac")(mode="online")),
    "assigned to a stopped site": (
        "audit.entry.unlawful",
        appended(_event("order_assigned", order="nothing", site=POOL, mode="pool", by="x")),
    ),
    "drawn here although a site makes it": (
        "audit.site.drawn_here",
        appended(_event("drawn", device="L-00003", station="line1", attempt="x-1")),
    ),
    "drawn by a station of another site": (
        "audit.site.drawn_here",
        appended(_event("drawn", device="L-00003", station="beta/line1", attempt="x-1")),
    ),
    "drawn although it left": (
        "audit.device.state",
        appended(_event("drawn", device="K-00002", station="line1", attempt="x-1")),
    ),
    "sealed for another site": ("audit.entry.unlawful", changed("bundle_sealed")(site=LIVE)),
    "sealed twice": ("audit.entry.unlawful", lambda entries: [*entries, entries[find(entries, "bundle_sealed")]]),
    "bundle of another size": ("audit.bundle.count", changed("bundle_sealed")(devices=12)),
    "chunk left with another number": ("audit.bundle.count", changed("consigned", chunk=1)(count=4)),
    "chunk left twice": ("audit.entry.unlawful", lambda entries: [*entries, entries[find(entries, "consigned")]]),
    "chunk left with an unknown bundle": ("audit.entry.unlawful", changed("consigned", chunk=1)(bundle="none")),
    "head of another size": ("audit.site.head", changed("site_reported", site=POOL)(size=9)),
    "head with another root": ("audit.site.head", changed("site_reported", site=POOL)(root="00" * 32)),
    "head without signature": ("audit.site.head", changed("site_reported", b"no note\n", site=POOL)()),
    "head that does not grow": (
        "audit.site.head",
        lambda entries: [*entries, entries[find(entries, "site_reported", site=POOL)]],
    ),
    "settled more than was reported": ("audit.entry.unlawful", changed("site_settled", site=POOL)(upto=999)),
    "settled for another site": ("audit.entry.unlawful", changed("site_settled", site=POOL)(site=LIVE)),
    "settled another number": ("audit.entry.unlawful", changed("site_settled", site=POOL)(count=7)),
    "settled nonsense": ("audit.entry.unlawful", _settled_lines(lambda _: b"K-00000 lost 1 -", site=POOL)),
    "settled a later entry": (
        "audit.entry.unlawful",
        changed("site_settled", site=POOL)(upto=3),
    ),
    "settled another state than the site has": (
        "audit.mirror.entry",
        _settled_lines(lambda lines: lines.replace(b"K-00001 pooled", b"K-00001 drawn"), site=POOL),
    ),
    "settled another entry": (
        "audit.mirror.entry",
        _settled_lines(lambda lines: lines.replace(b"K-00008", b"K-00007"), site=POOL),
    ),
    "settled an unknown device": (
        "audit.device.unknown",
        _settled_lines(lambda lines: lines.replace(b"K-00008", b"K-99999"), site=POOL),
    ),
    "settled with another key": (
        "audit.site.key",
        _settled_lines(lambda lines: lines.replace(lines[-64:], b"00" * 32), site=FACTORY),
    ),
    "one key settled for two devices": (
        "audit.key.double",
        _settled_lines(lambda lines: lines[:-64] + lines.split(b" ")[3][:64], site=FACTORY),
    ),
    "receipt of a site without its station": (
        "audit.receipt.signature",
        without("station_added", station="gamma/line1"),
    ),
    "finding of an unknown site": ("audit.entry.unlawful", changed("finding_raised")(site="nowhere")),
    "plan used twice": ("audit.approval.reused", lambda entries: [*entries, entries[find(entries, "approval_used")]]),
    "plan of another act": ("audit.approval.plan", changed("approval_used", action="bundle.seal")(action="ca.import")),
    "plan of another text": (
        "audit.approval.plan",
        changed("approval_used", action="bundle.seal")(plan_sha256="00" * 32),
    ),
    "approver who did not sign": (
        "audit.approval.plan",
        changed("approval_used", action="bundle.seal")(approvers=["ada", "bob"]),
    ),
    "plan before the rule": ("audit.approval.threshold", without("approvers_set")),
    "threshold above the signatures": ("audit.approval.threshold", changed("approvers_set", threshold=2)(threshold=3)),
    "rule of more than there are": ("audit.entry.unlawful", changed("approvers_set", threshold=2)(threshold=4)),
    "other transcript": ("audit.ca.transcript", changed("ca_key_destroyed", b"nothing happened")()),
    "destroyed key of nobody": ("audit.entry.unlawful", changed("ca_key_destroyed")(ca="nobody")),
    "signed with a destroyed key": (
        "audit.ca.destroyed",
        changed("ca_key_destroyed", b"x")(ca="issuing", transcript_sha256=hashlib.sha256(b"x").hexdigest()),
    ),
    "CA signed with a destroyed key": (
        "audit.ca.destroyed",
        changed("ca_key_destroyed", b"x")(ca="issuing", transcript_sha256=hashlib.sha256(b"x").hexdigest()),
    ),
    "CA delegated to nobody": ("audit.ca.issuer", changed("ca_created", ca="alpha-ca")(site="nowhere")),
    "certificate of another site": (
        "audit.entry.unlawful",
        changed("revoked", device="F-00000")(cert_serial="0202" + "00" * 14),
    ),
}


@pytest.mark.parametrize("name", AUTHORITY)
def test_broken_law_of_an_authority_is_found(world_root: Path, whole_world: World, name: str) -> None:
    code, change = AUTHORITY[name]
    assert code in _forge(world_root, whole_world, "authority", change)


SITE: dict[str, tuple[str, str, Change]] = {
    "second authority": (
        POOL,
        "audit.entry.unlawful",
        lambda entries: [
            *entries,
            changed("grant_accepted")(vkey="other")(list(entries))[find(entries, "grant_accepted")],
        ],
    ),
    "grant of another hash": (POOL, "audit.site.grant", changed("grant_accepted")(grant_sha256="00" * 32)),
    "grant in another mode": (POOL, "audit.site.grant", changed("grant_accepted")(mode="online")),
    "bundle opened twice": (
        POOL,
        "audit.entry.unlawful",
        lambda entries: [*entries, entries[find(entries, "bundle_opened")]],
    ),
    "manifest of another hash": (POOL, "audit.bundle.manifest", changed("bundle_opened")(manifest_sha256="00" * 32)),
    "manifest of another size": (POOL, "audit.bundle.manifest", changed("bundle_opened")(devices=12)),
    "manifest before any grant": (POOL, "audit.bundle.manifest", without("grant_accepted")),
    "bundle with more than it says": (POOL, "audit.bundle.count", changed("bundle_opened")(devices=10)),
    "opened for an unknown order": (POOL, "audit.entry.unlawful", changed("bundle_opened")(order="nothing")),
    "closed an unknown order": (POOL, "audit.entry.unlawful", changed("bundle_closed")(order="nothing")),
    "leftovers without erasure": (POOL, "audit.bundle.leftovers", changed("bundle_closed")(count=3)),
    "received without a request": (POOL, "audit.intent.missing", without("requested", chunk=0)),
    "received what was issued": (
        POOL,
        "audit.intent.missing",
        changed("received", device="K-00003")(type="issued"),
    ),
    "received twice": (
        POOL,
        "audit.intent.reused",
        lambda entries: [*entries, entries[find(entries, "received", device="K-00003")]],
    ),
    "two certificates of one serial": (
        POOL,
        "audit.serial.double",
        lambda entries: [*entries, entries[find(entries, "received", device="K-00008")]],
    ),
    "received after it was given up": (
        LIVE,
        "audit.intent.abandoned",
        lambda entries: [
            *entries[: (at := find(entries, "received", device="L-00002"))],
            _event("abandoned", intent=at - 1, reason="x"),
            *entries[at:],
        ],
    ),
    "certificate of another device": (
        POOL,
        "audit.certificate.key",
        _certificates_swapped("K-00003", "K-00004"),
    ),
    "certificate before its CA": (
        LIVE,
        "audit.certificate.issuer",
        without("ca_created", ca="issuing"),
    ),
    "key requested twice": (
        POOL,
        "audit.key.double",
        lambda entries: [*entries, entries[find(entries, "requested", device="K-00011")]],
    ),
    "revoked a stranger's certificate": (
        POOL,
        "audit.entry.unlawful",
        changed("revoked", device="K-00008")(cert_serial="77" * 16),
    ),
}


@pytest.mark.parametrize("name", SITE)
def test_broken_law_of_a_site_is_found(world_root: Path, whole_world: World, name: str) -> None:
    part, code, change = SITE[name]
    assert code in _forge(world_root, whole_world, part, change)


def _received_forged(world_root: Path, world: World, certificate: bytes) -> set[str]:
    change = changed("received", certificate, device="L-00002")()
    return _forge(world_root, world, LIVE, change)


def test_received_certificates_of_strangers_are_found(world_root: Path, whole_world: World) -> None:
    site, stranger = whole_world.sites[LIVE], ec.generate_private_key(ec.SECP256R1())
    key, issuing, signer = site.identities["L-00002"].key, whole_world.authority.issuing_ca, whole_world.authority
    forged = der(ca_certificate("L-00002", key, issuing, stranger, ca=False))
    assert "audit.signature" in _received_forged(world_root, whole_world, forged)
    forged = der(ca_certificate("L-99999", key, issuing, signer.issuing_key, ca=False))
    assert "audit.certificate.name" in _received_forged(world_root, whole_world, forged)
    forged = der(ca_certificate("L-00002", key, issuing, signer.issuing_key))
    assert "audit.certificate.ca" in _received_forged(world_root, whole_world, forged)
    assert "audit.certificate.malformed" in _received_forged(world_root, whole_world, b"garbage")


def test_order_signed_here_that_a_site_signs_is_found(world_root: Path, whole_world: World) -> None:
    def change(entries: Entries) -> Entries:
        head, _, records = entries[find(entries, "reserved", order="live")].partition(b"\n")
        made = {**document_of(head + b"\n"), "order": "fac", "serial_prefix": "01010000ffffffff", "count": 6}
        fresh = b"".join(hashlib.sha256(bytes((n,))).digest()[:8] + bytes(63) + bytes((n,)) for n in range(6))
        assert records
        return [*entries, entry_of(made, fresh)]

    assert "audit.site.signed_here" in _forge(world_root, whole_world, "authority", change)


def test_order_made_here_and_then_given_away_is_found(world_root: Path, whole_world: World) -> None:
    change = changed("order_assigned", order="live")(site=FACTORY, mode="factory_ca")
    assert "audit.site.signed_here" in _forge(world_root, whole_world, "authority", change)


def test_delegated_ca_that_may_make_others_is_found(world_root: Path, whole_world: World) -> None:
    site, authority = whole_world.sites[FACTORY], whole_world.authority
    certificate = der(ca_certificate("Alpha", site.issuing_key, None, authority.root_key))
    change = changed("ca_created", certificate, ca="alpha-ca")(cert_sha256=hashlib.sha256(certificate).hexdigest())
    found = _forge(world_root, whole_world, "authority", change)
    assert {"audit.ca.path_length", "audit.ca.issuer"} <= found


def test_ca_below_one_that_may_have_none_is_found(world_root: Path, whole_world: World) -> None:
    site, authority = whole_world.sites[FACTORY], whole_world.authority
    certificate = der(ca_certificate("Alpha", site.issuing_key, authority.issuing_ca, authority.issuing_key))
    values = {"cert_sha256": hashlib.sha256(certificate).hexdigest(), "issuer": "issuing"}
    change = changed("ca_created", certificate, ca="alpha-ca")(**values)
    assert "audit.ca.path_length" in _forge(world_root, whole_world, "authority", change)


def test_one_person_cannot_approve_for_two(world_root: Path, whole_world: World) -> None:
    text = plan_text("bundle.seal", order="pool", site=POOL)
    note = signed_plan(text, {"ada": whole_world.approvers["ada"]})
    twice = note + note.rpartition(b"\n\n")[2]
    change = changed("approval_used", twice, action="bundle.seal")(approvers=["ada"])
    assert _forge(world_root, whole_world, "authority", change) == {"audit.approval.threshold"}


def test_request_signed_by_another_key_is_found(world_root: Path, whole_world: World) -> None:
    site = whole_world.sites[LIVE]
    entry = next(e for e in all_entries(world_root / "authority") if b'"gamma"' in e and b"site_added" in e)
    names = ("site", "origin", "vkey", "site_prefix", "mode")
    body = {"format": "birthmark-site-request/1", **{name: document_of(entry)[name] for name in names}}
    forged = signed_document(body, whole_world.authority.log_key, site.origin)
    change = changed("site_added", forged, site=LIVE)()
    assert "audit.site.request" in _forge(world_root, whole_world, "authority", change)


def _mirror(world_root: Path, site: str) -> Path:
    return world_root / "authority/sites" / site / "log"


def _found(world_root: Path) -> set[str]:
    return set(verify_workspace(world_root / "authority", processes=1).totals)


def test_every_file_of_a_mirror_is_checked(world_root: Path, flip: Callable[[Path, int], None]) -> None:
    for path in sorted(_mirror(world_root, FACTORY).rglob("*")):
        if path.is_file():
            flip(path, path.stat().st_size // 2)
            report = verify_workspace(world_root / "authority", processes=1)
            assert report.errors, path
            assert any(finding.where.startswith("sites/alpha/log/") for finding in report.findings), path
            flip(path, path.stat().st_size // 2)
    assert not _found(world_root)


def test_missing_and_stray_files_of_a_mirror_are_named(world_root: Path) -> None:
    mirror = _mirror(world_root, POOL)
    (mirror / "tile/stray").write_bytes(b"x")
    assert _found(world_root) == {"audit.tile.unexpected"}
    (mirror / "tile/stray").unlink()
    for name in ("tile/entries", "tile/0"):
        shutil.move(mirror / name, world_root / "away")
        assert "audit.tile.missing" in _found(world_root)
        shutil.move(world_root / "away", mirror / name)
    (mirror / "checkpoint").unlink()
    assert "audit.checkpoint.missing" in _found(world_root)
    shutil.rmtree(mirror)
    assert _found(world_root) == {"audit.mirror.missing"}


def test_mirror_of_another_site_is_found(world_root: Path) -> None:
    shutil.rmtree(_mirror(world_root, POOL))
    shutil.copytree(_mirror(world_root, LIVE), _mirror(world_root, POOL))
    assert "audit.checkpoint.signature" in _found(world_root)


def _remirrored(world_root: Path, world: World, site: str, change: Change) -> set[str]:
    """Rewrite a site's log with its own key and put it where the authority mirrors it."""
    maker = world.sites[site]
    rewrite_log(world_root / site, maker.log_key, change, maker.origin)
    shutil.rmtree(_mirror(world_root, site))
    shutil.copytree(world_root / site / "log", _mirror(world_root, site))
    (_mirror(world_root, site) / "vkey").unlink()
    return _found(world_root)


def test_site_that_rewrote_or_cut_its_log_is_found(world_root: Path, whole_world: World) -> None:
    forked = changed("installed", device="F-00001")(target="files:other")
    assert "audit.checkpoint.fork" in _remirrored(world_root, whole_world, FACTORY, forked)
    assert "audit.checkpoint.rollback" in _remirrored(world_root, whole_world, POOL, lambda entries: entries[:-2])


def test_mirror_ahead_of_what_was_taken_in_is_a_warning(world_root: Path, whole_world: World) -> None:
    more = appended(_event("rejected", station="line1", code="x"))
    assert _remirrored(world_root, whole_world, POOL, more) == {"audit.mirror.ahead"}


def test_site_that_signed_for_a_stranger_is_found(world_root: Path, whole_world: World) -> None:
    site = whole_world.sites[FACTORY]
    certificate = site.identities["F-00005"].certificate

    def change(entries: Entries) -> Entries:
        at = find(entries, "issued", device="F-00005")
        return [*entries, _event("issued", certificate, device="X-00001", intent=document_of(entries[at])["intent"])]

    found = _remirrored(world_root, whole_world, FACTORY, change)
    assert {"audit.mirror.entry", "audit.certificate.name", "audit.serial.double"} <= found


def test_site_that_signed_with_a_foreign_key_is_found(world_root: Path, whole_world: World) -> None:
    stranger, key = ec.generate_private_key(ec.SECP256R1()), whole_world.sites[FACTORY].identities["F-00005"].key
    forged = der(ca_certificate("F-00005", key, whole_world.delegated_ca, stranger, ca=False))
    found = _remirrored(world_root, whole_world, FACTORY, changed("issued", forged, device="F-00005")())
    assert {"audit.signature", "audit.certificate.serial"} <= found


def test_key_that_a_site_used_but_lies_here_is_a_warning(world_root: Path, whole_world: World) -> None:
    from support.make_ledger import database

    connection = database(world_root / "authority")
    identity = whole_world.authority.identities["K-00000"]
    with connection.blobopen("vault", "slots", identity.intent) as slots:
        slots.write(b"\x55" * 180)
    connection.close()
    found = _forge(world_root, whole_world, "authority", without("key_erased", device="K-00000"))
    assert found == {"audit.vault.copy"}


def test_forged_receipt_of_a_site_is_found_in_its_mirror(world_root: Path, whole_world: World) -> None:
    receipt = whole_world.sites[POOL].receipt("K-00000", "k-attempt-0", nonce="cd" * 32)
    change = changed("verified", receipt, device="K-00000")(receipt_sha256=hashlib.sha256(receipt).hexdigest())
    assert "audit.receipt.proof" in _remirrored(world_root, whole_world, POOL, change)
    assert "audit.receipt.proof" in set(verify_workspace(world_root / POOL, processes=1).totals)


def test_published_again_nothing_is_found(world_root: Path, whole_world: World) -> None:
    publish(world_root / "authority", whole_world.authority.log_key)
    assert not _found(world_root)
