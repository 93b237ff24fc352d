"""OpenHTF: a plug and ready-made phases. The trace is on disk before a phase ends well, never in a callback.

    with open_line("bench") as line:
        plug = ProvisionPlug.at(line, "files:devices/{device_serial}")
        test = htf.Test(flash, provision_phase(plug), functional_tests, verify_phase(plug))
        test.execute(test_start=lambda: scan())

Three habits of OpenHTF decide the form of this module. Output callbacks run after the verdict, and what they raise is
only logged: so the identity is made, proved and recorded inside a phase. A phase that runs out of time is noticed late,
and its thread may be left behind: so the engine runs in a thread that OpenHTF cannot kill, under a fence that ends with
the phase's own time. ``tearDown`` has to come back at once: here it takes the right to act away, and does nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from birthmark.adapters.extras import require_extra
from birthmark.errors import DeviceFault, Refused
from birthmark.line import BirthmarkError, Line, LineRun, Outcome, Progress

require_extra("openhtf", "openhtf")

import openhtf as htf  # noqa: E402
from openhtf.plugs import BasePlug  # noqa: E402
from openhtf.util import units  # noqa: E402

__all__ = ["ProvisionPlug", "provision_phase", "verify_phase"]

_BAD_DEVICE = (DeviceFault, Refused)
_READ_BACK = frozenset({"prove", "verify", "handshake"})


class ProvisionPlug(BasePlug):  # type: ignore[misc]
    """The station inside a test: ``at`` makes the class to name in ``@htf.plug``.

    For phases of one's own; ``provision_phase`` and ``verify_phase`` are ready-made.
    """

    _line: Line | None = None
    _target = ""
    _handshake = False
    _cloud: str | None = None

    def __init__(self) -> None:
        self._run: LineRun | None = None

    @classmethod
    def at(cls, line: Line, target: str, *, handshake: bool = False, cloud: str | None = None) -> type[ProvisionPlug]:
        """Return the plug of one head. ``target``: URI in which ``{device_serial}`` is replaced. ``cloud``: name of a
        cloud of the settings that has to let each device in.

        The line stays the caller's: open it around the tests, one for all heads of the process.
        """
        return type(cls.__name__, (cls,), {"_line": line, "_target": target, "_handshake": handshake, "_cloud": cloud})

    def provision(
        self, device_serial: str, *, seconds: float | None = None, progress: Callable[[Progress], None] = lambda p: None
    ) -> Outcome:
        """Give the device its identity; return when it is proved and on disk. Errors: those of ``Line.provision``.

        ``seconds``: how long the right to act stands; nothing is done to the device after that.
        """
        self._run = self._opened().begin(
            device_serial,
            self._target,
            handshake=self._handshake,
            cloud=self._cloud,
            progress=progress,
            deadline_s=seconds,
        )
        return self._run.finish()

    def verify(
        self, device_serial: str, *, seconds: float | None = None, progress: Callable[[Progress], None] = lambda p: None
    ) -> Outcome:
        """Prove again that the device holds its identity. Errors: those of ``Line.verify``."""
        self._run = self._opened().begin_verify(
            device_serial,
            self._target,
            handshake=self._handshake,
            cloud=self._cloud,
            progress=progress,
            deadline_s=seconds,
        )
        return self._run.finish()

    def certificate(self, device_serial: str) -> bytes:
        """Return the certificate (DER) on record."""
        return self._opened().certificate(device_serial)

    def tearDown(self) -> None:
        """Take the right to act away; returns at once."""
        if self._run is not None:
            self._run.stop()

    def _asdict(self) -> dict[str, object]:
        """What OpenHTF writes of this plug into its record: nothing."""
        return {}

    def _opened(self) -> Line:
        if self._line is None:
            raise TypeError("use the class that ProvisionPlug.at(line, target) returns")
        return self._line


def provision_phase(
    plug: type[ProvisionPlug], *, timeout_s: float | None = None, name: str = "birthmark_provision"
) -> Any:
    """Return the phase that gives the device under test (``test.dut_id``) its identity and records it.

    Measurements: ``birthmark_total_ms``, ``cert_sha256``, ``spki_sha256``, ``readback_match`` (must be True).
    Attachments, public only: ``device.crt`` (PEM) and ``birthmark.json``. ``timeout_s``: of the phase and of the right
    to act; without it the station's own deadline holds.

    A bad device or a refusal ends the test with FAIL and the code among the outcome's details; what is no verdict on
    the device (``StationFault``, ``Unavailable``, ``Misconfigured``) or stops the line (``Tampered``) is raised: ERROR.
    """
    return _phase(plug, "provision", timeout_s, name)


def verify_phase(plug: type[ProvisionPlug], *, timeout_s: float | None = None, name: str = "birthmark_verify") -> Any:
    """Return a phase for the end of a test: the device proves once more that it holds its identity.

    Measurements, attachments and outcomes as of ``provision_phase``.
    """
    return _phase(plug, "verify", timeout_s, name)


def _phase(plug: type[ProvisionPlug], act: str, timeout_s: float | None, name: str) -> Any:
    # OpenHTF looks at the time every three seconds only; the fence is exact, and the phase need not be cut by anybody.
    allowed = None if timeout_s is None else timeout_s + 2 * _JOIN_S

    @htf.PhaseOptions(name=name, timeout_s=allowed)  # type: ignore[untyped-decorator]
    @htf.measures(  # type: ignore[untyped-decorator]
        htf.Measurement("birthmark_total_ms").with_units(units.MILLISECOND),
        htf.Measurement("cert_sha256"),
        htf.Measurement("spki_sha256"),
        htf.Measurement("readback_match").equals(True),
    )
    @htf.plug(birthmark=plug)  # type: ignore[untyped-decorator]
    def phase(test: Any, birthmark: ProvisionPlug) -> Any:
        device_serial = str(test.test_record.dut_id)
        failed: list[str] = []

        def watch(step: Progress) -> None:
            if step.status == "failed":
                failed.append(step.step)

        try:
            outcome = getattr(birthmark, act)(device_serial, seconds=timeout_s, progress=watch)
            certificate = birthmark.certificate(device_serial)
        except _BAD_DEVICE as problem:
            if _READ_BACK & set(failed):
                test.measurements.readback_match = False
            _tell(test, problem)
            return htf.PhaseResult.STOP
        except BirthmarkError as problem:
            _tell(test, problem)
            raise
        _measure(test, outcome, certificate)
        return htf.PhaseResult.CONTINUE

    return phase


_JOIN_S = 3.0
"""OpenHTF's ``_JOIN_TRY_INTERVAL_SECONDS``."""


def _measure(test: Any, outcome: Outcome, certificate: bytes) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from birthmark.pki.algorithms import spki_of

    parsed = x509.load_der_x509_certificate(certificate)
    test.measurements.birthmark_total_ms = round(sum(ms for _, ms in outcome.steps), 3)
    test.measurements.cert_sha256 = outcome.cert_sha256
    test.measurements.spki_sha256 = sha256(spki_of(parsed.public_key())).hexdigest()
    test.measurements.readback_match = sha256(certificate).hexdigest() == outcome.cert_sha256
    test.attach("device.crt", parsed.public_bytes(Encoding.PEM), "application/x-pem-file")
    document = {
        "device_serial": outcome.device_serial,
        "attempt": outcome.attempt,
        "outcome": outcome.outcome,
        "cert_serial": outcome.cert_serial,
        "evidence": outcome.evidence,
        "steps": [{"step": step, "ms": ms} for step, ms in outcome.steps],
    }
    test.attach("birthmark.json", json.dumps(document).encode(), "application/json")


def _tell(test: Any, problem: BirthmarkError) -> None:
    test.logger.log(logging.ERROR, "%s  → %s", problem, problem.hint)
    test.test_record.add_outcome_details(problem.code, f"{problem.message} → {problem.hint}")
    test.attach("birthmark_error.json", json.dumps(problem.document()).encode(), "application/json")
