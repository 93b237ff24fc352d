"""Events of the certificates that prove to a cloud that a CA's key is ours."""

from __future__ import annotations

from birthmark.model.eventbase import EventBase

__all__ = ["PossessionIntended", "PossessionProven"]


class PossessionIntended(EventBase, frozen=True, tag="possession_intended"):
    """``ca`` is about to sign one certificate whose name is ``code``, as ``cloud`` asked. Hashes and serial: hex."""

    ca: str
    cloud: str
    code: str
    cert_serial: str
    spki_sha256: str
    tbs_sha256: str
    profile_hash: str
    by: str


class PossessionProven(EventBase, frozen=True, tag="possession_proven"):
    """The certificate of ``possession_intended`` entry number ``intent``. Attachment: certificate (DER)."""

    ca: str
    intent: int
    cert_sha256: str
