"""Reading and writing the objects of a PKCS#11 session: keys, their attributes, certificates.

Errors of the binding pass through; who holds the session turns them into ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from birthmark.adapters.pkcs11_module import binding
from birthmark.errors import Misconfigured, Refused, StationFault
from birthmark.pki.certread import UNREADABLE

__all__ = [
    "KeyAttributes",
    "ObjectKind",
    "TokenObject",
    "certificate_template",
    "find_objects",
    "generate_pair",
    "key_attributes",
    "one_private_key",
    "public_key_beside",
    "token_object",
]

ObjectKind = Literal["private", "public", "certificate"]

_CLASSES: dict[ObjectKind, str] = {"private": "PRIVATE_KEY", "public": "PUBLIC_KEY", "certificate": "CERTIFICATE"}
_P256 = bytes.fromhex("06082a8648ce3d030107")
_P384 = bytes.fromhex("06052b81040022")
_ED25519 = bytes.fromhex("06032b6570")
_ED25519_NAME = b"\x13\x0cedwards25519"
_CURVES: dict[bytes, ec.EllipticCurve] = {_P256: ec.SECP256R1(), _P384: ec.SECP384R1()}
_CURVE_OF = {"p256": _P256, "p384": _P384, "ed25519": _ED25519}
_RSA_BITS = {"rsa2048": 2048, "rsa3072": 3072}


@dataclass(frozen=True, slots=True)
class TokenObject:
    """An object in a token as it is listed."""

    kind: ObjectKind
    label: str
    key_id: bytes


@dataclass(frozen=True, slots=True)
class KeyAttributes:
    """What the token says about a private key (PKCS#11, CKA_*). ``local``: it was born in this token."""

    private: bool
    sensitive: bool
    extractable: bool
    always_sensitive: bool
    never_extractable: bool
    local: bool

    @property
    def born_inside(self) -> bool:
        """Say whether this key was made in the token and can never have been outside."""
        return self.local and self.always_sensitive and self.never_extractable and not self.extractable


def find_objects(session: Any, kind: ObjectKind, label: str | None, key_id: bytes | None) -> list[Any]:
    """Return the objects of a kind that have this CKA_LABEL and CKA_ID; None stands for any."""
    pkcs11 = binding()
    wanted: dict[Any, Any] = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass[_CLASSES[kind]]}
    if label is not None:
        wanted[pkcs11.Attribute.LABEL] = label
    if key_id is not None:
        wanted[pkcs11.Attribute.ID] = key_id
    return list(session.get_objects(wanted))


def token_object(found: Any, kind: ObjectKind) -> TokenObject:
    """Return how an object is listed."""
    attribute = binding().Attribute
    try:
        label = str(found[attribute.LABEL])
    except UnicodeDecodeError:
        label = "\N{REPLACEMENT CHARACTER}"
    return TokenObject(kind, label, bytes(found[attribute.ID]))


def one_private_key(session: Any, label: str | None, key_id: bytes | None, token: str) -> Any:
    """Return the one private key; ``Misconfigured``: ``key.object.missing`` or ``key.object.ambiguous``."""
    found = find_objects(session, "private", label, key_id)
    if len(found) == 1:
        return found[0]
    name = _shown(label, key_id)
    if not found:
        raise Misconfigured(
            "key.object.missing",
            f"the token {token} holds no private key {name}",
            hint="Mend object= or id= in the URI, or make the key.",
            token=token,
            object=name,
        )
    raise Misconfigured(
        "key.object.ambiguous",
        f"the token {token} holds {len(found)} private keys {name}",
        hint="Name the one that is meant by id= in the URI.",
        token=token,
        object=name,
    )


def public_key_beside(session: Any, private: Any, token: str) -> Any:
    """Return the ``cryptography`` public key of a private key: from its public object or its certificate."""
    pkcs11 = binding()
    listed = token_object(private, "private")
    key_id = listed.key_id or None
    label = None if key_id else listed.label
    public = find_objects(session, "public", label, key_id)
    if len(public) > 1:
        public = [one for one in public if token_object(one, "public").label == listed.label]
    if len(public) == 1:
        return _public_key(public[0], token)
    for certificate in () if public else find_objects(session, "certificate", label, key_id):
        return x509.load_der_x509_certificate(certificate[pkcs11.Attribute.VALUE]).public_key()
    raise Misconfigured(
        "key.object.ambiguous" if public else "key.object.missing",
        f"the token {token} holds {len(public)} public keys beside the private key {listed.label!r}",
        hint="Store the public key or the certificate under the label and the id of its private key.",
        token=token,
        object=listed.label,
    )


def _public_key(found: Any, token: str) -> Any:
    pkcs11 = binding()
    attribute, kind = pkcs11.Attribute, found[pkcs11.Attribute.KEY_TYPE]
    try:
        if kind == pkcs11.KeyType.RSA:
            modulus, exponent = found[attribute.MODULUS], found[attribute.PUBLIC_EXPONENT]
            return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()
        parameters, point = found[attribute.EC_PARAMS], found[attribute.EC_POINT]
        if kind == pkcs11.KeyType.EC and parameters in _CURVES:
            curve = _CURVES[parameters]
            return ec.EllipticCurvePublicKey.from_encoded_point(
                curve, _point(point, 1 + 2 * ((curve.key_size + 7) // 8))
            )
        if kind == pkcs11.KeyType.EC_EDWARDS and parameters in (_ED25519, _ED25519_NAME):
            return ed25519.Ed25519PublicKey.from_public_bytes(_point(point, 32))
    except ValueError as problem:
        raise StationFault(
            "key.public.malformed",
            f"the token {token} shows a public key that is none",
            hint="Check the token; the key cannot be used.",
            token=token,
        ) from problem
    raise Refused(
        "key.algorithm.unsupported",
        f"the token {token} holds a key of a kind or curve that is not used",
        hint="Use P-256, P-384, Ed25519, RSA-2048 or RSA-3072.",
        token=token,
    )


def _point(value: bytes, size: int) -> bytes:
    """Return the point: CKA_EC_POINT is an OCTET STRING around it, in some tokens the bare octets."""
    return value[2:] if len(value) == size + 2 and value[:2] == bytes((4, size)) else value


def key_attributes(private: Any) -> KeyAttributes:
    """Return what the token says about a private key."""
    attribute = binding().Attribute
    return KeyAttributes(
        private=private[attribute.PRIVATE],
        sensitive=private[attribute.SENSITIVE],
        extractable=private[attribute.EXTRACTABLE],
        always_sensitive=private[attribute.ALWAYS_SENSITIVE],
        never_extractable=private[attribute.NEVER_EXTRACTABLE],
        local=private[attribute.LOCAL],
    )


def generate_pair(
    session: Any, label: str, key_id: bytes, algorithm: str, *, extractable: bool, says_usage: bool = True
) -> tuple[Any, Any]:
    """Make a key pair in the token and return its objects (public, private); the session must be read-write.

    ``says_usage``: say of the public key that it verifies and does not encrypt; else leave it to the token.
    ``Misconfigured("key.algorithm.token")`` for an algorithm that no token we know has (ML-DSA).
    """
    pkcs11 = binding()
    attribute, key_type = pkcs11.Attribute, pkcs11.KeyType
    usage = {} if says_usage else dict.fromkeys((attribute.VERIFY, attribute.ENCRYPT), pkcs11.constants.DEFAULT)
    common = {
        "store": True,
        "label": label,
        "id": key_id,
        "capabilities": pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
        "public_template": {attribute.PRIVATE: False, **usage},
        "private_template": {
            attribute.PRIVATE: True,
            attribute.SENSITIVE: True,
            attribute.EXTRACTABLE: extractable,
        },
    }
    pair: tuple[Any, Any]
    if algorithm in _RSA_BITS:
        pair = session.generate_keypair(key_type.RSA, _RSA_BITS[algorithm], **common)
        return pair
    if algorithm not in _CURVE_OF:
        raise Misconfigured(
            "key.algorithm.token",
            f"keys of the algorithm {algorithm[:20]!r} are not made in tokens",
            hint=f"Use one of {', '.join((*_CURVE_OF, *_RSA_BITS))}, or a key in a file.",
            algorithm=algorithm[:20],
        )
    kind, mechanism = key_type.EC, pkcs11.Mechanism.EC_KEY_PAIR_GEN
    if algorithm == "ed25519":
        kind, mechanism = key_type.EC_EDWARDS, pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN
    parameters = session.create_domain_parameters(kind, {attribute.EC_PARAMS: _CURVE_OF[algorithm]}, local=True)
    pair = parameters.generate_keypair(mechanism=mechanism, **common)
    return pair


def certificate_template(label: str, key_id: bytes, der: bytes) -> dict[Any, Any]:
    """Return the attributes of a certificate object (PKCS#11, X.509 public key certificate objects)."""
    pkcs11 = binding()
    attribute = pkcs11.Attribute
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.subject.public_bytes(), certificate.issuer.public_bytes()
    except UNREADABLE as problem:
        raise Refused(
            "key.certificate.malformed",
            "what should be stored in the token is no certificate",
            hint="Hand over the DER of one certificate.",
        ) from problem
    number = certificate.serial_number
    octets = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    return {
        attribute.CLASS: pkcs11.ObjectClass.CERTIFICATE,
        attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
        attribute.TOKEN: True,
        attribute.PRIVATE: False,
        attribute.LABEL: label,
        attribute.ID: key_id,
        attribute.SUBJECT: names[0],
        attribute.ISSUER: names[1],
        attribute.SERIAL_NUMBER: bytes((2, len(octets))) + octets,
        attribute.VALUE: der,
    }


def _shown(label: str | None, key_id: bytes | None) -> str:
    parts = [repr(label)] if label is not None else []
    if key_id is not None:
        parts.append(f"id {key_id.hex()}")
    return " ".join(parts) or "of any name"
