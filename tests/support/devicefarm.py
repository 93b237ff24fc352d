"""Ten thousand devices in a process of their own: they outlive the station, and they do not behave.

``python -m support.devicefarm SOCKET SEED TROUBLE`` answers one JSON line for each JSON line on a stream socket. A
device has a real P-256 key, certificate and chain. What goes wrong is drawn from the seed, the device and the number
of the request, so the same seed is the same trouble whatever the station does meanwhile. ``TROUBLE``: the share of
requests in which something goes wrong.
"""

from __future__ import annotations

import json
import random
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from birthmark.adapters.targets.proof import device_csr, sign_proof
from birthmark.pki.algorithms import spki_of

__all__ = ["ASLEEP_S", "main"]

ASLEEP_S = 3.0
"""How long a device that falls asleep does not answer: longer than the deadline of the station."""
_BEFORE, _AFTER = "power goes before", "power goes after"
_TROUBLES: dict[str, tuple[str, ...]] = {
    "probe": (_BEFORE, "garbles", "other identity", "refuses"),
    "make_key": (_BEFORE, _AFTER, "garbles", "refuses", "other key"),
    "install": (_BEFORE, _AFTER, "stores nothing", "stores another's", "refuses", "stores half"),
    "prove": (_BEFORE, "garbles", "other key", "refuses"),
}
_SLEEPY = 0.02
"""Share of the troubles in which the device falls asleep, acts when it wakes up, and answers nobody."""


@dataclass
class Unit:
    """What one device holds. ``ever``: SHA-256 of each certificate it ever stored."""

    key: Any = None
    waiting: Any = None
    certificate: bytes | None = None
    chain: list[bytes] = field(default_factory=list)
    requests: int = 0
    ever: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Farm:
    """All devices. ``troubles`` counts what went wrong, by its name."""

    def __init__(self, seed: str, trouble: float) -> None:
        self._seed, self._trouble = seed, trouble
        self._units: dict[str, Unit] = {}
        self._lock = threading.Lock()
        self.troubles: dict[str, int] = {}
        self._last: tuple[bytes, list[bytes], Any] | None = None

    def answer(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer of a device, None for none at all."""
        if asked["op"] == "dump":
            return self._dump()
        with self._lock:
            unit = self._units.setdefault(asked["device"], Unit())
        with unit.lock:
            if asked["op"] == "wipe":
                unit.key = unit.waiting = unit.certificate = None
                unit.chain = []
                return {}
            unit.requests += 1
            what = self._what_goes_wrong(asked, unit.requests)
            if what is not None:
                with self._lock:
                    self.troubles[what] = self.troubles.get(what, 0) + 1
            act: Callable[..., dict[str, Any] | None] = getattr(self, f"_{asked['op']}")
            if what == "falls asleep":
                time.sleep(ASLEEP_S)
                act(asked, unit, None)
                return None
            if what == _BEFORE:
                return None
            if what == "refuses":
                return {"refused": True}
            done = act(asked, unit, what)
            return None if what == _AFTER else done

    def _what_goes_wrong(self, asked: dict[str, Any], number: int) -> str | None:
        chance = random.Random(f"{self._seed} {asked['device']} {number}")
        if chance.random() >= self._trouble:
            return None
        if chance.random() < _SLEEPY:
            return "falls asleep"
        return chance.choice(_TROUBLES[asked["op"]])

    def _probe(self, asked: dict[str, Any], unit: Unit, what: str | None) -> dict[str, Any]:
        certificate = unit.certificate
        if what == "garbles" and certificate is not None:
            certificate = certificate[:20] + b"\xff" + certificate[21:]
        identity = "SOMEBODY-ELSE" if what == "other identity" else asked["device"]
        return {"identity": identity, "certificate": None if certificate is None else certificate.hex()}

    def _make_key(self, asked: dict[str, Any], unit: Unit, what: str | None) -> dict[str, Any]:
        unit.waiting = unit.waiting or ec.generate_private_key(ec.SECP256R1())
        key = ec.generate_private_key(ec.SECP256R1()) if what == "other key" else unit.waiting
        csr = device_csr(key, asked["device"])
        return {"csr": (csr[:-9] + b"\0" * 9 if what == "garbles" else csr).hex()}

    def _install(self, asked: dict[str, Any], unit: Unit, what: str | None) -> dict[str, Any]:
        certificate, chain = bytes.fromhex(asked["certificate"]), [bytes.fromhex(one) for one in asked["chain"]]
        if what == "stores nothing":
            return {}
        if "key" in asked:
            key = load_der_private_key(bytes.fromhex(asked["key"]), None)
        else:
            key = unit.waiting or unit.key
            named = spki_of(x509.load_der_x509_certificate(certificate).public_key())
            if key is None or spki_of(key.public_key()) != named:
                return {"refused": True}
        if what == "stores half":
            chain = chain[:0]
        if what == "stores another's" and self._last is not None:
            certificate, chain, key = self._last
        unit.key, unit.waiting, unit.certificate, unit.chain = key, None, certificate, chain
        unit.ever.add(sha256(certificate).hexdigest())
        self._last = (certificate, chain, key)
        return {}

    def _prove(self, asked: dict[str, Any], unit: Unit, what: str | None) -> dict[str, Any]:
        if unit.certificate is None or unit.key is None:
            return {"refused": True}
        key = ec.generate_private_key(ec.SECP256R1()) if what == "other key" else unit.key
        certificate = unit.certificate[:-1] + b"\0" if what == "garbles" else unit.certificate
        return {
            "certificate": certificate.hex(),
            "chain": [one.hex() for one in unit.chain],
            "signature": sign_proof(key, bytes.fromhex(asked["challenge"])).hex(),
        }

    def _dump(self) -> dict[str, Any]:
        units = {
            serial: {
                "certificate": None if unit.certificate is None else unit.certificate.hex(),
                "spki": None if unit.key is None else spki_of(unit.key.public_key()).hex(),
                "ever": sorted(unit.ever),
                "requests": unit.requests,
            }
            for serial, unit in sorted(self._units.items())
        }
        return {"units": units, "troubles": self.troubles}


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            line = self.rfile.readline()
            if not line.endswith(b"\n"):
                return  # the station was killed before it had asked
            answer = self.server.farm.answer(json.loads(line))  # type: ignore[attr-defined]
            if answer is not None:
                self.wfile.write(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # the station was killed meanwhile


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main(socket: str, seed: str, trouble: str) -> None:
    """Serve until the process is ended."""
    with _Server(socket, _Handler) as server:
        server.farm = Farm(seed, float(trouble))  # type: ignore[attr-defined]
        Path(f"{socket}.ready").touch()
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
