"""Symmetric-key attestation: a device shows a token that is signed with its key.

Token: ``SharedAccessSignature sr={scope}/registrations/{id}&sig=…&se=…&skn=registration``, as ``Authorization`` over
HTTPS and as the password over MQTT; Microsoft's Python client leaves ``skn`` out. A device of a group signs with
base64(HMAC-SHA256(group key, registration id)) (Azure documentation, symmetric key attestation).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from urllib.parse import parse_qs, unquote

from birthmark.testing.dps.answers import Problem
from birthmark.testing.dps.enrollments import Enrollment, valid_id
from birthmark.testing.dps.store import Store

__all__ = ["device_keys", "find_by_token"]

_MAX_TOKEN = 2048


def find_by_token(store: Store, id_scope: str, registration_id: str, token: str) -> Enrollment:
    """Return the enrolment, enabled or not, whose key signed ``token``, or raise ``Problem(401002)``."""
    if not valid_id(registration_id):
        raise Problem(400002, "The registrationId is not valid.")
    signed, signature = _open(token, f"{id_scope}/registrations/{registration_id}")
    individual = store.individual.get(registration_id)
    candidates = [individual] if individual is not None else store.groups.all()
    for enrollment in candidates:
        for key in _keys(enrollment, registration_id).values():
            if hmac.compare_digest(hmac.digest(key, signed, "sha256"), signature):
                return enrollment
    raise Problem(401002, "Unauthorized")


def device_keys(enrollment: Enrollment, registration_id: str) -> dict[str, str]:
    """Return the keys (base64) of one device of an enrolment: its own, or those that follow from the group's."""
    return {slot: base64.b64encode(key).decode() for slot, key in _keys(enrollment, registration_id).items()}


def _keys(enrollment: Enrollment, registration_id: str) -> dict[str, bytes]:
    keys = {slot: base64.b64decode(text) for slot, text in enrollment.symmetric.items()}
    if enrollment.kind == "individual":
        return keys
    return {slot: hmac.digest(key, registration_id.encode(), "sha256") for slot, key in keys.items()}


def _open(token: str, audience: str) -> tuple[bytes, bytes]:
    """Return what was signed and the signature; a token for another audience or of another time is a ``Problem``."""
    scheme, _, text = token.partition(" ")
    wrong = Problem(401002, "Unauthorized")
    if scheme != "SharedAccessSignature" or len(token) > _MAX_TOKEN:
        raise wrong
    raw = next((part[3:] for part in text.split("&") if part.startswith("sr=")), "")
    try:
        parts = {name: values[0] for name, values in parse_qs(text, max_num_fields=8).items()}
        signature = base64.b64decode(parts.get("sig", ""), validate=True)
        good = int(parts.get("se", "")) > time.time()
    except (ValueError, binascii.Error):
        raise wrong from None
    if not good or unquote(raw).lower() != audience.lower() or parts.get("skn", "registration") != "registration":
        raise wrong
    return f"{raw}\n{parts['se']}".encode(), signature
