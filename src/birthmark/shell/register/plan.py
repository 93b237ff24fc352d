"""What a registration would take, with as many devices and CAs as somebody wonders about; nothing is sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from birthmark.ports import CloudAuthority, Estimate
from birthmark.shell.register.registration import chosen_clouds, open_register
from birthmark.shell.workspace.plugins import adapter
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.wiring import open_workspace, utc_now

__all__ = ["RegisterPlan", "plan_for_name", "plan_for_uri"]


@dataclass(frozen=True, slots=True)
class RegisterPlan:
    """What telling ``cloud`` of so many ``devices`` of so many issuing CAs (``authorities``) will take."""

    cloud: str
    devices: int
    authorities: int
    estimate: Estimate


def plan_for_name(root: Path, name: str, *, devices: int | None, authorities: int | None) -> RegisterPlan:
    """Plan for a cloud of a workspace: for what is due and the CAs on record, where nothing else is said."""
    with open_workspace(root) as opened:
        opened.publish()
        with open_register(opened, name, chosen_clouds(opened, [name])[name]) as known:
            cas = known.authorities() if authorities is None else _imagined(authorities, opened.clock())
            count = known.due(devices)
            return RegisterPlan(known.cloud.name, count, len(cas), known.cloud.estimate(count, cas))


def plan_for_uri(uri: str, *, base: Path, devices: int, authorities: int | None) -> RegisterPlan:
    """Plan for a cloud that no workspace has to know; files in ``uri`` are relative to ``base``."""
    cas = _imagined(1 if authorities is None else authorities, utc_now())
    cloud = adapter("clouds", uri)(uri, secrets=SecretsResolver(), base=base)
    try:
        return RegisterPlan(cloud.name, devices, len(cas), cloud.estimate(devices, cas))
    finally:
        cloud.close()


def _imagined(count: int, now: datetime) -> list[CloudAuthority]:
    """Return as many CAs as would have to be known, each with a certificate that stands for one to come."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    made = []
    for number in range(1, count + 1):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Planned CA {number}")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(number)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        made.append(CloudAuthority(f"planned-{number}", (certificate.public_bytes(Encoding.DER),), ()))
    return made
