"""Endorsement keys of devices that show themselves by their TPM: JSON lines, a device each.

``{"device_serial": "TH-1", "endorsement_key": "BASE64 of the TPM2B_PUBLIC or of its contents"}``; as the maker of the
TPMs, or the tool that reads them, gives the key to Azure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

import msgspec

from birthmark.errors import Misconfigured

__all__ = ["read_endorsements"]

_MAX_LINE, _MAX_KEY, _MOST = 4096, 2048, 1_000_000


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    device_serial: str
    endorsement_key: str


_decode = msgspec.json.Decoder(_Line).decode


def read_endorsements(path: Path) -> Mapping[str, str]:
    """Return device serial → endorsement key (base64); ``Misconfigured("cloud.endorsements")`` if a line is wrong."""
    found: dict[str, str] = {}
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE + 1):
                number += 1
                said = _decode(line)
                key = base64.b64decode(said.endorsement_key, validate=True)
                if len(line) > _MAX_LINE or not 0 < len(key) <= _MAX_KEY or said.device_serial in found:
                    raise ValueError
                found[said.device_serial] = said.endorsement_key
                if number > _MOST:
                    raise ValueError
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, ValueError, RecursionError) as problem:
        raise Misconfigured(
            "cloud.endorsements",
            f"endorsement keys cannot be read at line {number}: {type(problem).__name__}",
            hint='Write a line of JSON for each device, once: {"device_serial": …, "endorsement_key": BASE64}.',
            path=str(path),
            line=number,
        ) from None
    return found
