"""Every preset, every algorithm, judged by OpenSSL, GnuTLS, ``cryptography`` and pkilint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from pki_makers import NOW, SERIAL, VALUES, hierarchy, key, real_lint, run, template, write_pem

from birthmark.pki.algorithms import ALGORITHMS, spki_of
from birthmark.pki.profile import load_preset, preset_names

LEAVES = [name for name in preset_names() if load_preset(name).kind == "end-entity"]
CHAINS = [
    (leaf, algorithm, issuer)
    for leaf in LEAVES
    for algorithm in load_preset(leaf).key_algorithms
    for issuer in load_preset(leaf).issuer_key_algorithms or ALGORITHMS
]
POST_QUANTUM = {"mldsa44", "mldsa65"}
"""OpenSSL 3.0 and GnuTLS 3.7 of Debian 12 do not know ML-DSA (RFC 9881 is younger): they cannot judge it."""
CLASSIC = [chain for chain in CHAINS if not {*chain[1:]} & POST_QUANTUM]
NO_EDDSA = [chain for chain in CHAINS if "ed25519" not in chain[1:]]
"""The verifier of ``cryptography`` follows the Web PKI, which has no Ed25519."""


def issue(leaf: str, algorithm: str, issuer_algorithm: str) -> list[x509.Certificate]:
    """Return leaf, issuing CA, root: through prepare with the real linter."""
    profile, issuer = load_preset(leaf), hierarchy(leaf, issuer_algorithm)
    permit = issuer.prepare(template(leaf, algorithm, issuer_algorithm), now=NOW, lint=real_lint(profile, VALUES))
    device_serial = profile.device_serial.example.encode() if profile.device_serial else b""
    spki = spki_of(key(algorithm).public_key())
    der = issuer.issue(permit, cert_serial=SERIAL, device_serial=device_serial, spki=spki)
    return [x509.load_der_x509_certificate(each) for each in (der, *issuer.chain_der)]


@pytest.mark.parametrize(("leaf", "algorithm", "issuer_algorithm"), CLASSIC)
def test_openssl_accepts_the_chain(leaf: str, algorithm: str, issuer_algorithm: str, tmp_path: Path) -> None:
    device, issuing, root = issue(leaf, algorithm, issuer_algorithm)
    run(
        "openssl", "verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslclient",
        "-attime", str(int(NOW.timestamp()) + 60), "-CAfile", write_pem(tmp_path / "root.pem", root),
        "-untrusted", write_pem(tmp_path / "ca.pem", issuing), write_pem(tmp_path / "leaf.pem", device),
    )  # fmt: skip


@pytest.mark.parametrize(("leaf", "algorithm", "issuer_algorithm"), CLASSIC)
def test_gnutls_accepts_the_chain(leaf: str, algorithm: str, issuer_algorithm: str, tmp_path: Path) -> None:
    device, issuing, root = issue(leaf, algorithm, issuer_algorithm)
    printed = run(
        "certtool", "--verify",
        "--load-ca-certificate", write_pem(tmp_path / "root.pem", root),
        "--infile", write_pem(tmp_path / "chain.pem", device, issuing),
    )  # fmt: skip
    assert "Verified. The certificate is trusted." in printed


@pytest.mark.parametrize(("leaf", "algorithm", "issuer_algorithm"), NO_EDDSA)
def test_cryptography_accepts_the_chain(leaf: str, algorithm: str, issuer_algorithm: str) -> None:
    device, issuing, root = issue(leaf, algorithm, issuer_algorithm)
    builder = verification.PolicyBuilder().store(verification.Store([root])).time(NOW)
    if leaf != "tls-client":
        # The default wants a subject alternative name, which Azure, AWS and Matter do not have, and an extended key
        # usage, which 802.1AR and Matter do not have.
        builder = builder.extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(),
            ee_policy=verification.ExtensionPolicy.permit_all(),
        )
    chain = builder.build_client_verifier().verify(device, [issuing]).chain
    assert chain == [device, issuing, root]


@pytest.mark.parametrize(("leaf", "algorithm", "issuer_algorithm"), CHAINS)
def test_every_signature_of_the_chain_is_good(leaf: str, algorithm: str, issuer_algorithm: str) -> None:
    device, issuing, root = issue(leaf, algorithm, issuer_algorithm)
    device.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    identifiers = x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier
    below = device.extensions.get_extension_for_class(identifiers[1]).value.key_identifier
    assert below == issuing.extensions.get_extension_for_class(identifiers[0]).value.digest


def extension(certificate: x509.Certificate, kind: Any) -> tuple[Any, bool]:
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


def kinds(certificate: x509.Certificate) -> set[str]:
    return {each.oid._name for each in certificate.extensions}


def test_idevid_field_by_field() -> None:
    device = issue("idevid", "p256", "p256")[0]
    assert kinds(device) == {"keyUsage", "authorityKeyIdentifier", "subjectAltName"}
    assert [(each.oid._name, each.value) for each in device.subject] == [
        ("organizationName", VALUES["maker"]), ("serialNumber", "SN0000000000"),
    ]  # fmt: skip
    assert device.not_valid_after_utc.year == 9999
    usage, critical = extension(device, x509.KeyUsage)
    assert critical
    assert usage.digital_signature
    assert not usage.key_cert_sign
    san, critical = extension(device, x509.SubjectAlternativeName)
    assert not critical
    assert [each.type_id.dotted_string for each in san] == ["1.3.6.1.5.5.7.8.4"]
    assert b"SN0000000000" in san[0].value


def test_matter_chain_field_by_field(tmp_path: Path) -> None:
    dac, pai, paa = issue("matter-dac", "p256", "p256")
    vid, pid = x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.1"), x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.2")
    for certificate, constraints in ((dac, (False, None)), (pai, (True, 0)), (paa, (True, 1))):
        value, critical = extension(certificate, x509.BasicConstraints)
        assert critical
        assert (value.ca, value.path_length) == constraints
        assert extension(certificate, x509.KeyUsage)[1]
        assert len(extension(certificate, x509.SubjectKeyIdentifier)[0].digest) == 20
        assert len(extension(certificate, x509.AuthorityKeyIdentifier)[0].key_identifier) == 20
        assert [each.value for each in certificate.subject.get_attributes_for_oid(vid)] == ["FFF1"]
        assert certificate.not_valid_after_utc.year == 9999
        assert certificate.version is x509.Version.v3
        assert certificate.signature_hash_algorithm is not None
        assert certificate.signature_hash_algorithm.name == "sha256"
        assert len(certificate.public_bytes(Encoding.DER)) <= 600
    assert [each.value for each in dac.subject.get_attributes_for_oid(pid)] == ["8000"]
    # Matter verifies at the DAC's own notBefore.
    run(
        "openssl", "verify", "-x509_strict", "-attime", str(int(dac.not_valid_before_utc.timestamp())),
        "-CAfile", write_pem(tmp_path / "paa.pem", paa), "-untrusted", write_pem(tmp_path / "pai.pem", pai),
        write_pem(tmp_path / "dac.pem", dac),
    )  # fmt: skip


@pytest.mark.parametrize("leaf", ["azure-dps", "aws-iot"])
def test_cloud_leaf_field_by_field(leaf: str) -> None:
    device = issue(leaf, "p256", "p384")[0]
    example = load_preset(leaf).device_serial
    assert example is not None
    assert [(each.oid._name, each.value) for each in device.subject] == [("commonName", example.example)]
    assert extension(device, x509.BasicConstraints) == (x509.BasicConstraints(False, None), True)
    assert [each._name for each in extension(device, x509.ExtendedKeyUsage)[0]] == ["clientAuth"]
    assert "subjectKeyIdentifier" in kinds(device)
    assert device.not_valid_before_utc == NOW, "a CA that is made in this minute cannot be undercut"


@pytest.mark.parametrize("name", preset_names())
def test_every_exception_has_a_reason_and_is_needed(name: str) -> None:
    profile = load_preset(name)
    if not profile.exceptions:
        return
    issuer = hierarchy(name, "p256")
    permit = issuer.prepare(template(name), now=NOW, lint=real_lint(profile, VALUES))
    assert set(permit.findings_allowed) == profile.allowed_findings
