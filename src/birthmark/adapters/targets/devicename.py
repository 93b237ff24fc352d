"""What a directory of a device says of itself: one line in ``device-id``, or else its own name."""

from __future__ import annotations

import re

from birthmark.adapters.targets.directory import Directory
from birthmark.errors import DeviceFault

__all__ = ["DEVICE_NAME_FILE", "device_name"]

DEVICE_NAME_FILE = "device-id"
_NAME = re.compile(r"[!-~]{1,64}")


def device_name(directory: Directory, target: str) -> str:
    """Return the name; ``DeviceFault("target.identity.malformed")`` if ``device-id`` holds none."""
    found = directory.read(DEVICE_NAME_FILE)
    if found is None:
        return directory.path.resolve().name
    text = found.data.decode("ascii", errors="replace").strip()
    if _NAME.fullmatch(text) is None:
        raise DeviceFault(
            "target.identity.malformed",
            f"{DEVICE_NAME_FILE} in {target} does not hold one name",
            hint="Write the device serial into it, one line of 1 to 64 printable ASCII characters.",
            target=target,
        )
    return text
