"""The other protocols a service is asked by: CMP against OpenSSL's server, AWS Private CA against moto's."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from moto.server import ThreadedMotoServer

from birthmark.adapters.issuers.aws_pca import AwsPcaService
from birthmark.adapters.issuers.cmp import CmpService
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered
from birthmark.model.secret import Secret
from birthmark.pki.answer import AnswerRule
from birthmark.pki.csr import parse_csr
from birthmark.pki.profile import Profile, load_preset, parse_profile
from birthmark.pki.request import DeviceRequests
from birthmark.ports import SigningRequest
from birthmark.workflow.orders.procure import idempotency_key
from support.seller import Seller, pem

SECRET = "canary-cmp-5150"
VALUES = {"pen": "32473"}
SERIAL = "SN-0001"


def wanted(profile: Profile, key: Any = None) -> SigningRequest:
    csr = DeviceRequests(profile, VALUES).make(SERIAL, key or ec.generate_private_key(ec.SECP256R1()))
    return SigningRequest(idempotency_key(csr), csr, SERIAL, datetime.now(UTC) + timedelta(days=365))


def answer_secret(reference: str) -> Secret:
    assert reference == "env:CMP"
    return Secret(SECRET.encode())


@pytest.fixture(scope="module")
def seller() -> Seller:
    return Seller()


@contextmanager
def openssl_cmp(directory: Path, certificate: x509.Certificate, *options: str, secret: str = SECRET) -> Iterator[str]:
    """Run OpenSSL's own CMP server, which gives everybody ``certificate``; yield its address."""
    (directory / "answer.pem").write_bytes(pem(certificate))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        "openssl", "cmp", "-port", str(port), "-srv_ref", "line", "-srv_secret", "env:CMP_SECRET", "-rsp_cert",
        str(directory / "answer.pem"), "-verbosity", "8", *options,
    ]  # fmt: skip
    environment = {**os.environ, "CMP_SECRET": secret}
    with (directory / "cmp.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}/pkix/"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    listening = re.compile(rf"^\s*\d+: \S+:{port:04X} \S+ 0A ", re.MULTILINE)
    while process.poll() is None:
        if any(listening.search(Path(f"/proc/net/{table}").read_text()) for table in ("tcp", "tcp6")):
            return
    raise AssertionError("the CMP server ended")


@contextmanager
def cmp_service(address: str, reference: str = "line") -> Iterator[CmpService]:
    service = CmpService(
        f"cmp:{address}?reference={reference}&shared-secret=env:CMP", secrets=answer_secret, base=Path()
    )
    try:
        yield service
    finally:
        service.close()


class TestCmp:
    """OpenSSL's server verifies our MAC and our request, and we verify its answers."""

    def test_openssl_gives_a_certificate(self, seller: Seller, tmp_path: Path):
        asked = wanted(load_preset("tls-client"))
        certificate = seller.issuing.sign_csr(x509.load_der_x509_csr(asked.csr))
        with openssl_cmp(tmp_path, certificate) as address, cmp_service(address) as service:
            der = service.sign(asked)
            assert SECRET not in repr(service) + service.name
        assert der == certificate.public_bytes(Encoding.DER)
        said = (tmp_path / "cmp.log").read_text()
        assert "received P10CR" in said, said
        assert "received CERTCONF" in said, said
        assert "sending PKICONF" in said, said

    def test_a_certificate_for_another_key_is_not_confirmed(self, seller: Seller, tmp_path: Path):
        other = seller.issuing.sign_csr(x509.load_der_x509_csr(wanted(load_preset("tls-client")).csr))
        with (
            openssl_cmp(tmp_path, other) as address,
            cmp_service(address) as service,
            pytest.raises(Tampered) as raised,
        ):
            service.sign(wanted(load_preset("tls-client")))
        assert raised.value.code == "issuer.answer.key"
        assert "CERTCONF" not in (tmp_path / "cmp.log").read_text()

    def test_a_ca_that_does_not_know_our_secret(self, seller: Seller, tmp_path: Path):
        asked = wanted(load_preset("tls-client"))
        certificate = seller.issuing.sign_csr(x509.load_der_x509_csr(asked.csr))
        with (
            openssl_cmp(tmp_path, certificate, secret="another") as address,
            cmp_service(address) as service,
            pytest.raises(BirthmarkError) as raised,
        ):
            service.sign(asked)
        assert raised.value.code == "cmp.protection"
        assert SECRET not in str(raised.value)

    @pytest.mark.parametrize("options", [("-send_error",), ("-pkistatus", "2", "-statusstring", "no more devices")])
    def test_a_ca_that_rejects(self, seller: Seller, tmp_path: Path, options: tuple[str, ...]):
        asked = wanted(load_preset("tls-client"))
        certificate = seller.issuing.sign_csr(x509.load_der_x509_csr(asked.csr))
        with (
            openssl_cmp(tmp_path, certificate, *options) as address,
            cmp_service(address) as service,
            pytest.raises(Refused) as raised,
        ):
            service.sign(asked)
        assert raised.value.code == "cmp.rejected"
        assert ("no more devices" in raised.value.message) == (len(options) == 4)

    def test_half_a_uri(self):
        for uri in ("cmp:https://localhost/x?reference=line", "cmp:ftp://x/?reference=line&shared-secret=env:CMP"):
            with pytest.raises(Misconfigured) as raised:
                CmpService(uri, secrets=answer_secret, base=Path())
            assert raised.value.code == "issuer.uri"


MOTO_PROFILE = b"""
name = "cloud-client"
kind = "end-entity"
key_algorithms = ["rsa2048"]
ski = true
aki = true
[validity]
days = 365
backdate_minutes = 60
[[subject]]
type = "CN"
value = "{device_serial}"
[subject_alternative_name]
names = [{ type = "uri", value = "urn:dev:os:{pen}-{device_serial}" }]
[basic_constraints]
ca = false
[key_usage]
bits = ["digitalSignature", "keyEncipherment"]
[extended_key_usage]
purposes = ["serverAuth", "clientAuth"]
[device_serial]
pattern = "[A-Z0-9-]+"
example = "SN-0000"
[[exceptions]]
code = "pkix.invalid_uri_syntax"
reason = "a URN has no host"
[[exceptions]]
code = "cert.validity.nesting"
reason = "the emulator gives root and devices the same 365 days, the devices a second later"
"""


class Cloud:
    """A private CA at moto's server."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        self.client = boto3.client("acm-pca", region_name="eu-west-1")
        configuration = {
            "KeyAlgorithm": "RSA_2048", "SigningAlgorithm": "SHA512WITHRSA", "Subject": {"CommonName": "Cloud Root"}
        }  # fmt: skip
        self.arn = self.client.create_certificate_authority(
            CertificateAuthorityConfiguration=configuration, CertificateAuthorityType="ROOT"
        )["CertificateAuthorityArn"]
        csr = self.client.get_certificate_authority_csr(CertificateAuthorityArn=self.arn)["Csr"]
        made = self.client.issue_certificate(
            CertificateAuthorityArn=self.arn, Csr=csr.encode(), SigningAlgorithm="SHA512WITHRSA",
            TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity={"Type": "YEARS", "Value": 10},
        )  # fmt: skip
        found = self.client.get_certificate(CertificateAuthorityArn=self.arn, CertificateArn=made["CertificateArn"])
        self.root = x509.load_pem_x509_certificate(found["Certificate"].encode())
        self.client.import_certificate_authority_certificate(
            CertificateAuthorityArn=self.arn, Certificate=found["Certificate"].encode()
        )

    def service(self, arn: str | None = None) -> AwsPcaService:
        template = "arn:aws:acm-pca:::template/EndEntityCertificate/V1"
        return AwsPcaService(f"aws-pca:{arn or self.arn}?template={template}", secrets=answer_secret, base=Path())


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def cloud(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    made = Cloud(moto_url, monkeypatch)
    yield made
    made.client.close()


class TestAwsPrivateCa:
    def test_a_certificate_comes_and_is_what_was_asked_for(self, cloud: Cloud):
        profile = parse_profile(MOTO_PROFILE)
        asked = wanted(profile, rsa.generate_private_key(public_exponent=65537, key_size=2048))
        service = cloud.service()
        der = service.sign(asked)
        service.close()
        rule = AnswerRule(profile, VALUES, (cloud.root.public_bytes(Encoding.DER),))
        rule.check(
            der, spki=parse_csr(asked.csr).spki, device_serial=SERIAL, wanted=asked.not_after - timedelta(hours=1),
            now=datetime.now(UTC),
        )  # fmt: skip
        assert service.name == f"aws-pca:{cloud.arn}"

    def test_a_ca_that_is_not_there(self, cloud: Cloud):
        service = cloud.service(cloud.arn[:-1] + ("0" if cloud.arn[-1] != "0" else "1"))
        with pytest.raises(Misconfigured) as raised:
            service.sign(wanted(parse_profile(MOTO_PROFILE)))
        service.close()
        assert raised.value.code == "aws.unknown"
