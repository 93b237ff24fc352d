"""What vendors send: arrays taken apart, elements verified, records packed; every forgery is refused by its name."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from birthmark.errors import BirthmarkError, Refused, Tampered
from birthmark.wire import microchip
from birthmark.wire.jsonarray import MAX_ELEMENT, array_elements
from birthmark.wire.preload import PreloadedIdentity, pack_identity, unpack_identities
from support.chipvendor import Chip, ChipVendor, b64url, certify, der, named

VENDOR = ChipVendor()
SIGNERS = microchip.manifest_signers([der(VENDOR.signer)])
PUBLISHED = {
    "payload": (
        "eyJ2ZXJzaW9uIjoyLCJtb2RlbCI6IkFURUNDNjA4QyIsInBhcnROdW1iZXIiOiJBVEVDQzYwOEMtTUFIMjIiLCJtYW51ZmFjdHVyZXIiOnsi"
        "b3JnYW5pemF0aW9uTmFtZSI6Ik1pY3JvY2hpcCBUZWNobm9sb2d5IEluYyIsIm9yZ2FuaXphdGlvbmFsVW5pdE5hbWUiOiJTZWN1cmUgQ29t"
        "cHV0aW5nIEdyb3VwIn0sInByb3Zpc2lvbmVyIjp7Im9yZ2FuaXphdGlvbk5hbWUiOiJNaWNyb2NoaXAgVGVjaG5vbG9neSBJbmMiLCJvcmdh"
        "bml6YXRpb25hbFVuaXROYW1lIjoiU2VjdXJlIENvbXB1dGluZyBHcm91cCJ9LCJkaXN0cmlidXRvciI6eyJvcmdhbml6YXRpb25OYW1lIjoi"
        "TWljcm9jaGlwIFRlY2hub2xvZ3kgSW5jIiwib3JnYW5pemF0aW9uYWxVbml0TmFtZSI6Ik1pY3JvY2hpcCBEaXJlY3QifSwiZ3JvdXBJZCI6"
        "IjM1OVNDRTU1TlYzOEgzQ0IiLCJwcm92aXNpb25pbmdUaW1lc3RhbXAiOiIyMDI0LTAxLTE1VDE3OjIyOjQ1LjAwMFoiLCJ1bmlxdWVJZCI6"
        "IjAxMjNmMTgyMmMzOGRkN2EwMSJ9"
    ),
    "protected": (
        "eyJhbGciOiJFUzI1NiIsImtpZCI6IlRDbnBuellCOE0zQ083NzZCeVBKMnlYM0tZbyIsInR5cCI6IkpXVCIsIng1dCNTMjU2IjoiVngyWmhC"
        "RVg0Ni16VHlpSVlFV1FQNmVGekNnOTB1Z0dqaDVlcEdCTTRPTSJ9"
    ),
    "header": {"uniqueId": "0123f1822c38dd7a01"},
    "signature": "2RUpvQyX_fRrcOrKIQ4FeHbrWtR_eEv7fi_aSXOMvQ4xdQP_sR9AqYNG2t8yFIvwdMD54L8JWozkjVbvwP1TAw",
}
"""The element of Microchip's page "Manifest Example" (Trust Platform Manifest File Lite Format)."""


def read(element: Any, **options: Any) -> Any:
    return microchip.read_element(json.dumps(element).encode(), 1, SIGNERS, **options)


def refused(code: str, element: Any, kind: type[BirthmarkError] = Refused) -> None:
    with pytest.raises(kind) as caught:
        read(element)
    assert caught.value.code == code


def short_chip() -> Chip:
    """Return a chip one of whose coordinates begins with a zero octet: one key of 128 has one."""
    while True:
        key = ec.generate_private_key(ec.SECP256R1())
        numbers = key.public_key().public_numbers()
        if min(numbers.x, numbers.y) >> 248 == 0:
            return VENDOR.chip(key=key)


def stripped(chip: Chip) -> dict[str, Any]:
    """Return the payload as a vendor's tool writes it: a coordinate without its leading zeros."""
    payload = chip.payload()
    for name in ("x", "y"):
        text = payload["publicKeySet"]["keys"][0][name]
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).lstrip(b"\0")
        payload["publicKeySet"]["keys"][0][name] = b64url(octets)
    return payload


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_with_keys_is_read(version: int) -> None:
    chip = VENDOR.chip("0123ABCDEF")
    item = read(VENDOR.element(chip.payload(version)))
    assert (item.unique_id, item.certificate, item.above) == ("0123abcdef", der(chip.certificate), (der(VENDOR.ca),))


def test_published_example_is_of_a_signer_that_nobody_named() -> None:
    refused("preload.signer.unknown", PUBLISHED)


def test_published_example_verifies_under_the_key_that_its_signature_gives_and_is_refused_for_having_no_keys() -> None:
    """An ECDSA signature gives two keys that fit it; the one that ``kid`` is the identifier of is Microchip's."""
    protected = json.loads(base64.urlsafe_b64decode(PUBLISHED["protected"] + "=="))  # type: ignore[operator]
    keys = [key for key in recovered(PUBLISHED) if key_identifier(key) == protected["kid"]]
    assert len(keys) == 1
    signers = {protected["x5t#S256"]: microchip.ManifestSigner(protected["kid"], keys[0])}
    with pytest.raises(Refused, check=lambda fault: fault.code == "preload.keys.none"):
        microchip.read_element(json.dumps(PUBLISHED).encode(), 1, signers)
    changed = {**PUBLISHED, "payload": PUBLISHED["payload"][:-4] + "ISJ9"}  # type: ignore[index]
    with pytest.raises(Tampered, check=lambda fault: fault.code == "preload.signature"):
        microchip.read_element(json.dumps(changed).encode(), 1, signers)


P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
Point = tuple[int, int] | None


def add(p: Point, q: Point) -> Point:
    if p is None or q is None:
        return p or q
    if p[0] == q[0]:
        if (p[1] + q[1]) % P == 0:
            return None
        slope = (3 * p[0] ** 2 - 3) * pow(2 * p[1], -1, P)
    else:
        slope = (q[1] - p[1]) * pow(q[0] - p[0], -1, P)
    x = (slope**2 - p[0] - q[0]) % P
    return x, (slope * (p[0] - x) - p[1]) % P


def times(k: int, p: Point) -> Point:
    found: Point = None
    while k:
        found, p, k = add(found, p) if k & 1 else found, add(p, p), k >> 1
    return found


def recovered(element: Any) -> list[ec.EllipticCurvePublicKey]:
    """Return the P-256 keys that a signature fits (SEC 1, 4.1.6)."""
    from hashlib import sha256

    signature = base64.urlsafe_b64decode(element["signature"] + "==")
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    e = int.from_bytes(sha256(f"{element['protected']}.{element['payload']}".encode()).digest(), "big")
    root = pow((r**3 - 3 * r + B) % P, (P + 1) // 4, P)
    inverse = pow(r, -1, N)
    found = []
    for y in (root, P - root):
        point = add(times(s * inverse % N, (r, y)), times(-e * inverse % N, G))
        assert point is not None
        found.append(ec.EllipticCurvePublicNumbers(*point, ec.SECP256R1()).public_key())
    return found


def key_identifier(key: ec.EllipticCurvePublicKey) -> str:
    from cryptography import x509

    return b64url(x509.SubjectKeyIdentifier.from_public_key(key).digest)


def test_forged_elements_are_refused_by_name() -> None:
    chip = VENDOR.chip()
    good, payload = VENDOR.element(chip.payload()), chip.payload()
    assert read(good).unique_id == chip.unique_id
    refused("preload.signer.kid", VENDOR.element(payload, kid=b64url(bytes(20))))
    refused("preload.signer.unknown", VENDOR.element(payload, **{"x5t#S256": b64url(bytes(32))}))
    for algorithm in ("none", "HS256", "ES512", "RS256", "es256"):
        refused("preload.algorithm", VENDOR.element(payload, alg=algorithm))
    refused("preload.algorithm", VENDOR.element(payload, crit=["b64"]))
    refused("preload.id.differs", VENDOR.element(payload, header_id="0123other01"))
    refused("preload.version", VENDOR.element({**payload, "version": 4}))
    refused("preload.id.malformed", VENDOR.element({**payload, "uniqueId": "../x"}))
    refused("preload.keys.none", VENDOR.element({**payload, "publicKeySet": {"keys": []}}))
    stranger = ec.generate_private_key(ec.SECP256R1())
    refused("preload.signature", VENDOR.element(payload, key=stranger), Tampered)
    refused("preload.signature", {**good, "signature": b64url(bytes(64))}, Tampered)
    refused("preload.signature", {**good, "signature": good["signature"][:40]}, Tampered)
    refused("preload.element", {**good, "payload": good["payload"] + "="})
    other = VENDOR.chip().payload()
    mixed = {**payload, "publicKeySet": {"keys": [{**payload["publicKeySet"]["keys"][0], "x": "AA"}]}}
    refused("preload.key.short", VENDOR.element(mixed))
    key = {**payload["publicKeySet"]["keys"][0], "x5c": other["publicKeySet"]["keys"][0]["x5c"]}
    refused("preload.key.differs", VENDOR.element({**payload, "publicKeySet": {"keys": [key]}}))
    key = {**payload["publicKeySet"]["keys"][0], "x5c": ["AAAA"]}
    refused("preload.certificate", VENDOR.element({**payload, "publicKeySet": {"keys": [key]}}))


def test_es512_key_under_es256_is_a_wrong_signature() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    signer = certify(named("P-384 signer"), key.public_key(), named("P-384 signer"), key, ca=False)
    ours = ChipVendor(signer_key=key)
    ours.signer = signer
    with pytest.raises(Tampered, check=lambda fault: fault.code == "preload.signature"):
        microchip.read_element(
            json.dumps(ours.element(VENDOR.chip().payload(), key=VENDOR.signer_key)).encode(),
            1,
            microchip.manifest_signers([der(signer)]),
        )


def test_short_coordinate_is_refused_and_accepted_only_if_the_certificate_agrees() -> None:
    chip = short_chip()
    element = VENDOR.element(stripped(chip))
    refused("preload.key.short", element)
    assert read(element, accept_short=True).certificate == der(chip.certificate)
    payload = stripped(chip)
    payload["publicKeySet"]["keys"][0]["x5c"] = VENDOR.chip().payload()["publicKeySet"]["keys"][0]["x5c"]
    with pytest.raises(Refused, check=lambda fault: fault.code == "preload.key.differs"):
        read(VENDOR.element(payload), accept_short=True)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(items=st.lists(values, max_size=6), cut=st.integers(1, 9), indent=st.none() | st.just(2))
@settings(max_examples=80, deadline=None)
def test_array_comes_apart_as_json_reads_it(items: list[Any], cut: int, indent: int | None) -> None:
    data = json.dumps(items, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    pieces = [data[at : at + cut] for at in range(0, len(data), cut)]
    assert [json.loads(element) for element in array_elements(pieces)] == items


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[", b"[1", b"[1,]", b"[1] 2", b'["', b"[,1]", b"[" + b"x" * (MAX_ELEMENT + 1) + b"]", b"[[]"]
)
def test_what_is_no_array_is_refused(data: bytes) -> None:
    with pytest.raises(Refused, check=lambda fault: fault.code == "preload.json"):
        list(array_elements([data]))


def test_records_are_read_back_whole_or_not_at_all() -> None:
    some = [PreloadedIdentity(bytes([n]) * 32, f"id-{n}", bytes(n)) for n in range(1, 4)]
    data = b"".join(map(pack_identity, some))
    assert unpack_identities(data) == some
    sizes = {len(b"".join(map(pack_identity, some[:n]))) for n in range(4)}
    assert all(unpack_identities(data[:at]) is None for at in range(len(data)) if at not in sizes)


def test_certificate_of_a_key_that_nobody_knows_is_refused() -> None:
    """The OID of the key's algorithm is changed: the certificate can be read, its key cannot."""
    chip = VENDOR.chip()
    payload = chip.payload()
    key_oid, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0207")
    changed = base64.b64encode(der(chip.certificate).replace(key_oid, unknown)).decode()
    payload["publicKeySet"]["keys"][0]["x5c"][0] = changed
    refused("preload.certificate", VENDOR.element(payload))
    with pytest.raises(Refused, check=lambda fault: fault.code == "preload.signer.key"):
        microchip.manifest_signers([der(VENDOR.signer).replace(key_oid, unknown)])
