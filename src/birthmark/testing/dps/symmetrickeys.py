"""The two symmetric keys of an enrolment, as they are sent."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import Any

from birthmark.testing.dps.answers import Problem

__all__ = ["read_symmetric_keys"]

_NEW_KEY = 64
_SHORTEST, _LONGEST = 16, 64
_SLOTS = ("primaryKey", "secondaryKey")


def read_symmetric_keys(document: Mapping[str, Any], old: Mapping[str, str]) -> dict[str, str]:
    """Return both keys (base64) of an enrolment: those sent, else those it had, else new ones.

    A key that is not 16 to 64 octets in base64 is ``Problem(400005)``.
    """
    keys: dict[str, str] = {}
    for slot in _SLOTS:
        sent = document.get(slot) or old.get(slot) or base64.b64encode(os.urandom(_NEW_KEY)).decode()
        try:
            good = _SHORTEST <= len(base64.b64decode(sent, validate=True)) <= _LONGEST
        except (ValueError, TypeError):
            good = False
        if not good:
            raise Problem(400005, "A symmetric key has 16 to 64 octets, in base64.")
        keys[slot] = sent
    return keys
