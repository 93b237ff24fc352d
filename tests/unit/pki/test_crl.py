"""Revocation lists: pkilint and OpenSSL read what we write; what a CA may not say it does not."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from pki_makers import NOW, hierarchy, key

from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.pki.crl import REASONS, RevokedCertificate, build_crl, read_crl

LATER = NOW + timedelta(days=7)


def crl_of(algorithm: str, revoked: list[RevokedCertificate], *, number: int = 7) -> bytes:
    issuer = hierarchy("tls-client", algorithm)
    return build_crl(issuer.certificate, key(algorithm, 2), revoked, number=number, this_update=NOW, next_update=LATER)


def entries(count: int) -> list[RevokedCertificate]:
    names = list(REASONS)
    return [RevokedCertificate(b"\x01" + n.to_bytes(15, "big"), NOW, names[n % len(names)]) for n in range(count)]


def pkilint_says(crl: bytes, directory: Path) -> str:
    (directory / "list.pem").write_bytes(x509.load_der_x509_crl(crl).public_bytes(Encoding.PEM))
    command = ["lint_crl", "lint", "-t", "CRL", "-p", "PKIX", "-s", "NOTICE", str(directory / "list.pem")]
    command[0] = str(Path(sys.executable).with_name("lint_crl"))
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("algorithm", ["p256", "p384", "ed25519", "rsa2048", "mldsa65"])
def test_a_list_is_read_by_another_library(algorithm: str):
    revoked = entries(20)
    crl = x509.load_der_x509_crl(crl_of(algorithm, revoked))
    issuer = hierarchy("tls-client", algorithm).certificate
    assert crl.is_signature_valid(issuer.public_key())
    assert crl.last_update_utc == NOW
    assert crl.next_update_utc == LATER
    for item in revoked:
        found = crl.get_revoked_certificate_by_serial_number(int.from_bytes(item.cert_serial, "big"))
        assert found is not None
        assert found.revocation_date_utc == item.at
        reasons = [extension.value.reason for extension in found.extensions]
        assert [x509.ReasonFlags(reason).name for reason in reasons] == [
            x509.ReasonFlags(item.reason).name for _ in reasons
        ]
        assert bool(reasons) == (item.reason != "unspecified")


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_pkilint_finds_nothing(count: int, tmp_path: Path):
    said = pkilint_says(crl_of("p256", entries(count)), tmp_path)
    assert not said.strip(), said


def test_what_is_written_is_read_back():
    summary = read_crl(crl_of("p256", entries(3), number=1 << 100), hierarchy("tls-client", "p256").certificate)
    assert (summary.number, summary.this_update, summary.next_update, summary.entries) == (1 << 100, NOW, LATER, 3)


def test_a_long_life_has_generalized_time():
    issuer = hierarchy("tls-client", "p256")
    late = datetime(2050, 1, 1, tzinfo=UTC)
    crl = build_crl(issuer.certificate, key("p256", 2), [], number=1, this_update=NOW, next_update=late)
    assert read_crl(crl, issuer.certificate).next_update == late


class TestRefusals:
    def refused(self, code: str, family: type[BirthmarkError] = Refused, **changed: object) -> None:
        issuer = hierarchy("tls-client", "p256").certificate
        given = {"issuer": issuer, "key": key("p256", 2), "revoked": [], "this_update": NOW, "next_update": LATER}
        given |= changed
        with pytest.raises(family) as raised:
            build_crl(
                given["issuer"], given["key"], given["revoked"], number=1,
                this_update=given["this_update"], next_update=given["next_update"],
            )  # fmt: skip
        assert raised.value.code == code

    def test_a_list_that_is_never_valid(self):
        self.refused("crl.window", next_update=NOW)

    def test_a_reason_nobody_knows(self):
        self.refused("crl.reason", revoked=[RevokedCertificate(b"\x01", NOW, "certificateHold")])

    def test_the_key_of_another_ca(self):
        self.refused("crl.key.mismatch", Misconfigured, key=key("p256", 1))

    def test_a_certificate_without_crl_sign(self):
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([]))
            .public_key(key("p256", 2).public_key())
            .serial_number(5)
            .not_valid_before(NOW)
            .not_valid_after(LATER)
            .sign(key("p256", 2), hashes.SHA256())
        )
        self.refused("crl.key_usage", issuer=leaf)

    def test_a_list_of_another_ca_and_a_changed_one(self):
        crl = crl_of("p256", entries(1))
        for other, wrong in (
            (hierarchy("tls-client", "p384").certificate, crl),
            (hierarchy("tls-client", "p256").certificate, crl[:-1] + bytes((crl[-1] ^ 1,))),
            (hierarchy("tls-client", "p256").certificate, b"\x30\x00"),
        ):
            with pytest.raises(Tampered):
                read_crl(wrong, other)
