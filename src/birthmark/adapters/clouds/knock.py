"""Knocking at a cloud as a device: whose name, how long, and how often before it counts as not there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from hashlib import sha256

from cryptography import x509
from cryptography.x509.oid import NameOID

from birthmark.adapters.clouds.said import shown
from birthmark.errors import BirthmarkError, Refused, Unavailable
from birthmark.pki.certread import UNREADABLE
from birthmark.ports import Fence
from birthmark.ports.admission import DeviceTls

__all__ = ["Knock", "Visitor", "unreachable"]

_SLICE_S = 0.25
_LAST_WORD_S = 0.05


class Visitor:
    """A device that is about to knock: its name (the one common name of its certificate) and its certificate's hash."""

    def __init__(self, device: DeviceTls) -> None:
        certificate = next(iter(device.certificates()), b"")
        self.tls = device
        self.cert_sha256 = sha256(certificate).hexdigest()
        self.name = _common_name(certificate)

    def require_name(self, allowed: re.Pattern[str], *, cloud: str, hint: str) -> None:
        """Return if the cloud takes devices of this name, else ``Refused("cloud.admit.name")``."""
        if not allowed.fullmatch(self.name):
            raise Refused(
                "cloud.admit.name",
                f"{cloud} takes no device named {self.name[:80]!a}",
                hint=hint,
                device_name=ascii(self.name[:80]),
            )


class Knock:
    """The time that one admission has. ``sleep`` and the fence are handed in by whoever tests it."""

    def __init__(self, fence: Fence, *, most_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self._fence = fence
        self._most_s = most_s
        self._sleep = sleep

    def begin(self) -> Callable[[], float]:
        """Return what tells the seconds left for one exchange that begins now; never more than the fence has."""
        self._fence.hold()
        end = time.monotonic() + min(self._most_s, self._fence.remaining())
        return lambda: min(end - time.monotonic(), self._fence.remaining())

    def wait(self, seconds: float, why: BirthmarkError) -> None:
        """Wait so long before the next try; raise ``why`` at once where the deadline comes first."""
        if seconds + _LAST_WORD_S >= self._fence.remaining():
            raise why
        while seconds > 0:
            self._sleep(min(_SLICE_S, seconds))
            self._fence.hold()
            seconds -= _SLICE_S


def unreachable(host: str, problem: object) -> Unavailable:
    """Return the error for a cloud that gave no answer."""
    return Unavailable(
        "cloud.admit.unreachable",
        f"{host} gave no answer: {shown(problem)}",
        hint="Check the network of the station; then run the same command again, it goes on where it stopped.",
        host=host,
    )


def _common_name(certificate: bytes) -> str:
    try:
        found = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        found = []
    if len(found) != 1:
        raise Refused(
            "cloud.admit.name",
            "the certificate of the device has no common name, and a cloud knows a device by nothing else",
            hint="Use a profile whose subject has one common name.",
        )
    return str(found[0].value)
