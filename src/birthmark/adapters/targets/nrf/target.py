"""The target ``nrf``: a key born in a cellular modem, its certificate beside it (docs/targets/nrf.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.identity import (
    certificates_of,
    mismatch,
    read_pem_certificates,
    refuse_key,
)
from birthmark.adapters.targets.links.budget import garbled
from birthmark.adapters.targets.links.options import SERIAL_OPTIONS, number
from birthmark.adapters.targets.links.porttarget import PortTarget
from birthmark.adapters.targets.nrf.anchors import IdentityKeys, attestation
from birthmark.adapters.targets.nrf.keygen import CHALLENGE_OCTETS, Keygen, read_keygen, read_token
from birthmark.adapters.targets.nrf.modem import CERTIFICATE, KEY, NOTE, Modem
from birthmark.adapters.targets.uri import bad_option, choice, parse_target_uri
from birthmark.errors import DeviceFault, Refused, Unavailable
from birthmark.model.ids import parse_device_serial
from birthmark.pki.certread import UNREADABLE
from birthmark.pki.csr import parse_csr
from birthmark.ports import Attestation, Credential, Evidence, Fence, Probe, SecretsHandler
from birthmark.wire.jwtproof import JWT_AUDIENCE, jwt_holds, jwt_subject

__all__ = ["NrfTarget"]

_OPTIONS = (*SERIAL_OPTIONS, "sec-tag", "note-tag", "anchors", "chain", "key-usage")
_SEC_TAG, _NOTE_TAG, _MOST_TAG = 16842753, 2147483000, 2147483647
_NOTE = re.compile(r"birthmark1\.([0-9a-f]{64})\.([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
_FAULTS_OF_A_LINK = 2
_COMMON_NAME = "2.5.4.3"
_SECOND_TRIES = 2
"""How often a signature that does not hold is asked for again: a line has no checksum, a signature is one."""


class NrfTarget(PortTarget):
    """Implements ``ports.Target``, and ``ports.Attests`` with ``anchors``, on ``nrf:/dev/ttyACM0?sec-tag=16842753``.

    A power cut during ``make_key`` leaves no key or one that waits; during ``install`` a key without certificate or
    the new identity. A new key takes the place of the old identity: the modem keeps one for each slot.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="nrf", options=_OPTIONS)
        super().__init__(parsed, base)
        self._tag = number(parsed, "sec-tag", _SEC_TAG, 0, _MOST_TAG)
        self._note_tag = number(parsed, "note-tag", _NOTE_TAG, 0, _MOST_TAG)
        if self._tag == self._note_tag:
            raise bad_option(parsed, "note-tag", "Use another number than sec-tag.")
        self._chain = choice(parsed, "chain", ("issuing", "full"))
        self._usage = parsed.options.get("key-usage", "100000000")
        if not re.fullmatch("[01]{9}", self._usage):
            raise bad_option(parsed, "key-usage", "Use nine digits 0 or 1, digitalSignature first (RFC 5280, 4.2.1.3).")
        anchors = parsed.options.get("anchors")
        self._anchors = None if anchors is None else IdentityKeys(base / anchors)

    def probe(self) -> Probe:
        """Return the IMEI, or the device serial that the map gives for it, as the identity."""
        with self._modem(None) as modem:
            certificates = self._certificates(modem)
            return Probe(
                identity=self._device_serial(),
                certificate=certificates[0] if certificates else None,
                makes_key=True,
                can_sign=True,
                attests=self._anchors is not None,
            )

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        if algorithm != "p256":
            raise Refused(
                "target.key.algorithm",
                f"this target makes no {algorithm} keys",
                hint="Order keys of kind p256: a modem makes no others.",
                algorithm=algorithm,
            )
        subject = f"CN={parse_device_serial(device_serial)}"
        with self._modem(fence) as modem:
            if modem.digest_of(self._tag, CERTIFICATE) is None:
                waiting = self._waiting(modem)
                if waiting is not None and parse_csr(waiting.csr).names == ((_COMMON_NAME, device_serial),):
                    return waiting.csr
            modem.silence_radio()
            # The certificate first: a power cut never leaves it beside a key that is not its own.
            for tag, kind in ((self._tag, CERTIFICATE), (self._note_tag, NOTE)):
                if modem.digest_of(tag, kind) is not None:
                    modem.delete(tag, kind)
            return self._make(modem, subject).csr

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        refuse_key(credential)
        ones = (certificates.device, *certificates.chain)
        content = "".join(one.public_bytes(Encoding.PEM).decode() for one in ones)
        with self._modem(fence) as modem:
            waiting = self._waiting(modem)
            if waiting is None or waiting.spki != certificates.spki:
                raise mismatch(self._name, "the key born")
            if modem.digest_of(self._tag, CERTIFICATE) == sha256(content.encode()).digest():
                return
            modem.silence_radio()
            modem.write(self._tag, CERTIFICATE, content)

    def prove(self, challenge: bytes) -> Evidence:
        """The installed key signs a token whose subject is the challenge; the certificate is read out and digested."""
        with self._modem(None) as modem:
            certificates = self._certificates(modem)
            if not certificates:
                raise DeviceFault(
                    "target.certificate.missing",
                    f"{self._name} holds no certificate",
                    hint="Provision the device again.",
                    target=self._name,
                )
            device, *chain = certificates
            public_key = self._public_key(device)
            token = modem.jwt(self._tag, jwt_subject(challenge), JWT_AUDIENCE).encode()
            for _ in range(_SECOND_TRIES):
                # What does not hold may have been garbled on its way; the station judges the last one all the same.
                if jwt_holds(public_key, challenge, token) or self._budget.spent >= self._budget.limit:
                    break
                self._budget.spend(garbled(self._name, "a token"))
                token = modem.jwt(self._tag, jwt_subject(challenge), JWT_AUDIENCE).encode()
            return Evidence(device, tuple(chain), kind="jwt", signature=token, key_digest=None)

    def attest(self, nonce: bytes) -> Attestation:
        """Show that the key was made in this modem, and that this modem is here now (docs/targets/nrf.md)."""
        if self._anchors is None:
            raise TypeError("a target without anchors attests nothing")
        challenge = sha256(nonce).digest()[:CHALLENGE_OCTETS]
        with self._modem(None) as modem:
            waiting = self._waiting(modem)
            if waiting is None:
                raise mismatch(self._name, "the key born")
            made, keys = waiting, self._anchors

            def shown() -> Attestation:
                token = read_token(modem.token(challenge))
                return attestation(made, token, sec_tag=self._tag, challenge=challenge, keys=keys)

            for _ in range(_SECOND_TRIES):
                try:
                    return shown()
                except DeviceFault:
                    if self._budget.spent >= self._budget.limit:
                        raise
                    self._budget.spend(garbled(self._name, "an attestation"))
            return shown()

    def _public_key(self, certificate: bytes) -> object:
        try:
            return x509.load_der_x509_certificate(certificate).public_key()
        except (*UNREADABLE, UnsupportedAlgorithm):
            raise mismatch(self._name, "the key") from None

    def _make(self, modem: Modem, subject: str) -> Keygen:
        """Make a key and keep what the modem said of it beside it, in the modem; a key nobody heard of is made anew."""
        faults = 0
        while True:
            if modem.digest_of(self._tag, KEY) is not None:
                modem.delete(self._tag, KEY)
            try:
                made = read_keygen(modem.make_key(self._tag, subject, self._usage))
                break
            except DeviceFault:
                # Garbled on its way or said so: only what repeats is the device's.
                faults += 1
                if faults >= _FAULTS_OF_A_LINK:
                    raise
            except Unavailable as problem:
                if problem.code not in ("link.silent", "link.garbled"):
                    raise
                self._budget.spend(problem)
                self._identity = modem.connect()
        listed = modem.digest_of(self._tag, KEY)
        if listed is None:
            raise mismatch(self._name, "the key born")
        modem.write(self._note_tag, NOTE, f"birthmark1.{listed.hex()}.{made.text}")
        return made

    def _waiting(self, modem: Modem) -> Keygen | None:
        """Return the key of the slot if it is still the one that the note speaks of."""
        note = modem.read(self._note_tag, NOTE)
        match = None if note is None else _NOTE.fullmatch(note.content)
        if match is None:
            return None
        listed = modem.digest_of(self._tag, KEY)
        if listed is None or listed.hex() != match[1]:
            return None
        try:
            made = read_keygen(match[2])
        except DeviceFault:
            return None
        return made if made.sec_tag == self._tag else None

    def _certificates(self, modem: Modem) -> tuple[bytes, ...]:
        """Return the certificates (DER) in the slot, device first; none for what cannot be read."""
        stored = modem.read(self._tag, CERTIFICATE)
        if stored is None or not stored.is_whole():
            return ()
        return read_pem_certificates(stored.content.encode())

    @contextmanager
    def _modem(self, fence: Fence | None) -> Iterator[Modem]:
        with self._talk(fence) as talk:
            modem = Modem(talk)
            self._meet(modem.connect())
            yield modem
