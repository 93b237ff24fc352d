"""Path validation: NIST's certificates, and attacks on paths of the kinds NIST does not have."""

from __future__ import annotations

import base64
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from birthmark.errors import Tampered
from birthmark.pki.chain import verify_chain

PATHS = tomllib.loads((Path(__file__).parents[2] / "vectors/pkits/paths.toml").read_text())["path"]
NIST_TIME = datetime(2020, 1, 1, tzinfo=UTC)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def nist(name: str) -> bytes:
    with cryptography_vectors.open_vector_file(f"x509/PKITS_data/certs/{name}.crt", "rb") as file:
        return file.read()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path['section']}-{path['end_entity']}")
def test_nist_path_gets_the_verdict_of_nist(path: dict[str, object]) -> None:
    name, answer = path["end_entity"], path["answer"]
    assert name.startswith("Valid") == (answer in ("ok", "chain.algorithm"))
    arguments = nist(name), [nist(issuer) for issuer in path["issuers"]], [nist("TrustAnchorRootCertificate")]
    if answer == "ok":
        found = verify_chain(*arguments, at=NIST_TIME)
        assert 2 <= len(found) <= len(path["issuers"]) + 2
        return
    with pytest.raises(Tampered) as caught:
        verify_chain(*arguments, at=NIST_TIME)
    assert caught.value.code == answer


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def certify(key, subject, issuer_key, issuer, *extensions, days=(-10, 10)):
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    hashed = hashes.SHA256() if isinstance(issuer_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
    return builder.sign(issuer_key, hashed).public_bytes(Encoding.DER)


def ca(path_length: int | None = None) -> tuple[x509.ExtensionType, bool]:
    return x509.BasicConstraints(ca=True, path_length=path_length), True


KEYS = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
}


class Hierarchy:
    """A root, an issuing CA and a leaf with an empty subject, of one kind of key."""

    def __init__(self, kind: str = "p256", *leaf_extensions: tuple[x509.ExtensionType, bool]) -> None:
        self.root_key, self.ca_key, self.leaf_key = KEYS[kind](), KEYS[kind](), KEYS["p256"]()
        self.root = certify(self.root_key, "root", self.root_key, "root", ca())
        self.ca = certify(self.ca_key, "ca", self.root_key, "root", ca(0))
        self.leaf = certify(self.leaf_key, "", self.ca_key, "ca", *leaf_extensions)

    def code(self, **changes: object) -> str:
        given = {"leaf": self.leaf, "ca": self.ca, "root": self.root, "at": NOW, "purpose": "any"} | changes
        try:
            verify_chain(given["leaf"], [given["ca"]], [given["root"]], at=given["at"], purpose=given["purpose"])
        except Tampered as error:
            return error.code
        return "ok"


@pytest.mark.parametrize("kind", KEYS)
def test_every_key_kind_and_a_leaf_without_san_are_accepted(kind: str) -> None:
    assert Hierarchy(kind).code() == "ok"


def test_path_is_returned_from_leaf_to_root() -> None:
    h = Hierarchy()
    found = verify_chain(h.leaf, [h.ca], [h.root], at=NOW)
    assert [cert.public_bytes(Encoding.DER) for cert in found] == [h.leaf, h.ca, h.root]


def test_root_alone_is_a_path_only_if_it_is_trusted_and_signs_itself() -> None:
    h, other = Hierarchy(), Hierarchy()
    assert [cert.public_bytes(Encoding.DER) for cert in verify_chain(h.root, [], [h.root], at=NOW)] == [h.root]
    assert h.code(leaf=h.root, ca=h.ca, root=other.root) == "chain.signature"
    forged = certify(h.root_key, "root", other.root_key, "root", ca())
    assert h.code(leaf=forged, root=forged) == "chain.signature"
    with pytest.raises(Tampered, match="was valid until"):
        verify_chain(h.root, [], [h.root], at=NOW + timedelta(days=11))


def test_intermediate_is_never_a_trust_anchor() -> None:
    h, other = Hierarchy(), Hierarchy()
    assert h.code(root=other.root) == "chain.signature"
    assert h.code(root=h.leaf) == "chain.no_issuer"


def test_same_names_other_key_is_a_signature_failure() -> None:
    assert Hierarchy().code(ca=Hierarchy().ca) == "chain.signature"


def test_one_flipped_bit_anywhere_is_noticed() -> None:
    h = Hierarchy()
    for place in range(0, len(h.leaf), 7):
        changed = bytearray(h.leaf)
        changed[place] ^= 1
        assert h.code(leaf=bytes(changed)) != "ok"


@pytest.mark.parametrize(("days", "code"), [(-11, "chain.not_yet_valid"), (11, "chain.expired")])
def test_clock_outside_of_validity(days: int, code: str) -> None:
    assert Hierarchy().code(at=NOW + timedelta(days=days)) == code


def test_naive_time_is_misuse() -> None:
    h = Hierarchy()
    with pytest.raises(ValueError, match="aware"):
        verify_chain(h.leaf, [h.ca], [h.root], at=datetime(2030, 1, 1))  # noqa: DTZ001


def test_device_key_cannot_issue_for_another_device() -> None:
    h = Hierarchy()
    leaf = certify(h.leaf_key, "sub", h.ca_key, "ca")
    fake = certify(KEYS["p256"](), "clone", h.leaf_key, "sub")
    with pytest.raises(Tampered) as caught:
        verify_chain(fake, [leaf, h.ca], [h.root], at=NOW)
    assert caught.value.code == "chain.not_a_ca"


def test_third_ca_below_path_length_zero_is_refused() -> None:
    h = Hierarchy()
    sub_key = KEYS["p256"]()
    sub = certify(sub_key, "sub", h.ca_key, "ca", ca())
    fake = certify(KEYS["p256"](), "x", sub_key, "sub")
    with pytest.raises(Tampered) as caught:
        verify_chain(fake, [sub, h.ca], [h.root], at=NOW)
    assert caught.value.code == "chain.path_length"


def test_loop_of_cross_certificates_ends() -> None:
    a, b = KEYS["p256"](), KEYS["p256"]()
    loop = [certify(a, "a", b, "b", ca()), certify(b, "b", a, "a", ca())]
    with pytest.raises(Tampered) as caught:
        verify_chain(certify(KEYS["p256"](), "x", a, "a"), loop, [Hierarchy().root], at=NOW)
    assert caught.value.code == "chain.no_issuer"


def test_many_cas_of_one_name_cannot_cost_for_ever() -> None:
    h, key = Hierarchy(), KEYS["p256"]()
    crowd = [certify(key, "ca", key, "ca", ca()) for _ in range(70)]
    with pytest.raises(Tampered) as caught:
        verify_chain(h.leaf, crowd, [h.root], at=NOW)
    assert caught.value.code == "chain.budget"


def test_client_purpose_wants_client_auth_and_digital_signature() -> None:
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False
    assert Hierarchy("p256", server).code() == "ok"
    assert Hierarchy("p256", server).code(purpose="client") == "chain.purpose"
    assert Hierarchy("p256", client).code(purpose="client") == "ok"
    agreement = x509.KeyUsage(False, False, False, False, True, False, False, False, False), True
    assert Hierarchy("p256", agreement).code(purpose="client") == "chain.purpose"


def test_md2_signature_is_not_an_algorithm() -> None:
    with cryptography_vectors.open_vector_file("x509/verisign_md2_root.pem", "rb") as file:
        old = base64.b64decode(b"".join(file.read().split(b"-----")[2].split()))
    assert Hierarchy().code(leaf=old) == "chain.algorithm"


@pytest.mark.parametrize("junk", [b"", b"0", b"\x30\x80\x00\x00", b"\x30\x03\x02\x01\x01", b"-----BEGIN"])
def test_junk_is_a_named_refusal(junk: bytes) -> None:
    assert Hierarchy().code(leaf=junk) == "chain.malformed"
    assert Hierarchy().code(ca=junk) == "chain.malformed"


def test_device_outside_the_names_of_its_site_is_refused() -> None:
    key, site_key = KEYS["p256"](), KEYS["p256"]()
    root = certify(key, "root", key, "root", ca())
    names = x509.NameConstraints([x509.DNSName("factory.example")], [x509.DirectoryName(name("bad"))])
    site = certify(site_key, "site", key, "root", ca(0), (names, True))
    for subject, host, code in [
        ("d1", "d1.factory.example", "ok"),
        ("d1", "d1.other.example", "chain.name_constraints"),
        ("BAD", "d1.factory.example", "chain.name_constraints"),
    ]:
        san = x509.SubjectAlternativeName([x509.DNSName(host)]), False
        leaf = certify(KEYS["p256"](), subject, site_key, "site", san)
        assert Hierarchy().code(leaf=leaf, ca=site, root=root) == code
