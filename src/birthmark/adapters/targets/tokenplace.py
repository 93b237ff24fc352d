"""The objects of one identity in a PKCS#11 token, told apart by label and CKA_ID (docs/targets.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.pkcs11_module import binding
from birthmark.adapters.pkcs11_objects import (
    ObjectKind,
    certificate_template,
    find_objects,
    key_attributes,
    token_object,
)
from birthmark.adapters.targets.identity import MAX_CHAIN, Certificates
from birthmark.errors import DeviceFault
from birthmark.ports import Fence

__all__ = ["InstalledCertificate", "TokenPlace", "check_attributes"]

_T = TypeVar("_T")
# The private key's label is the last thing that changes: until then the key counts as waiting.
_KEY_KINDS: tuple[ObjectKind, ...] = ("public", "private")
_REQUIRED = {
    "private": True,
    "sensitive": True,
    "extractable": False,
    "always_sensitive": True,
    "never_extractable": True,
    "local": True,
}
"""Field of ``KeyAttributes`` → what it has to say."""


@dataclass(frozen=True, slots=True)
class InstalledCertificate:
    """A certificate object. ``key_id``: its CKA_ID, ``value``: DER."""

    object: Any
    key_id: bytes
    value: bytes


class TokenPlace:
    """Finds, writes and removes the objects called ``name`` through an open, logged-in session.

    Without a fence nothing is written or removed.
    """

    def __init__(self, session: Any, name: str, fence: Fence | None = None) -> None:
        self._session = session
        self._name = name
        self._fence = fence

    @property
    def new_label(self) -> str:
        """The label of a key that has no certificate yet."""
        return f"{self._name}-new"

    def waiting_key(self) -> Any:
        """Return the private key that waits for its certificate, or None."""
        return _one(self._keys(self.new_label), self.new_label)

    def remove_orphans(self) -> None:
        """Remove public keys that a cut key generation left without a private key."""
        for public_key in self._find("public", self.new_label):
            self._hold()
            public_key.destroy()

    def key_of(self, key_id: bytes) -> Any:
        """Return the private key of this identity with that CKA_ID, or None."""
        found = [key for key in self.private_keys() if _key_id(key) == key_id]
        return _one(found, self._name)

    def private_keys(self) -> list[Any]:
        """Return the waiting key, if there is one, and the installed ones."""
        return [*self._keys(self.new_label), *self._keys(self._name)]

    def certificate(self) -> InstalledCertificate | None:
        """Return the certificate that counts: while an installation is cut off, that of the key already in place."""
        found = self._certificates(self._name)
        if len(found) > 1:
            in_place = {_key_id(key) for key in self._keys(self._name)}
            found = [one for one in found if one.key_id in in_place]
            if not found:
                raise _doubled(self._name)
        return _one(found, self._name)

    def chain(self) -> tuple[bytes, ...]:
        """Return the chain objects (DER), issuing CA first."""
        found = (self._certificates(self._chain_label(place)) for place in range(MAX_CHAIN))
        ones = [_one(objects, self._name) for objects in found]
        while ones and ones[-1] is None:
            ones.pop()
        if None in ones:
            raise DeviceFault(
                "target.certificate.damaged",
                f"the chain of {self._name} in the token has a gap",
                hint="Provision the device again as rework, with a new identity.",
                object=self._name,
            )
        return tuple(one.value for one in ones if one is not None)

    def write(self, certificates: Certificates, key: Any) -> None:
        """Install certificates for ``key``; the certificate object first, then the old identity goes away."""
        key_id = _key_id(key)
        for place in range(MAX_CHAIN):
            issuer = certificates.chain[place] if place < len(certificates.chain) else None
            self._put(self._chain_label(place), b"", issuer)
        mine = self._add(self._name, key_id, certificates.device)
        for one in self._certificates(self._name):
            if (one.key_id, one.value) != (mine.key_id, mine.value):
                self._hold()
                one.object.destroy()
        for kind in _KEY_KINDS:
            for old in self._find(kind, self._name):
                if _key_id(old) != key_id:
                    self._hold()
                    old.destroy()
        for kind in _KEY_KINDS:
            for new in self._find(kind, self.new_label):
                if _key_id(new) == key_id:
                    self._hold()
                    new[binding().Attribute.LABEL] = self._name

    def _hold(self) -> None:
        if self._fence is None:
            raise RuntimeError("a token of a device is changed without a fence")
        self._fence.hold()

    def _put(self, label: str, key_id: bytes, certificate: x509.Certificate | None) -> None:
        """Leave exactly this certificate, or none, under ``label``."""
        wanted = None if certificate is None else certificate.public_bytes(Encoding.DER)
        kept = False
        for one in self._certificates(label):
            if one.value == wanted and not kept:
                kept = True
            else:
                self._hold()
                one.object.destroy()
        if certificate is not None and not kept:
            self._add(label, key_id, certificate)

    def _add(self, label: str, key_id: bytes, certificate: x509.Certificate) -> InstalledCertificate:
        value = certificate.public_bytes(Encoding.DER)
        for one in self._certificates(label):
            if (one.key_id, one.value) == (key_id, value):
                return one
        self._hold()
        created = self._session.create_object(certificate_template(label, key_id, value))
        return InstalledCertificate(created, key_id, value)

    def _certificates(self, label: str) -> list[InstalledCertificate]:
        value = binding().Attribute.VALUE
        found = self._find("certificate", label)
        return [InstalledCertificate(one, token_object(one, "certificate").key_id, bytes(one[value])) for one in found]

    def _keys(self, label: str) -> list[Any]:
        return self._find("private", label)

    def _find(self, kind: ObjectKind, label: str) -> list[Any]:
        return find_objects(self._session, kind, label, None)

    def _chain_label(self, place: int) -> str:
        return f"{self._name}-ca{place}"


def check_attributes(key: Any, name: str) -> None:
    """Return if the token keeps this private key to itself, else ``DeviceFault("target.key.extractable")``."""
    found = key_attributes(key)
    wrong = [name for name, value in _REQUIRED.items() if getattr(found, name) is not value]
    if wrong:
        raise DeviceFault(
            "target.key.extractable",
            f"the private key {name} was not made inside this token or may leave it",
            hint="Take the device off the line: its token does not keep keys, or somebody put one in.",
            object=name,
            attributes=wrong,
        )


def _key_id(found: Any) -> bytes:
    return bytes(found[binding().Attribute.ID])


def _one(found: list[_T], name: str) -> _T | None:
    if len(found) > 1:
        raise _doubled(name)
    return found[0] if found else None


def _doubled(name: str) -> DeviceFault:
    return DeviceFault(
        "target.object.doubled",
        f"there is more than one object {name} of a kind in the token",
        hint="Remove what does not belong there with pkcs11-tool and provision the device again.",
        object=name,
    )
