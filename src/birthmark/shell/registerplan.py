"""What a registration would take, with as many devices and CAs as somebody wonders about; nothing is sent."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from birthmark.ports import CloudAuthority

if TYPE_CHECKING:
    from birthmark.shell.wiring import Workspace

__all__ = ["MOST_AUTHORITIES", "imagined_authorities"]

MOST_AUTHORITIES = 1000


def imagined_authorities(workspace: Workspace, count: int) -> list[CloudAuthority]:
    """Return as many CAs as would have to be known, each with a certificate that stands for one to come."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key, now = ec.generate_private_key(ec.SECP256R1()), workspace.clock()
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
