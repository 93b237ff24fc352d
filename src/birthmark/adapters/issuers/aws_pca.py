"""``aws-pca:CA-ARN?template=…``: AWS Private Certificate Authority, by ``boto3``.

Credentials come from the default chain of the SDK and never stand in a URI. The region is the one in the ARN.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.awserrors import aws_failure
from birthmark.adapters.extras import require_extra
from birthmark.adapters.issuers.uri import parse_issuer_uri
from birthmark.errors import Misconfigured, Tampered, Unavailable
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import SecretsHandler, SigningRequest

__all__ = ["AwsPcaService"]

_TEMPLATE = "arn:aws:acm-pca:::template/EndEntityClientAuthCertificate/V1"
_POLLS, _POLL_S = 20, 0.25


class AwsPcaService:
    """Implements ``ports.SigningService``. AWS remembers an idempotency token for five minutes."""

    def __init__(
        self, uri: str, *, secrets: SecretsHandler, base: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        parsed = parse_issuer_uri(uri, scheme="aws-pca", options=("template",))
        parts = parsed.address.split(":")
        if len(parts) != 6 or parts[2] != "acm-pca" or not parts[3]:
            raise Misconfigured(
                "issuer.uri",
                "this is not the ARN of a private CA",
                hint="Write aws-pca:arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID.",
                unknown=[],
                missing=[],
            )
        require_extra("aws", "boto3")
        self._name = parsed.name
        self._arn, self._region = parsed.address, parts[3]
        self._template = parsed.options.get("template", _TEMPLATE)
        self._sleep = sleep

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def _client(self) -> Any:
        import boto3

        return boto3.Session().client("acm-pca", region_name=self._region)

    @cached_property
    def _algorithm(self) -> str:
        """How the CA signs: a request must say it, and it must be the family of the CA's key."""
        with aws_failure(self._name):
            found = self._client.describe_certificate_authority(CertificateAuthorityArn=self._arn)
        return str(found["CertificateAuthority"]["CertificateAuthorityConfiguration"]["SigningAlgorithm"])

    def sign(self, request: SigningRequest) -> bytes:
        """Ask for the certificate and wait until it is there."""
        csr = x509.load_der_x509_csr(request.csr).public_bytes(Encoding.PEM)
        algorithm = self._algorithm
        with aws_failure(self._name):
            asked = self._client.issue_certificate(
                CertificateAuthorityArn=self._arn,
                Csr=csr,
                SigningAlgorithm=algorithm,
                TemplateArn=self._template,
                Validity={"Type": "ABSOLUTE", "Value": int(request.not_after.timestamp())},
                IdempotencyToken=request.idempotency_key,
            )
        return self._fetch(asked["CertificateArn"])

    def _fetch(self, arn: str) -> bytes:
        for attempt in range(_POLLS):
            if attempt:
                self._sleep(_POLL_S)
            try:
                with aws_failure(self._name):
                    found = self._client.get_certificate(CertificateAuthorityArn=self._arn, CertificateArn=arn)
            except Unavailable as problem:
                if problem.facts.get("reason") != "RequestInProgressException":
                    raise
                continue
            return self._certificate(found["Certificate"])
        raise Unavailable(
            "issuer.pending",
            "the service took the request and has not signed it yet",
            hint="Run the same command again within five minutes: AWS then knows the request again.",
            service=self._name,
        )

    def _certificate(self, pem: str) -> bytes:
        try:
            return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
        except UNREADABLE as problem:
            raise Tampered(
                "issuer.answer.form",
                "the service answered something else than one certificate: it is no PEM",
                hint="Check the address of the service; nothing of the answer was kept.",
                service=self._name,
            ) from problem

    def close(self) -> None:
        """Close the connections; closing twice is safe."""
        if "_client" in self.__dict__:
            self._client.close()
