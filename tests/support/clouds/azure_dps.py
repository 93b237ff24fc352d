"""The emulated Device Provisioning Service as a cloud: by groups, by groups of CA references, one by one."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.adapters.clouds.azure_dps import AzureDpsCloud
from birthmark.model.secret import Secret
from birthmark.ports.cloud import CloudAuthority, Registration
from birthmark.testing.dps import DpsLimits, EmulatedDps, FaultPlan
from support.clouds.fleet import Fleet
from support.clouds.world import CloudWorld
from support.dpsservice import ARM, dps_call, verify_ca

__all__ = ["ARM", "CLOUDS", "DpsService"]

_UNSTEADY = ("etag", "createdDateTimeUtc", "lastUpdatedDateTimeUtc", "created", "updated")


class DpsService:
    """An emulator, the URI that names it, and somebody else who works on its records."""

    def __init__(self, dps: EmulatedDps, directory: Path) -> None:
        self.dps, self.directory = dps, directory
        (directory / "dps-root.pem").write_text(dps.root_pem)
        self.key, self.token = dps.key, dps.management_token
        self.calls = 0

    def uri(self, **options: str) -> str:
        chosen = {"key": "test:key", "trust": "dps-root.pem", **options}
        if chosen.get("mode") != "individual" and "verified" not in chosen:
            chosen |= {"arm": ARM, "arm-host": self.host, "arm-token": "test:token"}
        text = "&".join(f"{name.replace('_', '-')}={quote(value)}" for name, value in chosen.items())
        return f"azure-dps:{self.host}?{text}"

    @property
    def host(self) -> str:
        return f"{self.dps.host}:{self.dps.https_port}"

    def secret(self, reference: str) -> Secret:
        known = {"test:key": self.key, "test:token": self.token}
        known |= {f"test:{name}": hub.key for name, hub in self.dps.hubs.items()}
        return Secret(known[reference].encode())

    def open(self, *, told_hubs: Sequence[str] = (), **options: str) -> AzureDpsCloud:
        """``told_hubs``: in which blocked devices are disabled as well."""
        uri = self.uri(**options, **({"hub_host": self.host} if told_hubs else {}), **_hub_options(told_hubs))
        return AzureDpsCloud(uri, secrets=self.secret, base=self.directory)

    def verify(self, fleet: Fleet, *cas: str) -> None:
        """Prove possession of issuing CAs, as somebody else does in the portal."""
        for ca in cas:
            verify_ca(self.dps, fleet.issuing(ca)[0], partial(fleet.prove, ca))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send one request as somebody else would and return the body of its answer."""
        version = "2022-12-12" if path.startswith("/subs") else "2021-10-01"
        status, told, _ = dps_call(self.dps, method, f"{path}?api-version={version}", body, **headers)
        assert status < 300, (status, told)
        return told

    def snapshot(self) -> object:
        rows = [
            self.ask("POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"}),
            self.ask("POST", "/enrollmentGroups/query", {"query": "SELECT * FROM enrollmentGroups"}),
            self.ask("GET", f"{ARM}/certificates")["value"],
            [list(hub.list()) for hub in self.dps.hubs.values()],
        ]
        return _steady(rows)

    def change(self, fleet: Fleet, device_serial: str) -> None:
        self.put(Registration(device_serial, "enabled", (fleet.certificate(device_serial),), ()), if_match="*")

    def put(self, told: Registration, **headers: str) -> None:
        certificate = {"certificate": base64.b64encode(told.certificates[0]).decode()}
        attestation = {"type": "x509", "x509": {"clientCertificates": {"primary": certificate}}}
        body = {"registrationId": told.device_serial, "deviceId": told.device_serial, "attestation": attestation}
        self.ask("PUT", f"/enrollments/{told.device_serial}", body, **headers)

    def remove(self, device_serial: str) -> None:
        self.ask("DELETE", f"/enrollments/{device_serial}")

    def heal(self) -> None:
        self.dps.faults.set(FaultPlan())
        self.dps.key, self.dps.management_token = self.key, self.token

    def shut(self) -> None:
        self.dps.key = base64.b64encode(os.urandom(32)).decode()


def _hub_options(hubs: Sequence[str]) -> dict[str, str]:
    return {f"hub.{hub}": f"test:{hub}" for hub in hubs}


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(member) for name, member in value.items() if name not in _UNSTEADY}
    return [_steady(member) for member in value] if isinstance(value, list) else value


def _swollen(fleet: Fleet, device_serial: str) -> Registration:
    """A certificate that is right in all but its size, which the service alone judges."""
    issuer, issuer_key = fleet.issuing()
    told = x509.load_der_x509_certificate(fleet.certificate(device_serial))
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(issuer.subject, told.subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(told.not_valid_before_utc).not_valid_after(told.not_valid_after_utc)
    large = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.32473.1"), bytes(16_000))
    made = builder.add_extension(large, critical=False).sign(issuer_key, hashes.SHA256())
    from cryptography.hazmat.primitives.serialization import Encoding

    return Registration(device_serial, "blocked", (made.public_bytes(Encoding.DER),), fleet.chain())


@contextmanager
def _world(directory: Path, told_hubs: Sequence[str] = (), **options: str) -> Iterator[CloudWorld]:
    fleet = Fleet()
    hubs = told_hubs or ["hub.azure-devices.net"]
    with (
        EmulatedDps(mqtt_port=0, hubs=hubs, limits=DpsLimits(hub_calls_a_minute=10_000)) as dps,
        pytest.MonkeyPatch.context() as patch,
    ):
        service = DpsService(dps, directory)
        send = httpx.HTTPTransport.handle_request

        def counted(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            service.calls += 1
            return send(transport, request)

        patch.setattr(httpx.HTTPTransport, "handle_request", counted)
        faults = {
            "throttled": lambda: dps.faults.set(FaultPlan(throttled=1.0)),
            "lost": lambda: dps.faults.set(FaultPlan(lost=1.0)),
            "shut": service.shut,
        }
        too_much: list[CloudAuthority] | None = None
        if options.get("mode") != "individual":
            too_much = [fleet.authority(f"ca-{number}") for number in range(4)]
        yield CloudWorld(
            fleet=fleet,
            open=partial(service.open, told_hubs=told_hubs, **options),
            calls=lambda: service.calls,
            snapshot=service.snapshot,
            change=partial(service.change, fleet),
            add=service.put,
            remove=service.remove,
            impossible=Registration("x" * 65, "blocked", (), ()),
            refused=_swollen(fleet, "unit-swollen"),
            secrets=[
                dps.key.encode(),
                quote(dps.key, safe="").encode(),
                dps.management_token.encode(),
                *(hub.key.encode() for hub in dps.hubs.values()),
            ],
            heal=service.heal,
            too_much=too_much,
            faults=faults,
            knows_cas=options.get("mode") != "individual",
        )


CLOUDS: dict[str, Callable[[Path], Any]] = {
    "azure-dps-groups": lambda directory: _world(directory, ca="upload", most_groups="3"),
    "azure-dps-individual": lambda directory: _world(directory, mode="individual", hubs="hub.azure-devices.net"),
    "azure-dps-hubs": lambda directory: _world(directory, ["a.azure-devices.net", "b.azure-devices.net"], most_cas="3"),
    "azure-dps-references": lambda directory: _world(directory, most_cas="3", reprovision="never"),
}
