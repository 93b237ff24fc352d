"""Requests that we make ourselves (PKCS#10, RFC 2986): for a device by its profile, for a CA by its subject, or for a
key alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.errors import Misconfigured, Tampered
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.pki.der import Hole, Nested, Part, bit_string, integer, oid, tlv
from birthmark.pki.extensions import extension_parts
from birthmark.pki.names import subject_name
from birthmark.pki.profile import Profile, Urls

__all__ = ["DeviceRequests", "ca_request", "unnamed_request"]

_SEQUENCE, _SET, _ATTRIBUTES = 0x30, 0x31, 0xA0
_EXTENSION_REQUEST = oid("1.2.840.113549.1.9.14")


class DeviceRequests:
    """Makes the requests of one product's devices: names, usages and constraints as the profile writes them.

    What only an issuer knows (key identifiers, addresses, policies) is not asked for. ``values`` fills the profile's
    placeholders; one that is missing is refused as ``compile_template`` refuses it.
    """

    def __init__(self, profile: Profile, values: Mapping[str, str]) -> None:
        asked = msgspec.structs.replace(profile, ski=False, aki=False, certificate_policies=None, urls=Urls())
        used = {name: values[name] for name in sorted(profile.placeholders()) if name in values}
        self._subject = subject_name(profile.subject, used)
        self._extensions = tuple(extension_parts(asked, values=used, key_id=b"", issuer_key_id=b""))

    def make(self, device_serial: str, private_key: Any) -> bytes:
        """Return the request (DER) of a device, signed by its key."""
        holes = {Hole.DEVICE_SERIAL: device_serial.encode("ascii")}
        algorithm = algorithm_of(private_key.public_key())
        asked = tlv(_SEQUENCE, b"".join(_render((part,), holes) for part in self._extensions))
        attribute = tlv(_SEQUENCE, _EXTENSION_REQUEST + tlv(_SET, asked))
        info = tlv(
            _SEQUENCE,
            integer(0)
            + _render((self._subject,), holes)
            + spki_of(private_key.public_key())
            + tlv(_ATTRIBUTES, attribute if self._extensions else b""),
        )
        signature = algorithm.sign(private_key, info)
        return tlv(_SEQUENCE, info + algorithm.signature_algorithm + bit_string(signature))


def _render(parts: Iterable[Part], holes: Mapping[Hole, bytes]) -> bytes:
    found = []
    for part in parts:
        if isinstance(part, bytes):
            found.append(part)
        elif isinstance(part, Nested):
            found.append(tlv(part.tag, _render(part.parts, holes)))
        else:
            found.append(holes[part])
    return b"".join(found)


def ca_request(subject: str, private_key: Any, *, path_length: int | None) -> bytes:
    """Return the request (DER) of a CA. ``subject``: RFC 4514, the most specific name first.

    It asks for basicConstraints and keyUsage of a CA, both critical; whoever signs decides. The signature is verified.
    Raises ``Misconfigured("ca.subject")``; ``Tampered("ca.request.signature")`` if the key signs with another one.
    """
    try:
        name = x509.Name.from_rfc4514_string(subject)
    except ValueError:
        name = x509.Name([])
    if not name.rdns:
        raise Misconfigured(
            "ca.subject",
            f"{subject[:80]!a} is not the name of a CA",
            hint='Write it as in RFC 4514, for example "CN=Acme Device CA 1,O=Acme,C=DE".',
        )
    algorithm = algorithm_of(private_key.public_key())
    digest = _DIGESTS.get(algorithm.name)
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
    )
    request = builder.sign(private_key, digest)
    try:
        good = request.is_signature_valid
    except UnsupportedAlgorithm:
        good = algorithm.verify(private_key.public_key(), request.signature, request.tbs_certrequest_bytes)
    if not good:
        raise Tampered(
            "ca.request.signature",
            "the key of the CA returned a signature that its public key does not verify",
            hint="Stop: the token signs with another key than it shows, so check its objects and labels.",
        )
    return request.public_bytes(Encoding.DER)


def unnamed_request(private_key: Any) -> bytes:
    """Return a request (DER) that proves the possession of a key and asks for nothing else: who signs decides."""
    digest: Any = _DIGESTS.get(algorithm_of(private_key.public_key()).name)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private_key, digest)
    return request.public_bytes(Encoding.DER)


_SHA256 = hashes.SHA256()
_DIGESTS: dict[str, hashes.SHA256 | hashes.SHA384] = {
    "p256": _SHA256,
    "p384": hashes.SHA384(),
    "rsa2048": _SHA256,
    "rsa3072": _SHA256,
}
"""Key algorithm → digest of its signatures; the others take the message itself."""
_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
