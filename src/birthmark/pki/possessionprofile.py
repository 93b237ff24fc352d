"""Profile of the one odd certificate that clouds ask for: named by a code of theirs, never a device's.

Not in a file to be changed: whoever could word it freely could have a CA sign anything under this name.
"""

from __future__ import annotations

from birthmark.pki.profile import Profile
from birthmark.pki.profileparts import (
    AlgorithmName,
    BasicConstraints,
    DeviceSerialRule,
    ExtendedKeyUsage,
    KeyUsage,
    SubjectAttribute,
    Validity,
)

__all__ = ["POSSESSION_KEY", "possession_profile"]

POSSESSION_KEY: AlgorithmName = "p256"
_BACKDATE_MINUTES = 60
"""The cloud's clock may be behind ours."""


def possession_profile() -> Profile:
    """Return the profile: a day long, a leaf, the code (letters and digits, 64 at most) as its one CN."""
    return Profile(
        name="cloud-possession",
        kind="end-entity",
        description="Proves to a cloud that the key of this CA is ours; its own key is thrown away",
        key_algorithms=(POSSESSION_KEY,),
        validity=Validity(days=1, backdate_minutes=_BACKDATE_MINUTES),
        subject=(SubjectAttribute(type="CN", value="{device_serial}"),),
        basic_constraints=BasicConstraints(ca=False),
        key_usage=KeyUsage(bits=("digitalSignature",)),
        extended_key_usage=ExtendedKeyUsage(purposes=("clientAuth",)),
        ski=True,
        aki=True,
        device_serial=DeviceSerialRule(pattern=r"[A-Za-z0-9]{8,64}", example="0123456789abcdef"),
    )
