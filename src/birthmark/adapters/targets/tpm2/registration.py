"""What a cloud that attests TPMs by themselves wants to know of one: its endorsement key and who it is.

Azure DPS, individual enrolment with TPM attestation: ``endorsementKey`` and ``storageRootKey`` are TPM2B_PUBLIC, base64
(docs of the service: "TPM attestation"; TPM 2.0 part 2, section 12.2.5).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from birthmark.adapters.targets.tpm2.endorsement import endorsement_of_kind, find_endorsement
from birthmark.adapters.targets.tpm2.link import TpmLink, binding
from birthmark.errors import Misconfigured

__all__ = ["TpmRegistration", "read_registration"]

_STORAGE_ROOT = 0x81000001
_REGISTRATION_ID = re.compile(r"[a-z0-9](?:[a-z0-9._:-]{0,126}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class TpmRegistration:
    """``endorsement_key`` and ``storage_root_key``: TPM2B_PUBLIC. The latter is None while the TPM keeps none."""

    registration_id: str
    endorsement_key: bytes
    storage_root_key: bytes | None
    ek_certificate: bytes | None

    def document(self) -> dict[str, object]:
        """Return the enrolment as Azure DPS takes it, with the certificate of the EK beside it (base64, DER)."""
        tpm = {"endorsementKey": _text(self.endorsement_key)}
        if self.storage_root_key is not None:
            tpm["storageRootKey"] = _text(self.storage_root_key)
        return {
            "registrationId": self.registration_id,
            "attestation": {"type": "tpm", "tpm": tpm},
            "ekCertificate": None if self.ek_certificate is None else _text(self.ek_certificate),
        }


def read_registration(link: TpmLink, registration_id: str, kind: str) -> TpmRegistration:
    """Read the registration of a TPM. ``kind``: of the EK; ``auto`` is RSA-2048, which DPS knows.

    ``Misconfigured("target.tpm.registration")`` for an id that DPS does not take (1 to 128 of ``a-z0-9-._:``).
    """
    if _REGISTRATION_ID.fullmatch(registration_id) is None:
        raise Misconfigured(
            "target.tpm.registration",
            f"{registration_id[:140]!a} is not a registration id",
            hint="Use 1 to 128 of a-z, 0-9, '-', '.', '_' and ':', with a letter or digit at both ends.",
            registration_id=ascii(registration_id[:140]),
        )
    found = endorsement_of_kind(link, "rsa2048") if kind == "auto" else find_endorsement(link, kind)
    return TpmRegistration(registration_id, _tpm2b(found.area), _storage_root(link), found.certificate)


def _storage_root(link: TpmLink) -> bytes | None:
    if _STORAGE_ROOT not in link.handles("persistent"):
        return None
    return _tpm2b(link.esys.read_public(link.esys.tr_from_tpmpublic(_STORAGE_ROOT))[0].publicArea)


def _tpm2b(area: object) -> bytes:
    return bytes(binding().TPM2B_PUBLIC(publicArea=area).marshal())


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
