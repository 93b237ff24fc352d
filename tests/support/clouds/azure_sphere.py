"""An Azure Sphere catalog before the emulated Device Provisioning Service: its CA certificates are those of a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509

from birthmark.adapters.clouds.azure_sphere import AzureSphereCloud
from birthmark.ports.cloud import Registration
from birthmark.testing.dps import EmulatedCatalog, EmulatedDps, FaultPlan
from support.clouds.azure_dps import ARM, DpsService
from support.clouds.fleet import Fleet
from support.clouds.world import CloudWorld

__all__ = ["CATALOG", "CLOUDS", "sphere_uri"]

CATALOG = "s1/rg/Gadgets"


def sphere_uri(service: DpsService, **options: str) -> str:
    chosen = {"dps": service.host, "key": "test:key", "trust": "dps-root.pem", "arm-host": service.host}
    proven = {"verified": "elsewhere"} if options.get("ca") == "upload" else {"arm": ARM}
    chosen |= {"arm-token": "test:token"} | proven | options
    text = "&".join(f"{name.replace('_', '-')}={quote(value)}" for name, value in chosen.items())
    return f"azure-sphere:{CATALOG}?{text}"


@contextmanager
def _world(directory: Path, **options: str) -> Iterator[CloudWorld]:
    fleet = Fleet()
    with EmulatedDps(mqtt_port=0) as dps, pytest.MonkeyPatch.context() as patch:
        service = DpsService(dps, directory)
        send = httpx.HTTPTransport.handle_request

        def counted(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
            service.calls += 1
            return send(transport, request)

        patch.setattr(httpx.HTTPTransport, "handle_request", counted)
        catalog = dps.sphere.add(EmulatedCatalog("Gadgets", root=fleet.root))
        for name, status in (("issuing", "Active"), ("second", "Inactive")):
            for der in fleet.authority(name, renewed=True).certificates:
                catalog.add(x509.load_der_x509_certificate(der), fleet.issuing(name)[1], status)
        yield CloudWorld(
            fleet=fleet,
            open=partial(AzureSphereCloud, sphere_uri(service, **options), secrets=service.secret, base=directory),
            calls=lambda: service.calls,
            snapshot=service.snapshot,
            change=partial(service.change, fleet),
            add=service.put,
            remove=service.remove,
            impossible=Registration("x" * 129, "blocked", (), ()),
            secrets=[dps.key.encode(), quote(dps.key, safe="").encode(), dps.management_token.encode()],
            heal=service.heal,
            too_much=[fleet.authority(f"ca-{number}") for number in range(4)],
            faults={
                "throttled": lambda: dps.faults.set(FaultPlan(throttled=1.0)),
                "lost": lambda: dps.faults.set(FaultPlan(lost=1.0)),
                "shut": service.shut,
            },
        )


CLOUDS: dict[str, Callable[[Path], Any]] = {
    "azure-sphere": lambda directory: _world(directory, most_groups="3"),
    "azure-sphere-upload": lambda directory: _world(directory, most_groups="3", ca="upload"),
}
