"""The target ``pkcs11``: a key born in a token that never leaves it, and its certificate beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, mismatch, refuse_key
from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.adapters.targets.tokenplace import TokenPlace, check_attributes
from birthmark.adapters.targets.uri import bad_option, choice, parse_pairs, parse_target_uri
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of, spki_of
from birthmark.ports import Credential, Evidence, Probe, SecretsHandler

__all__ = ["Pkcs11Target"]

_OPTIONS = ("module-path", "pin-source", "chain")
_PATH = ("token", "object")


class Pkcs11Target:
    """Implements ``ports.Target`` on ``pkcs11:token=LABEL;object=NAME?module-path=PATH&pin-source=REFERENCE``.

    The device is called what its token is labelled. Every call logs in anew and closes its session, so nothing is
    remembered between ``install`` and ``prove``.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="pkcs11", options=_OPTIONS)
        names = parse_pairs(uri, parsed.path, ";", _PATH)
        for part, where in (
            *((name, names) for name in _PATH),
            ("module-path", parsed.options),
            ("pin-source", parsed.options),
        ):
            if part not in where:
                raise bad_option(parsed, part, f"Add {part}= to the target; see docs/targets.md.")
        self._name = uri
        self._chain = choice(parsed, "chain", tuple(CHAIN_LENGTHS))
        self._label, self._object = names["token"], names["object"]
        self._module = str(base / parsed.options["module-path"])
        self._pin = parsed.options["pin-source"]
        self._secrets = secrets

    def probe(self) -> Probe:
        with self._opened() as place:
            installed = place.certificate()
        return Probe(self._label, None if installed is None else installed.value, makes_key=True, can_sign=True)

    def make_key(self, algorithm: str, device_serial: str) -> bytes:
        chosen = algorithm_named(algorithm)
        with self._opened() as place:
            raise NotImplementedError

    def install(self, credential: Credential) -> None:
        refuse_key(credential)
        certificates = certificates_of(credential, chain=self._chain)

    def prove(self, challenge: bytes) -> Evidence:
        raise NotImplementedError
