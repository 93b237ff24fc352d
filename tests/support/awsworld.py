"""Certificates of a test factory for tests against the emulated AWS IoT, and clients of it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.testing.aws import EmulatedAws
from support.stationworld import Factory

__all__ = ["JITP_TEMPLATE", "ROLE", "authority", "certificate", "client", "device_files", "pem", "proof", "request"]

ROLE = "arn:aws:iam::123456789012:role/provisioning"
JITP_TEMPLATE = json.dumps(
    {
        "Parameters": {
            "AWS::IoT::Certificate::CommonName": {"Type": "String"},
            "AWS::IoT::Certificate::Id": {"Type": "String"},
        },
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}},
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "devices"}},
        },
    }
)
"""Makes the thing, the certificate and the policy of a device at its first visit, from its subject alone."""


def client(aws: EmulatedAws, service: str = "iot") -> Any:
    """boto3, as anybody would make it; it repeats nothing.

    botocore passes over what its model does not know, so each answer of AWS IoT is held to the model here.
    """
    made = boto3.client(
        service,
        endpoint_url=aws.url,
        region_name=aws.region,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="example",
        config=Config(retries={"total_max_attempts": 1}),
    )
    made.meta.events.register("before-parse.iot.*", _in_the_model)
    return made


def _in_the_model(operation_model: Any, response_dict: Any, **_: Any) -> None:
    document = json.loads(response_dict["body"] or b"{}")
    if response_dict["status_code"] < 300:
        _held(operation_model.output_shape, document)
        return
    name = response_dict["headers"]["x-amzn-errortype"]
    known = {one.name: one for one in operation_model.error_shapes}
    assert name in known, f"{operation_model.name} never refuses with {name}: {document}"
    assert response_dict["status_code"] == known[name].metadata["error"]["httpStatusCode"]
    _held(known[name], document)


def _held(shape: Any, value: Any) -> None:
    if shape is None:
        assert value == {}
    elif shape.type_name == "structure":
        names = {kind.serialization.get("name", member): kind for member, kind in shape.members.items()}
        assert set(value) <= set(names), f"{shape.name} has no {set(value) - set(names)}"
        for name, one in value.items():
            _held(names[name], one)
    elif shape.type_name in ("list", "map"):
        for one in value if shape.type_name == "list" else value.values():
            _held(shape.member if shape.type_name == "list" else shape.value, one)
    else:
        kinds = {"string": str, "boolean": bool, "integer": int, "long": int, "timestamp": (int, float)}
        assert isinstance(value, kinds[shape.type_name]), f"{shape.name} is not {value!r}"


def authority(factory: Factory, name: str = "issuing") -> tuple[x509.Certificate, Any]:
    with factory.line() as line:
        return x509.load_der_x509_certificate(line.chain_of(name)[0]), factory.read_key(name)


def certificate(
    cn: str, issuer: x509.Certificate, issuer_key: Any, *, ended: bool = False, ca: bool = False, **more: str
) -> tuple[x509.Certificate, Any]:
    """A certificate with this common name; ``more``: further attributes of the subject."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    end = now - timedelta(hours=1) if ended else now + timedelta(days=1)
    named = [x509.NameAttribute(getattr(NameOID, one), text) for one, text in more.items()]
    name = x509.Name([*named, x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    builder = x509.CertificateBuilder(issuer.subject, name, key.public_key(), x509.random_serial_number())
    built = builder.not_valid_before(now - timedelta(hours=2)).not_valid_after(end)
    built = built.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    return built.sign(issuer_key, hashes.SHA256()), key


def proof(code: str, issuer: x509.Certificate, issuer_key: Any) -> str:
    return pem(certificate(code, issuer, issuer_key)[0])


def request(cn: str) -> tuple[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
    csr = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    return csr.public_bytes(Encoding.PEM).decode(), key


def pem(*some: x509.Certificate) -> str:
    return b"".join(one.public_bytes(Encoding.PEM) for one in some).decode()


def device_files(directory: Path, leaf: x509.Certificate | str, key: Any, *others: x509.Certificate) -> Path:
    directory.mkdir()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(directory / "device.key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
    first = leaf if isinstance(leaf, str) else pem(leaf)
    (directory / "device.crt").write_text(first + pem(*others))
    return directory
