"""Every parser that reads a stranger's octets: how it is called, what good input is, which errors it may end in."""

from __future__ import annotations

import base64
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from io import BytesIO
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from birthmark.adapters.audit import certificates, der, entries, logcheck, proof
from birthmark.adapters.audit.receipts import ReceiptCase, receipt_fault
from birthmark.adapters.issuers.uri import parse_issuer_uri
from birthmark.adapters.pkcs11_uri import parse_pkcs11_uri
from birthmark.adapters.targets import layouts
from birthmark.adapters.targets.image import identityregion
from birthmark.adapters.targets.image.form import Identity
from birthmark.adapters.targets.uri import parse_target_uri
from birthmark.adapters.vendorfiles.lists import list_items
from birthmark.adapters.vendorfiles.members import tar_members, zip_members
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, Tampered, Unavailable
from birthmark.guide.answers import parse_answers
from birthmark.guide.plan import parse_plan as parse_guide_plan
from birthmark.model import events, ids
from birthmark.model.secret import Secret
from birthmark.pki import (
    awstemplate,
    certfile,
    certread,
    chain,
    crl,
    csr,
    derread,
    keycheck,
    profile,
    template,
    templatefile,
)
from birthmark.pki.der import bit_string, integer, tlv
from birthmark.shell.api.callers import Callers
from birthmark.shell.workspace import config
from birthmark.tlog import checkpoint, cosignature, merkle, note, policy, tiles
from birthmark.tlog import proof as tlog_proof
from birthmark.wire import (
    addcheckpoint,
    approval,
    bundle,
    cmp,
    document,
    frames,
    imagedelta,
    label,
    manifest,
    microchip,
    receipt,
    registry,
    report,
    service,
)
from birthmark.wire import site as site_papers
from birthmark.wire.jsonarray import array_elements
from birthmark.wire.preload import PreloadedIdentity, pack_identity, unpack_identities
from birthmark.wire.vault import VaultKey, open_content_key, open_slot_with
from birthmark.workflow.authority.ceremonyfile import parse_ceremony
from support.chipvendor import Chip, ChipVendor
from support.realdocuments import Story

__all__ = ["Stranger", "strangers"]

Parse = Callable[[bytes], object]


@dataclass(frozen=True)
class Stranger:
    """``reads``: the parser as ``module.function``. What it is given may end in one of ``errors`` or in nothing."""

    reads: str
    parse: Parse
    seeds: tuple[bytes, ...]
    errors: tuple[type[BirthmarkError], ...]
    good: bool = True
    """Whether the seeds are accepted as they are."""


def strangers(story: Story) -> dict[str, Stranger]:
    """Return the table, by name."""
    table = [
        *_wire(story),
        *_answers(story),
        *_vendors(story),
        *_log(story),
        *_certificates(story),
        *_readers(story),
        *_files(story),
    ]
    found: dict[str, Stranger] = {}
    for stranger in table:
        assert stranger.reads not in found
        found[stranger.reads] = stranger
    return found


def _text(parse: Callable[[str], object]) -> Parse:
    """Hand octets over as the command line or a decoded file would."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def _signed(key: Ed25519PrivateKey, name: str, parse: Parse) -> Parse:
    """A stranger who holds the key signs whatever he likes: what is mutated is the text below the signature."""

    def opened(data: bytes) -> object:
        text = data.decode("utf-8", "surrogateescape")
        return parse(note.sign_note(text, name, key).encode("utf-8", "surrogateescape"))

    return opened


def _line(data: bytes) -> bytes:
    """Return the text of a note."""
    return data.rpartition(b"\n\n")[0] + b"\n"


def _wire(story: Story) -> Iterator[Stranger]:
    evil = Ed25519PrivateKey.generate()
    own = note.encode_vkey("evil.example/log", note.public_octets(evil))
    hq = story.vkey("hq")
    request, grant = story.read("request.note"), story.read("grant.note")
    told, ack, plan = story.read("lot.bundle.manifest"), story.read("ack.note"), story.read("rework.plan")
    bad = (Tampered, Misconfigured)

    def by_evil(parse: Parse) -> Parse:
        return _signed(evil, "evil.example/log", parse)

    yield Stranger("wire.site.open_request", site_papers.open_request, (request,), bad)
    yield Stranger("wire.site.open_grant", lambda data: site_papers.open_grant(data, hq), (grant,), bad)
    yield Stranger("wire.site.open_grant.claimed", lambda data: site_papers.open_grant(data, None), (grant,), bad)
    yield Stranger("wire.manifest.open_manifest", lambda data: manifest.open_manifest(data, hq), (told,), bad)
    yield Stranger("wire.report.open_acknowledgement", lambda data: report.open_acknowledgement(data, hq), (ack,), bad)
    exported = registry.sign_export_manifest(_exported("evil.example/log"), evil)
    yield Stranger(
        "wire.registry.open_export_manifest", lambda data: registry.open_export_manifest(data, own), (exported,), bad
    )
    signed: tuple[tuple[str, Any, bytes], ...] = (
        ("request", site_papers.SiteRequest, request), ("grant", site_papers.Grant, grant),
        ("manifest", manifest.Manifest, told), ("ack", report.Acknowledgement, ack),
        ("export", registry.ExportManifest, exported),
    )  # fmt: skip
    for name, kind, seed in signed:
        parse = by_evil(lambda data, kind=kind: document.open_document(data, own, kind))
        yield Stranger(f"wire.document.open_document.{name}", parse, (_line(seed),), (*bad, Refused))
    statement = _receipt(story)
    station = site_papers.open_request(request).stations[0].vkey
    yield Stranger("wire.receipt.open_receipt", lambda data: receipt.open_receipt(data, station), (statement,), bad)
    yield Stranger(
        "wire.receipt.open_receipt.signed", by_evil(lambda data: receipt.open_receipt(data, own)),
        (_line(statement),), (*bad, Refused), good=False,
    )  # fmt: skip
    yield Stranger("wire.approval.parse_plan", _text(approval.parse_plan), (plan,), (Tampered,))
    approver = note.parse_vkey(own)
    yield Stranger(
        "wire.approval.open_plan", lambda data: approval.open_plan(data, [approver]),
        (plan, approval.add_signature(plan, plan.decode(), "evil.example/log", evil)), (Tampered,),
    )  # fmt: skip
    yield Stranger("wire.approval.signature_lines", approval.signature_lines, (plan, grant), ())
    yield Stranger("wire.approval.plan_text", approval.plan_text, (plan,), (Tampered,))
    sealed = story.read("lot.bundle")
    cursor = f"birthmark-cursor/1:12:{'ab' * 32}".encode()
    yield Stranger("wire.registry.parse_cursor", _text(registry.parse_cursor), (cursor,), (Refused, Misconfigured))
    scanned = label.label_of("TH-0001", b"certificate").text.encode()
    yield Stranger("wire.label.parse_label", _text(label.parse_label), (scanned,), (Refused,))
    delta = imagedelta.encode_delta(
        imagedelta.Delta(
            "0" * 64, 100, "TH-0001", 200, (imagedelta.Region(3, b"abc"), imagedelta.Region(90, b"\0" * 110))
        )
    )
    yield Stranger("wire.imagedelta.decode_delta", imagedelta.decode_delta, (delta,), (Tampered,))
    yield Stranger(
        "wire.imagedelta.decode_delta.whole",
        lambda data: imagedelta.decode_delta(data + sha256(data).digest()), (delta[:-32],), (Tampered,),
    )  # fmt: skip
    yield Stranger("wire.frames.read_frames", _frames, (sealed, story.read("fab.report")), (Tampered,))
    yield Stranger("wire.frames.read_whole_frames", _whole_frames, (sealed,), (Tampered,))
    (_, head), (_, chunk), *_ = frames.read_frames(BytesIO(sealed).read, bundle.BUNDLE_MAGIC)
    header = bundle.decode_header(head)
    yield Stranger("wire.bundle.decode_header", bundle.decode_header, (head,), (Tampered,))
    yield Stranger("wire.bundle.decode_chunk", lambda data: bundle.decode_chunk(data, header), (chunk,), (Tampered,))
    key, first = bundle.decode_chunk(chunk, header), header.slot_octets
    opened = Secret(bytes(32))
    yield Stranger(
        "wire.vault.open_slot_with", lambda data: open_slot_with(opened, data, 0, bytes(32)), (key.slots[:first],),
        (Tampered,), good=False,
    )  # fmt: skip
    yield Stranger("wire.report.ReportReader", _report, (story.read("fab.report"),), (Tampered,))
    asked = addcheckpoint.AddCheckpoint(5, (bytes(32), bytes(32)), story.read("fab/log/checkpoint")).render()
    yield Stranger("wire.addcheckpoint.parse_add_checkpoint", addcheckpoint.parse_add_checkpoint, (asked,), (Refused,))
    pem = story.read("fab/keys/vault.pem")
    passphrase = Secret(story.read("hq/secrets/passphrase"))
    yield Stranger("wire.vault.from_pem", lambda data: VaultKey.from_pem(data, passphrase), (pem,), (Misconfigured,))
    yield Stranger("wire.vault.open_content_key", lambda data: open_content_key(story.vault_key, data),
                   (key.encapsulated,), (Tampered,), good=False)  # fmt: skip


def _receipt(story: Story) -> bytes:
    """Return the receipt that the site's station wrote: the attachment of the only ``verified`` entry."""
    reader = report.ReportReader(BytesIO(story.read("fab.report")).read)
    for piece in reader.entries():
        for entry in piece:
            event, attachment = events.decode_entry(entry)
            if isinstance(event, events.Verified):
                return attachment
    raise AssertionError("no device was verified")


def _entries(story: Story) -> list[bytes]:
    reader = report.ReportReader(BytesIO(story.read("fab.report")).read)
    return [entry for piece in reader.entries() for entry in piece]


def _frames(data: bytes) -> object:
    magic = bundle.BUNDLE_MAGIC if data.startswith(bundle.BUNDLE_MAGIC) else report.REPORT_MAGIC
    return [len(payload) for _, payload in frames.read_frames(BytesIO(data).read, magic)]


def _whole_frames(data: bytes) -> object:
    return [len(payload) for _, payload in frames.read_whole_frames(BytesIO(data).read, bundle.BUNDLE_MAGIC)]


def _report(data: bytes) -> object:
    reader = report.ReportReader(BytesIO(data).read)
    return [len(piece) for piece in reader.entries()]


def _answers(story: Story) -> Iterator[Stranger]:
    asked = json.dumps({"attempt": "attempt-0001", "device_serial": "TH-0001", "csr": "MAA="}).encode()
    yield Stranger("wire.service.read_asked", service.read_asked, (asked,), (Refused,))
    facts = {
        "order": "lot", "product": "device", "profile": "tls-client", "key_algorithm": "p256",
        "key_origin": "injected", "ca": "issuing", "quantity": 3,
    }  # fmt: skip
    answer = json.dumps(
        {"attempt": "attempt-0001", "device_serial": "TH-0001", "certificate": "MAA=", "chain": ["MAA="],
         "order": facts, "intent": 1, "entry": 2, "sealed": {"encapsulated": "AA==", "slot": "AA=="}}
    ).encode()  # fmt: skip
    yield Stranger("wire.service.read_answer", service.read_answer, (answer,), (Tampered,))
    taken = json.dumps(
        {"site": "fab", "octets": 1, "sha256": "00" * 32, "outcome": "taken", "settled": 1, "findings": 0,
         "acknowledged": 1, "acknowledgement": "MAA="}
    ).encode()  # fmt: skip
    yield Stranger("wire.service.read_taken", service.read_taken, (taken,), (Tampered,))
    session = cmp.CmpSession(b"ref", Secret(b"shared"), bytes(16))
    errors = (Tampered, Refused, Unavailable)
    yield Stranger("wire.cmp.read_answer", lambda data: cmp.read_answer(data, session, nonce=bytes(16)),
                   (_cmp(session, _confirmed()),), errors)  # fmt: skip
    yield Stranger("wire.cmp.read_answer.protected",
                   lambda data: cmp.read_answer(_cmp(session, data), session, nonce=bytes(16)),
                   (_confirmed(), _granted(story), _rejected()), errors, good=False)  # fmt: skip


def _confirmed() -> bytes:
    return tlv(0xB3, b"\x05\x00")


def _granted(story: Story) -> bytes:
    """Return a cp body (RFC 9810, 5.3.4) with one certificate."""
    certificate = certfile.read_certificates(story.read("dut/TH-0001/device.crt"))[0]
    pair = tlv(0x30, tlv(0xA0, certificate))
    response = tlv(0x30, integer(0) + tlv(0x30, integer(0)) + pair)
    return tlv(0xA3, tlv(0x30, tlv(0x30, response)))


def _rejected() -> bytes:
    status = tlv(0x30, integer(2) + tlv(0x30, tlv(0x0C, b"no")))
    return tlv(0xB7, tlv(0x30, status))


def _cmp(session: cmp.CmpSession, body: bytes) -> bytes:
    """Return a message with ``body`` whose MAC holds: a CA that knows the secret may send what it likes."""
    fields = [
        integer(2), cmp._NO_NAME, cmp._NO_NAME, tlv(0xA1, cmp._protection(bytes(16))),
        tlv(0xA4, tlv(0x04, session.transaction)), tlv(0xA5, tlv(0x04, bytes(16))), tlv(0xA6, tlv(0x04, bytes(16))),
    ]  # fmt: skip
    header = tlv(0x30, b"".join(fields))
    mac = cmp._mac(session.secret, bytes(16), cmp._ROUNDS, header + body)
    return tlv(0x30, header + body + tlv(0xA0, bit_string(mac)))


def _log(story: Story) -> Iterator[Stranger]:
    head, vkey = story.read("fab/log/checkpoint"), story.read("fab/log/vkey").strip()
    name = vkey.partition(b"+")[0].decode()
    trusted = vkey.decode()
    key = note.parse_vkey(trusted)
    bad = (Tampered,)
    proved = story.read("TH-0001.proof")
    plain = proved[proved.index(b"c2sp.org/tlog-proof@v1\n") :]
    yield Stranger("tlog.checkpoint.parse", _text(checkpoint.parse), (_line(head),), bad)
    yield Stranger(
        "tlog.checkpoint.open_checkpoint", lambda data: checkpoint.open_checkpoint(data, name, key), (head,), bad
    )
    yield Stranger("tlog.checkpoint.parse_decimal", _text(checkpoint.parse_decimal), (b"0", b"17"), ())
    yield Stranger("tlog.note.open_note", lambda data: note.open_note(data, [key]), (head,), bad)
    yield Stranger("tlog.note.split_note", note.split_note, (head,), bad)
    yield Stranger("tlog.note.parse_signature", _text(note.parse_signature), (head.split(b"\n")[-2],), bad)
    yield Stranger("tlog.note.parse_vkey", _text(note.parse_vkey), (vkey,), (Misconfigured,))
    yield Stranger("tlog.note.decode_base64", _text(note.decode_base64), (b"AAAA",), ())
    witness = Ed25519PrivateKey.generate()
    public = note.public_octets(witness)
    cosigner = cosignature.encode_cosigner("w.example", public)
    cosigned = head + cosignature.cosign(_line(head).decode(), "w.example", witness, timestamp=17).encode()
    parsed = cosignature.parse_cosigner(cosigner)
    yield Stranger("tlog.cosignature.parse_cosigner", _text(cosignature.parse_cosigner), (cosigner.encode(),),
                   (Misconfigured,))  # fmt: skip
    yield Stranger("tlog.cosignature.open_cosignatures", lambda data: cosignature.open_cosignatures(data, [parsed]),
                   (cosigned,), bad)  # fmt: skip
    rule = b"log %b\nwitness w %b\ngroup all-of-us all w\nquorum all-of-us\n" % (vkey, cosigner.encode())
    yield Stranger("tlog.policy.parse_policy", policy.parse_policy, (rule,), (Misconfigured,))
    known = policy.parse_policy(rule)
    yield Stranger("tlog.policy.open_checkpoint", known.open_checkpoint, (cosigned,), bad)
    yield Stranger("tlog.policy.open_head", known.open_head, (cosigned,), bad)
    yield Stranger("tlog.proof.parse_proof", tlog_proof.parse_proof, (plain,), bad)
    entry = _proved_entry(plain)
    yield Stranger(
        "tlog.proof.verify_proof", lambda data: tlog_proof.verify_proof(data, entry, name, key), (plain,), bad
    )
    yield Stranger("tlog.tiles.parse_tile_path", _text(tiles.parse_tile_path), (b"tile/0/x001/002.p/3",), (Refused,))
    packed = tiles.encode_entries(_entries(story))
    yield Stranger("tlog.tiles.decode_entries", tiles.decode_entries, (packed,), bad)
    edge = merkle.Frontier().extend([bytes(32)] * 5).to_bytes()
    yield Stranger("tlog.merkle.from_bytes", merkle.Frontier.from_bytes, (edge,), bad)


def _proved_entry(plain: bytes) -> bytes:
    entry = tlog_proof.parse_proof(plain).extra
    assert entry is not None
    return entry


def _certificates(story: Story) -> Iterator[Stranger]:
    pem = story.read("dut/TH-0001/device.crt")
    device = certfile.read_certificates(pem)[0]
    root = x509.load_pem_x509_certificate(story.read("hq/ca/root.pem"))
    issuing = x509.load_pem_x509_certificate(story.read("hq/ca/issuing.pem"))
    above = [issuing.public_bytes(Encoding.DER), root.public_bytes(Encoding.DER)]
    request = site_papers.open_request(story.read("request.note")).stations[0].csr
    now = datetime.now(UTC)
    spki = certread.open_parts(device).spki
    yield Stranger("pki.csr.parse_csr", csr.parse_csr, (request, _pem_request(request)), (Refused,))
    yield Stranger("pki.certread.open_parts", certread.open_parts, (device,), (Refused,))
    yield Stranger("pki.certread.parse_certificate", lambda data: certread.parse_certificate(certread.open_parts(data)),
                   (device, *above), (Refused,))  # fmt: skip
    yield Stranger("pki.certread.SpkiReader", lambda data: certread.SpkiReader().spki(data), (device,), (Refused,))
    yield Stranger("pki.certfile.read_certificates", certfile.read_certificates, (pem, device), (Refused,))
    yield Stranger("pki.derread.read_der", lambda data: derread.read_members(derread.read_der(data)), (device,),
                   (Refused,))  # fmt: skip
    yield Stranger("pki.derread.oid_text", lambda data: derread.oid_text(derread.read_der(data, 0x06)),
                   (bytes.fromhex("0603550403"),), (Refused,))  # fmt: skip
    yield Stranger("pki.keycheck.check_public_key", keycheck.check_public_key, (spki,), (Refused,))
    yield Stranger("pki.keycheck.key_kind", keycheck.key_kind, (spki,), (Refused,))
    yield Stranger("pki.keycheck.load_sound_p256", keycheck.load_sound_p256, (spki,), ())
    yield Stranger("pki.chain.verify_chain", lambda data: chain.verify_chain(data, above[:1], above[1:], at=now),
                   (device,), (Tampered, Refused))  # fmt: skip
    revoked = story.read("hq/ca/issuing.crl")
    yield Stranger("pki.crl.read_crl", lambda data: crl.read_crl(data, issuing), (revoked,), (Tampered, Refused))
    toml = story.read("hq/profiles/tls-client.toml")
    yield Stranger("pki.profile.parse_profile", profile.parse_profile, (toml,), (Misconfigured,))
    for_aws = awstemplate.bulk_template("devices", "lamp", None).encode()
    yield Stranger("pki.awstemplate.parse_aws_template",
                   lambda data: awstemplate.parse_aws_template(data.decode("utf-8", "replace")),
                   (for_aws,), (Misconfigured,))  # fmt: skip
    admitted = _template(story)
    yield Stranger("pki.template.from_bytes", template.Template.from_bytes, (admitted,), (Tampered, Misconfigured))
    yield Stranger("pki.templatefile.decode", lambda data: templatefile.TemplateFile.decode(data).open_profile(),
                   (admitted,), (Tampered,))  # fmt: skip


def _template(story: Story) -> bytes:
    """Return the template that the authority admitted, from its log."""
    names = sorted((story.hq / "log/tile/entries").glob("000.p/*"), key=lambda path: int(path.name))
    for entry in tiles.decode_entries(names[-1].read_bytes()):
        event, attachment = events.decode_entry(entry)
        if isinstance(event, events.TemplateAdmitted):
            return attachment
    raise AssertionError("no template was admitted")


def _pem_request(der_request: bytes) -> bytes:
    return x509.load_der_x509_csr(der_request).public_bytes(Encoding.PEM)


class _NobodyIsLetIn:
    """Sites of an authority that has granted nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def _readers(story: Story) -> Iterator[Stranger]:
    """What the audit, the targets and the service read."""
    trusted = story.vkey("fab")
    key = logcheck.read_vkey(trusted)
    proved, head = story.read("TH-0001.proof"), story.read("fab/log/checkpoint")
    device = certfile.read_certificates(story.read("dut/TH-0001/device.crt"))[0]
    lines = tuple(entry.partition(b"\n")[0] for entry in _entries(story))
    yield Stranger("adapters.audit.proof.check_proof", lambda data: proof.check_proof(data, trusted), (proved,),
                   (Tampered,))  # fmt: skip
    yield Stranger("adapters.audit.logcheck.read_vkey", _text(logcheck.read_vkey), (trusted.encode(),),
                   (Misconfigured,))  # fmt: skip
    yield Stranger("adapters.audit.logcheck.open_head", lambda data: logcheck.open_head(data, key), (head,),
                   (Tampered,))  # fmt: skip
    yield Stranger("adapters.audit.der.certificate_spans", der.certificate_spans, (device,), ())
    yield Stranger("adapters.audit.der.validity_window", lambda data: der.validity_window(data), (device,), ())
    yield Stranger("adapters.audit.der.spki_bits", der.spki_bits, (device,), ())
    yield Stranger("adapters.audit.certificates.load_certificate", certificates.load_certificate, (device,), ())
    yield Stranger("adapters.audit.certificates.open_authority", lambda data: certificates.open_authority(data, device),
                   (device,), ())  # fmt: skip
    yield Stranger(
        "adapters.audit.certificates.proves_possession",
        lambda data: certificates.proves_possession(data, b"message", b"signature"), (device,), (),
    )  # fmt: skip
    yield Stranger("adapters.audit.certificates.TemplateForm", _form, (_template(story),), ())
    yield Stranger("adapters.audit.entries.parse_head", _head, lines, ())
    yield Stranger("adapters.audit.entries.split_packed", lambda data: entries.split_packed(data, 3),
                   (tiles.encode_entries(_entries(story)),), ())  # fmt: skip
    yield Stranger("adapters.audit.receipts.receipt_fault", _judged(story), (_line(_receipt(story)),), (Refused,))
    for name, layout in layouts.LAYOUTS.items():
        seed = story.read("dut/TH-0001/device.key") if name == "pem" else device
        read, first = partial(layouts.read_key, layout, "device.key"), partial(layouts.first_certificate, layout)
        yield Stranger(f"adapters.targets.layouts.read_key.{name}", read, (seed,), (DeviceFault,), good=name == "pem")
        yield Stranger(f"adapters.targets.layouts.first_certificate.{name}", first, (device,), ())
    yield Stranger("adapters.targets.layouts.read_certificates", _read_back, (story.read("dut/TH-0001/device.crt"),),
                   (DeviceFault,))  # fmt: skip
    yield Stranger("adapters.targets.layouts.decode_p12", lambda data: layouts.decode_p12(data, b"pass"),
                   (_p12(story),), (DeviceFault,))  # fmt: skip
    yield Stranger("adapters.targets.layouts.decode_p12.noise", lambda data: layouts.decode_p12(data, b"pass"),
                   (device,), (DeviceFault,), good=False)  # fmt: skip
    region = identityregion.encode_region(_identity(story))
    yield Stranger("adapters.targets.image.identityregion", identityregion.decode_region, (region,), (DeviceFault,))
    yield Stranger(
        "adapters.targets.image.identityregion.whole",
        lambda data: identityregion.decode_region(data + sha256(data).digest()), (region[:-32],), (DeviceFault,),
    )  # fmt: skip
    access = x509.load_pem_x509_certificates(story.read("fab/tls/line1.pem"))
    issuer = _access_ca(story)
    callers: Any = Callers(_NobodyIsLetIn(), issuers=(issuer,), clock=lambda: datetime.now(UTC), proxy="proxy")
    shown = b":" + base64.b64encode(access[0].public_bytes(Encoding.DER)) + b":"
    encoded = quote(access[0].public_bytes(Encoding.PEM).decode()).encode()
    yield Stranger("shell.api.callers.of", lambda data: callers.of({"headers": [(b"client-cert", data)]}),
                   (shown, encoded), (Refused,), good=False)  # fmt: skip


def _access_ca(story: Story) -> bytes:
    names = sorted((story.hq / "log/tile/entries").glob("000.p/*"), key=lambda path: int(path.name))
    for entry in tiles.decode_entries(names[-1].read_bytes()):
        event, attachment = events.decode_entry(entry)
        if isinstance(event, events.CaCreated) and event.kind == "access":
            return attachment
    raise AssertionError("there is no access CA")


def _form(data: bytes) -> object:
    try:
        return certificates.TemplateForm(data).octets(bytes(16), b"TH-0001", bytes(91))
    except ValueError:
        return None


def _head(data: bytes) -> object:
    document = entries.parse_head(data)
    return None if document is None else entries.canonical_fault(data, document)


def _judged(story: Story) -> Parse:
    evil = Ed25519PrivateKey.generate()
    name = "evil.example/station/line1"
    vkey = note.encode_vkey(name, note.public_octets(evil))
    device = certfile.read_certificates(story.read("dut/TH-0001/device.crt"))[0]

    def judge(data: bytes) -> object:
        signed = note.sign_note(data.decode("utf-8", "surrogateescape"), name, evil).encode()
        case = ReceiptCase(
            "evil.example", "line1", "attempt", "TH-0001", "signature", sha256(signed).hexdigest(), vkey, device
        )
        return receipt_fault(signed, case)

    return judge


def _read_back(data: bytes) -> object:
    return layouts.read_certificates(layouts.LAYOUTS["pem"], {"device.crt": data})


def _p12(story: Story) -> bytes:
    certificate = x509.load_pem_x509_certificates(story.read("dut/TH-0001/device.crt"))[0]
    key = load_pem_private_key(story.read("dut/TH-0001/device.key"), None)
    return layouts.encode_p12("TH-0001", key, certificate, (), b"pass")


def _exported(origin: str) -> registry.ExportManifest:
    file = registry.ExportedFile(name="devices.jsonl", octets=12, sha256="ab" * 32)
    return registry.ExportManifest(
        origin=origin, since=None, next=f"birthmark-cursor/1:12:{'ab' * 32}", first=0, size=12, changes=1, verified=1,
        files=(file,), created_at="2026-11-25T21:00:00.000Z",
    )  # fmt: skip


def _identity(story: Story) -> Identity:
    certificates = tuple(x509.load_pem_x509_certificates(story.read("dut/TH-0001/device.crt")))
    return Identity("TH-0001", load_pem_private_key(story.read("dut/TH-0001/device.key"), None), certificates)


def _vendors(story: Story) -> Iterator[Stranger]:
    """What vendors of chips send: manifests, lists and archives."""
    vendor = ChipVendor()
    chips, signers = vendor.chips(2), microchip.manifest_signers([vendor.signer.public_bytes(Encoding.DER)])
    elements = [json.dumps(vendor.element(chip.payload())).encode() for chip in chips]
    bad = (Refused, Tampered)

    def by_vendor(data: bytes) -> object:
        """Sign whatever the payload has become: what is behind the signature must be read as carefully."""
        signed = vendor.element({}, header_id=chips[0].unique_id, raw=data)
        return microchip.read_element(json.dumps(signed).encode(), 1, signers)

    yield Stranger(
        "wire.microchip.read_element", lambda data: microchip.read_element(data, 1, signers), (elements[0],), bad
    )
    yield Stranger("wire.microchip.read_element.signed", by_vendor, (json.dumps(chips[0].payload()).encode(),), bad)
    yield Stranger(
        "wire.jsonarray.array_elements", lambda data: list(array_elements([data])),
        (b"[" + b",\n".join(elements) + b"]",), bad,
    )  # fmt: skip
    yield Stranger("wire.preload.unpack_identities", unpack_identities, (pack_identity(
        PreloadedIdentity(chips[0].spki_sha256, chips[0].unique_id, chips[0].certificate.public_bytes(Encoding.DER))),),
        ())  # fmt: skip
    pem = b"".join(chip.certificate.public_bytes(Encoding.PEM) for chip in chips)
    rows = b"unique_id,certificate\n" + b"".join(
        f"{chip.unique_id},{base64.b64encode(chip.certificate.public_bytes(Encoding.DER)).decode()}\n".encode()
        for chip in chips
    )
    yield Stranger("adapters.vendorfiles.list_items", lambda data: list(list_items([data])), (pem, rows), bad)
    for name, seed, read in (("zip", _zipped(chips), zip_members), ("tar", _tarred(chips), tar_members)):
        parse = lambda data, read=read: list(read(BytesIO(data)))  # noqa: E731
        yield Stranger(f"adapters.vendorfiles.{name}_members", parse, (seed,), bad)


def _zipped(chips: list[Chip]) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for chip in chips:
            archive.writestr(f"lot/{chip.unique_id}.der", chip.certificate.public_bytes(Encoding.DER))
    return out.getvalue()


def _tarred(chips: list[Chip]) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for chip in chips:
            data = chip.certificate.public_bytes(Encoding.DER)
            info = tarfile.TarInfo(f"lot/{chip.unique_id}.der")
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return out.getvalue()


def _files(story: Story) -> Iterator[Stranger]:
    """Names, URIs and files of settings."""
    bad = (Misconfigured,)
    names: tuple[tuple[str, Callable[[str], object], bytes], ...] = (
        ("parse_device_serial", ids.parse_device_serial, b"TH-0001"),
        ("parse_order_id", ids.parse_order_id, b"lot-1"), ("parse_site_id", ids.parse_site_id, b"fab-a"),
        ("parse_station_id", ids.parse_station_id, b"fab-a/line1"),
        ("parse_attempt_id", ids.parse_attempt_id, b"attempt-0001"),
    )  # fmt: skip
    for name, parse, seed in names:
        yield Stranger(f"model.ids.{name}", _text(parse), (seed,), (Refused,))
    yield Stranger("model.events.decode_entry", events.decode_entry, tuple(_entries(story)), (Tampered,))
    yield Stranger("shell.config.parse_settings", lambda data: config.parse_settings(data, "birthmark.toml"),
                   (story.read("hq/birthmark.toml"),), bad)  # fmt: skip
    yield Stranger("shell.config.parse_part", lambda data: config.parse_part(data, "grant.toml"),
                   (story.read("fab/settings.d/grant.toml"),), bad)  # fmt: skip
    yield Stranger("workflow.ceremonyfile.parse_ceremony", parse_ceremony, (story.read("hq/ceremony.toml"),), bad)
    yield Stranger("guide.plan.parse_plan", parse_guide_plan, (story.read("plan.toml"),), (*bad, Refused))
    yield Stranger("guide.answers.parse_answers", parse_answers, story.examples(), bad)
    yield Stranger(
        "adapters.issuers.uri.parse_issuer_uri",
        _text(lambda text: parse_issuer_uri(text, scheme="est", options=("trust",))),
        (b"est:https://ca.example/.well-known/est?trust=roots.pem",), bad,
    )  # fmt: skip
    yield Stranger(
        "adapters.targets.uri.parse_target_uri",
        _text(lambda text: parse_target_uri(text, scheme="files", options=("key",))), (b"files:/out/TH-1?key=born",),
        bad,
    )  # fmt: skip
    yield Stranger("adapters.pkcs11_uri.parse_pkcs11_uri", _text(lambda text: parse_pkcs11_uri(text, base=story.place)),
                   (b"pkcs11:token=fab;object=key?module-path=/usr/lib/x.so&pin-source=env:PIN",), bad)  # fmt: skip
