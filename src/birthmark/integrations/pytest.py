"""The pytest plug-in: a test that asks for ``device_identity`` gets a device that has its identity and proved it.

Loaded by pytest itself (entry point ``pytest11``). Nothing of birthmark is imported before a fixture is asked for.
docs/tutorials/test-station-pytest.md
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from birthmark.errors import BirthmarkError
    from birthmark.line import Line

__all__ = [
    "DeviceIdentity",
    "birthmark_line",
    "birthmark_target",
    "device_identity",
    "device_serial",
    "pytest_addoption",
]

_OPTIONS = {
    "workspace": "directory of the birthmark workspace of this station",
    "station": "name of this station; default: the only one there is",
    "target": "where the identity goes, a URI in which {device_serial} is replaced; see docs/targets.md",
    "cloud": "name of a cloud of the settings that has to let the device in",
}


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What the device under test holds: on record, read back and proved before the test began. Public values only."""

    device_serial: str
    outcome: Literal["pass", "already"]
    attempt: str
    cert_serial: str
    cert_sha256: str
    evidence: Literal["signature", "digest", "jwt"]
    certificate: bytes
    """DER."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and the settings of the same names (``birthmark_workspace`` …) for pytest.ini."""
    group = parser.getgroup("birthmark", "device identities on the production line")
    for name, text in _OPTIONS.items():
        group.addoption(f"--birthmark-{name}", default=None, metavar=name.upper(), help=text)
        parser.addini(f"birthmark_{name}", text, default="")
    group.addoption(
        "--birthmark-handshake", action="store_true", default=False, help="prove it with a mutual-TLS connection too"
    )
    with suppress(ValueError):  # somebody else's option of this name says the same
        group.addoption("--device-serial", default=None, metavar="SERIAL", help="the scanned serial of the device")


@pytest.fixture(scope="session")
def birthmark_line(pytestconfig: pytest.Config) -> Iterator[Line]:
    """The open station, for the whole session. Its journal belongs to this process: one process a station."""
    workspace = _asked(pytestconfig, "workspace")
    if not workspace:
        pytest.fail("birthmark: which workspace? Use --birthmark-workspace or birthmark_workspace", pytrace=False)
    from birthmark.errors import BirthmarkError
    from birthmark.line import open_line

    opening = open_line(workspace, _asked(pytestconfig, "station") or None)
    try:
        line = opening.__enter__()
    except BirthmarkError as problem:
        pytest.fail(_text(problem), pytrace=False)
    yield line
    try:
        opening.__exit__(None, None, None)
    except BirthmarkError as problem:
        pytest.fail(_text(problem), pytrace=False)


@pytest.fixture
def device_serial(pytestconfig: pytest.Config) -> str:
    """The serial of the device in the fixture: ``--device-serial``. Write a fixture of this name to scan it."""
    chosen = pytestconfig.getoption("--device-serial", None)
    if not chosen:
        pytest.fail("birthmark: which device? Use --device-serial, or a fixture device_serial", pytrace=False)
    return str(chosen)


@pytest.fixture
def birthmark_target(pytestconfig: pytest.Config) -> str:
    """Where the identity goes: ``--birthmark-target``. Write a fixture of this name to choose by yourself."""
    target = _asked(pytestconfig, "target")
    if not target:
        pytest.fail("birthmark: where to? Use --birthmark-target or birthmark_target", pytrace=False)
    return target


@pytest.fixture
def device_identity(
    request: pytest.FixtureRequest,
    birthmark_line: Line,
    device_serial: str,
    birthmark_target: str,
) -> DeviceIdentity:
    """The identity of the device: provisioned, or proved again, and on record before the test body runs.

    A device that does not get it fails the test with the error and what to do. A fault of the station or a finding of
    tampering stops the session: no further device is begun.
    """
    from birthmark.errors import BirthmarkError, StationFault, Tampered

    # Not record_property: it warns in some forms of the report, and a station may turn warnings into errors.
    told: list[tuple[str, object]] = request.node.user_properties
    handshake = bool(request.config.getoption("--birthmark-handshake"))
    cloud = _asked(request.config, "cloud") or None
    try:
        outcome = birthmark_line.provision(device_serial, birthmark_target, handshake=handshake, cloud=cloud)
        certificate = birthmark_line.certificate(device_serial)
    except BirthmarkError as problem:
        told.append(("birthmark_error", problem.code))
        if isinstance(problem, StationFault | Tampered):
            request.session.shouldstop = f"birthmark stops the line: {problem.code}"
        pytest.fail(_text(problem), pytrace=False)
    told += [("birthmark_attempt", outcome.attempt), ("cert_sha256", outcome.cert_sha256)]
    return DeviceIdentity(
        device_serial=device_serial,
        outcome=outcome.outcome,
        attempt=outcome.attempt,
        cert_serial=outcome.cert_serial,
        cert_sha256=outcome.cert_sha256,
        evidence=outcome.evidence,
        certificate=certificate,
    )


def _asked(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"--birthmark-{name}") or config.getini(f"birthmark_{name}"))


def _text(problem: BirthmarkError) -> str:
    facts = [f"  {name}: {value}" for name, value in problem.facts.items() if value not in (None, "")]
    told = "\n".join([f"{type(problem).__name__} {problem.message}  [{problem.code}]", *facts, f"  → {problem.hint}"])
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in told)
