"""CA and device certificates: registering with proof of possession, with a CA, without one, from a request.

Sources: AWS IoT API reference and developer guide ("Manage your CA certificates", "Register a client certificate").
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from birthmark.testing.aws.authority import read_certificate
from birthmark.testing.aws.desk import Desk, Operation, page_of
from birthmark.testing.aws.refusal import Refusal, already_exists, invalid, not_found
from birthmark.testing.aws.registry import Authority, Certificate, Registry

__all__ = ["OPERATIONS", "add_certificate", "add_signed", "issuers_of"]

_SAME_SUBJECT = 10
_SETTABLE = ("ACTIVE", "INACTIVE", "REVOKED")


def _code(desk: Desk, _asked: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"registrationCode": desk.registry.code}


def _new_code(desk: Desk, _asked: Mapping[str, Any]) -> Mapping[str, Any]:
    desk.registry.code = os.urandom(32).hex()
    return {}


def _register_ca(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    registry, proof = desk.registry, asked.get("verificationCertificate")
    certificate, pem = read_certificate(asked["caCertificate"])
    if not _is_ca(certificate):
        raise Refusal("CertificateValidationException", "The certificate is not that of a CA.")
    mode = asked.get("certificateMode") or "DEFAULT"
    if (mode == "SNI_ONLY") == bool(proof):
        raise invalid("A verification certificate goes with certificateMode DEFAULT, and with no other.")
    if proof:
        _prove(read_certificate(proof)[0], certificate, registry.code)
    config = asked.get("registrationConfig") or {}
    check_config(registry, config)
    authority = Authority(
        pem,
        registry,
        active=asked.get("setAsActive") is True,
        auto=asked.get("allowAutoRegistration") is True,
        mode=mode,
        config=dict(config),
    )
    if authority.certificate_id in registry.ca_certificates:
        raise already_exists("The CA certificate is already registered.", authority.certificate_id, authority.arn)
    if sum(_x509(one).subject == certificate.subject for one in registry.ca_certificates.values()) >= _SAME_SUBJECT:
        raise Refusal("LimitExceededException", f"An account has {_SAME_SUBJECT} CA certificates of one subject.")
    registry.ca_certificates[authority.certificate_id] = authority
    return {"certificateArn": authority.arn, "certificateId": authority.certificate_id}


def check_config(registry: Registry, config: Mapping[str, Any]) -> None:
    """Refuse a registration configuration that names no role, two templates, or one that cannot be used."""
    body, name = config.get("templateBody"), config.get("templateName")
    if body and name:
        raise invalid("templateBody and templateName exclude one another.")
    if body and not config.get("roleArn"):
        raise invalid("A template needs the roleArn that it is run with.")
    if name and (name not in registry.templates or registry.templates[name].kind != "JITP"):
        raise not_found(f"A JITP template {name}")


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _prove(proof: x509.Certificate, authority: x509.Certificate, code: str) -> None:
    names = proof.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in names] != [code]:
        raise Refusal("RegistrationCodeValidationException", "The common name is not the registration code.")
    if not signed_by(proof, authority):
        raise Refusal("CertificateValidationException", "The verification certificate is not signed by the CA.")


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Say whether a certificate names that CA and carries its signature."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _x509(one: Any) -> x509.Certificate:
    found: x509.Certificate = one.x509
    return found


def issuers_of(registry: Registry, certificate: x509.Certificate) -> list[Authority]:
    """Return the registered CAs whose signature a certificate carries."""
    named = (one for one in registry.ca_certificates.values() if _x509(one).subject == certificate.issuer)
    return [one for one in named if isinstance(one, Authority) and signed_by(certificate, one.x509)]


def _describe_ca(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    authority = _authority(desk, asked)
    config = authority.registration_config or None
    return {"certificateDescription": authority.to_description_dict(), "registrationConfig": config}


def _authority(desk: Desk, asked: Mapping[str, Any]) -> Authority:
    found = desk.registry.ca_certificates.get(asked["certificateId"])
    if not isinstance(found, Authority):
        raise not_found(f"The CA certificate {asked['certificateId']}")
    return found


def _update_ca(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    authority = _authority(desk, asked)
    config = asked.get("registrationConfig")
    check_config(desk.registry, config or {})
    authority.status = asked.get("newStatus") or authority.status
    if asked.get("newAutoRegistrationStatus"):
        authority.auto = asked["newAutoRegistrationStatus"] == "ENABLE"
    if asked.get("removeAutoRegistration"):
        authority.auto, authority.registration_config = False, {}
    elif config:
        authority.registration_config = dict(config)
    return {}


def _list_cas(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = [
        {
            "certificateArn": one.arn,
            "certificateId": one.certificate_id,
            "status": one.status,
            "creationDate": one.creation_date,
        }
        for one in desk.registry.ca_certificates.values()
        if not asked.get("templateName") or (one.registration_config or {}).get("templateName") == asked["templateName"]
    ]
    page, after = page_of(rows, asked, most="pageSize", after="marker")
    return {"certificates": page, "nextMarker": after}


def _register(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    status = "ACTIVE" if asked.get("setAsActive") else asked.get("status") or "INACTIVE"
    return _added(add_signed(desk.registry, asked["certificatePem"], asked.get("caCertificatePem"), status))


def _register_alone(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    _, pem = read_certificate(asked["certificatePem"])
    return _added(add_certificate(desk.registry, pem, asked.get("status") or "INACTIVE", None, "SNI_ONLY"))


def add_signed(registry: Registry, text: str, ca_text: str | None, status: str) -> Certificate:
    """Register the certificate (PEM) of a registered CA; ``ca_text`` None: the one CA that has signed it."""
    certificate, pem = read_certificate(text)
    if ca_text:
        wanted, _ = read_certificate(ca_text)
        if not signed_by(certificate, wanted):
            raise Refusal("CertificateValidationException", "The CA certificate has not signed this certificate.")
        known = registry.ca_certificates.get(wanted.fingerprint(SHA256()).hex())
        found = [known] if isinstance(known, Authority) else []
    else:
        found = issuers_of(registry, certificate)
    if not found:
        raise Refusal("CertificateValidationException", "The CA that has signed the certificate is not registered.")
    if len(found) > 1:
        raise Refusal("CertificateConflictException", "More than one registered CA may have signed it: name one.")
    if found[0].status != "ACTIVE":
        raise Refusal("CertificateStateException", "The CA certificate is not active.")
    return add_certificate(registry, pem, status, found[0].certificate_id, found[0].mode)


def add_certificate(registry: Registry, pem: str, status: str, ca_id: str | None, mode: str) -> Certificate:
    """Add a certificate that was judged; one that is there already is ``ResourceAlreadyExistsException``."""
    if status not in (*_SETTABLE, "PENDING_ACTIVATION"):
        raise invalid(f"A certificate is not registered as {status}.")
    made = Certificate(pem, status, registry, ca_id, mode)
    if made.certificate_id in registry.certificates:
        raise already_exists("The certificate is already provisioned or registered.", made.certificate_id, made.arn)
    registry.certificates[made.certificate_id] = made
    return made


def _added(made: Certificate) -> Mapping[str, Any]:
    return {"certificateArn": made.arn, "certificateId": made.certificate_id}


def _from_csr(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    pem = desk.registry.amazon.sign(asked["certificateSigningRequest"])
    status = "ACTIVE" if asked.get("setAsActive") else "INACTIVE"
    return {**_added(add_certificate(desk.registry, pem, status, None, "DEFAULT")), "certificatePem": pem}


def _keys(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    key = rsa.generate_private_key(65537, 2048)
    pem = desk.registry.amazon.issue(key.public_key())
    status = "ACTIVE" if asked.get("setAsActive") else "INACTIVE"
    return {
        **_added(add_certificate(desk.registry, pem, status, None, "DEFAULT")),
        "certificatePem": pem,
        "keyPair": key_pair(key),
    }


def key_pair(key: rsa.RSAPrivateKey) -> dict[str, str]:
    """Return ``KeyPair`` of the API."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return {"PublicKey": public.decode(), "PrivateKey": private.decode()}


def _update(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    found = desk.registry.describe_certificate(asked["certificateId"])
    if asked["newStatus"] not in _SETTABLE:
        raise invalid(f"A certificate cannot be made {asked['newStatus']}.")
    found.status = asked["newStatus"]
    return {}


def _list(desk: Desk, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = list(desk.registry.certificates.values())
    if asked.get("caCertificateId"):
        rows = [one for one in rows if one.ca_certificate_id == asked["caCertificateId"]]
    if not asked.get("ascendingOrder"):
        rows.reverse()
    page, after = page_of(rows, asked, most="pageSize", after="marker")
    return {"certificates": [one.to_dict() for one in page], "nextMarker": after}


OPERATIONS: Mapping[str, Operation] = {
    "GetRegistrationCode": _code,
    "DeleteRegistrationCode": _new_code,
    "RegisterCACertificate": _register_ca,
    "DescribeCACertificate": _describe_ca,
    "UpdateCACertificate": _update_ca,
    "ListCACertificates": _list_cas,
    "RegisterCertificate": _register,
    "RegisterCertificateWithoutCA": _register_alone,
    "CreateCertificateFromCsr": _from_csr,
    "CreateKeysAndCertificate": _keys,
    "UpdateCertificate": _update,
    "ListCertificates": _list,
    "ListCertificatesByCA": _list,
}
