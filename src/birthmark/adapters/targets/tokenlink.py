"""One logged-in session to the token of a device, and what is done with keys in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from birthmark.adapters.pkcs11_key import TokenKey, token_key
from birthmark.adapters.pkcs11_module import named_error, pkcs11_module
from birthmark.adapters.pkcs11_uri import Pkcs11Uri
from birthmark.errors import DeviceFault, Refused
from birthmark.model.secret import Secret
from birthmark.pki.der import bit_string, oid, tlv

__all__ = ["TokenLink", "open_token"]

_CURVES = {"p256": "secp256r1", "p384": "secp384r1"}
_RSA_BITS = {"rsa2048": 2048, "rsa3072": 3072}
_ED25519 = oid("1.3.101.112")
_RSA_ALGORITHM = tlv(0x30, oid("1.2.840.113549.1.1.1") + b"\x05\x00")
_PRIVATE = {
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.PRIVATE: True,
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
}
_PUBLIC = {Attribute.VERIFY: True, Attribute.ENCRYPT: False, Attribute.WRAP: False}


@contextmanager
def open_token(uri: Pkcs11Uri, pin: Secret) -> Iterator[TokenLink]:
    """Log in and give the session; it is closed afterwards. One thread of a process works with the library at a time.

    Raises what ``pkcs11_module`` names ``key.token.*``, ``key.pin.*`` and ``key.module.*``.
    """
    module = pkcs11_module(uri.module)
    with module.lock:
        try:
            with module.exclusive():
                token = module.library().get_token(token_label=uri.token)
                session = token.open(rw=True, user_pin=pin.reveal().decode())
            with session:
                yield TokenLink(session)
        except PKCS11Error as problem:
            raise named_error(problem, uri.token) from problem


class TokenLink:
    """A session and what is done with keys in it."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def generate(self, algorithm: str, *, label: str, key_id: bytes) -> Any:
        """Make a key pair in the token; return its private key object."""
        names = {"store": True, "label": label, "id": key_id}
        templates = {"private_template": _PRIVATE, "public_template": _PUBLIC}
        if algorithm in _RSA_BITS:
            return self.session.generate_keypair(KeyType.RSA, _RSA_BITS[algorithm], **names, **templates)[1]
        if algorithm in _CURVES:
            domain = self._domain(KeyType.EC, encode_named_curve_parameters(_CURVES[algorithm]))
            return domain.generate_keypair(**names, **templates)[1]
        if algorithm == "ed25519":
            domain = self._domain(KeyType.EC_EDWARDS, _ED25519)
            return domain.generate_keypair(mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN, **names, **templates)[1]
        raise Refused(
            "target.key.algorithm",
            f"tokens make no {algorithm} keys",
            hint="Use an order with p256, p384, ed25519, rsa2048 or rsa3072.",
            algorithm=algorithm,
        )

    def signer(self, key: Any) -> TokenKey:
        """Return a private key of ``cryptography`` that signs with a private key object of this session."""
        wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key[Attribute.ID]}
        found = list(self.session.get_objects({**wanted, Attribute.LABEL: key[Attribute.LABEL]}))
        if len(found) != 1:
            raise DeviceFault(
                "target.key.missing",
                f"the private key {key[Attribute.LABEL]} has {len(found)} public keys in the token",
                hint="Provision the device again as rework, with a new identity.",
                object=str(key[Attribute.LABEL]),
            )

        def sign(data: bytes, mechanism: str) -> bytes:
            return bytes(key.sign(data, mechanism=Mechanism[mechanism]))

        public_key = load_der_public_key(_ENCODERS[key.key_type](found[0]))
        return token_key(public_key, sign, str(key[Attribute.LABEL]))

    def _domain(self, kind: KeyType, parameters: bytes) -> Any:
        return self.session.create_domain_parameters(kind, {Attribute.EC_PARAMS: parameters}, local=True)


def _encode_ed25519(public_key: Any) -> bytes:
    # CKA_EC_POINT is an OCTET STRING around the 32 octets.
    return tlv(0x30, tlv(0x30, _ED25519) + bit_string(bytes(public_key[Attribute.EC_POINT])[-32:]))


def _encode_rsa(public_key: Any) -> bytes:
    return tlv(0x30, _RSA_ALGORITHM + bit_string(encode_rsa_public_key(public_key)))


_ENCODERS = {KeyType.EC: encode_ec_public_key, KeyType.RSA: _encode_rsa, KeyType.EC_EDWARDS: _encode_ed25519}
