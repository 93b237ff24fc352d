"""One logged-in session to a PKCS#11 token, and its keys in the shape that ``cryptography`` takes."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import new as new_digest
from pathlib import Path
from threading import RLock
from typing import Any, NoReturn

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.exceptions import NoSuchToken, PinIncorrect, PinLocked, PKCS11Error
from pkcs11.util.ec import encode_ec_public_key, encode_ecdsa_signature, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from birthmark.errors import DeviceFault, Refused, StationFault
from birthmark.model.secret import Secret
from birthmark.pki.der import bit_string, oid, tlv

__all__ = ["TokenLink", "open_token"]

# python-pkcs11 initialises modules without locking: two threads in one module crash it.
_ONE_AT_A_TIME = RLock()
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
def open_token(module: Path, label: str, pin: Secret) -> Iterator[TokenLink]:
    """Log in and give the session; it is closed afterwards. One thread of a process has a session at a time.

    ``StationFault``: ``token.module``, ``token.missing``, ``token.pin.wrong``, ``token.pin.locked``, ``token.failed``.
    """
    with _ONE_AT_A_TIME:
        try:
            # Processes that log in at once upset tokens kept in files (measured with SoftHSM).
            with _lock_between_processes():
                session = _token(module, label).open(rw=True, user_pin=pin.reveal().decode())
            with session:
                yield TokenLink(session)
        except NoSuchToken:
            raise _fault("token.missing", label, "is not there", "Insert the token, or correct its label.") from None
        except PinIncorrect:
            raise _fault("token.pin.wrong", label, "refuses the PIN", "Check the PIN: few tries are left.") from None
        except PinLocked:
            raise _fault("token.pin.locked", label, "is locked", "Unlock it with its SO PIN.") from None
        except PKCS11Error as error:
            hint = "Unplug and insert the token, then start the station again."
            raise _fault("token.failed", label, f"failed: {type(error).__name__}", hint) from None


class TokenLink:
    """A session and what is done with keys in it."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def generate(self, algorithm: str, *, label: str, key_id: bytes) -> Any:
        """Make a key pair in the token; return its private key object."""
        names = {"store": True, "label": label, "id": key_id}
        templates = {"private_template": _PRIVATE, "public_template": _PUBLIC}
        if algorithm in _RSA_BITS:
            pair = self.session.generate_keypair(KeyType.RSA, _RSA_BITS[algorithm], **names, **templates)
        elif algorithm in _CURVES:
            parameters = encode_named_curve_parameters(_CURVES[algorithm])
            domain = self._domain(KeyType.EC, parameters)
            pair = domain.generate_keypair(**names, **templates)
        elif algorithm == "ed25519":
            domain = self._domain(KeyType.EC_EDWARDS, _ED25519)
            pair = domain.generate_keypair(mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN, **names, **templates)
        else:
            raise Refused(
                "token.algorithm",
                f"tokens make no {algorithm} keys",
                hint="Use an order with p256, p384, ed25519, rsa2048 or rsa3072.",
                algorithm=algorithm,
            )
        return pair[1]

    def signer(self, key: Any) -> Any:
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
        make, encode = _SIGNERS[key.key_type]
        return make(key, load_der_public_key(encode(found[0])))

    def _domain(self, kind: KeyType, parameters: bytes) -> Any:
        return self.session.create_domain_parameters(kind, {Attribute.EC_PARAMS: parameters}, local=True)


class _InToken:
    """What the three kinds of keys share. The base classes of ``cryptography`` are abstract interfaces."""

    def __init__(self, key: Any, public_key: Any) -> None:
        self._key = key
        self._public = public_key

    def public_key(self) -> Any:
        return self._public

    @property
    def key_size(self) -> int:
        return int(self._public.key_size)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def private_numbers(self) -> NoReturn:
        raise TypeError("this key never leaves its token")

    def private_bytes(self, *arguments: Any, **named: Any) -> NoReturn:
        raise TypeError("this key never leaves its token")

    private_bytes_raw = private_bytes
    exchange = private_bytes
    decrypt = private_bytes


class _EcKey(_InToken, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public.curve
        return curve

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        # SoftHSM 2.6 has raw ECDSA only.
        digest = new_digest(signature_algorithm.algorithm.name, bytes(data)).digest()
        return bytes(encode_ecdsa_signature(self._key.sign(digest, mechanism=Mechanism.ECDSA)))


class _RsaKey(_InToken, rsa.RSAPrivateKey):
    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        if padding.name != "EMSA-PKCS1-v1_5" or algorithm.name != "sha256":
            raise TypeError("device keys sign PKCS #1 v1.5 with SHA-256")
        return bytes(self._key.sign(bytes(data), mechanism=Mechanism.SHA256_RSA_PKCS))


class _Ed25519Key(_InToken, ed25519.Ed25519PrivateKey):
    def sign(self, data: Any) -> bytes:
        return bytes(self._key.sign(bytes(data), mechanism=Mechanism.EDDSA))


def _encode_ed25519(public_key: Any) -> bytes:
    # CKA_EC_POINT is an OCTET STRING around the 32 octets.
    return tlv(0x30, tlv(0x30, _ED25519) + bit_string(bytes(public_key[Attribute.EC_POINT])[-32:]))


def _encode_rsa(public_key: Any) -> bytes:
    return tlv(0x30, _RSA_ALGORITHM + bit_string(encode_rsa_public_key(public_key)))


_SIGNERS: dict[KeyType, tuple[Callable[[Any, Any], Any], Callable[[Any], bytes]]] = {
    KeyType.EC: (_EcKey, encode_ec_public_key),
    KeyType.RSA: (_RsaKey, _encode_rsa),
    KeyType.EC_EDWARDS: (_Ed25519Key, _encode_ed25519),
}


def _token(module: Path, label: str) -> Any:
    try:
        library = pkcs11.lib(str(module))
    except (RuntimeError, OSError):
        raise StationFault(
            "token.module",
            f"the PKCS#11 module {module} cannot be used",
            hint="Check module-path in the target, and that the process uses one module only.",
            module=str(module),
        ) from None
    return library.get_token(token_label=label)


@contextmanager
def _lock_between_processes() -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"birthmark-pkcs11-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fault(code: str, label: str, what: str, hint: str) -> StationFault:
    return StationFault(code, f"the token {label!r} {what}", hint=hint, token=label)
