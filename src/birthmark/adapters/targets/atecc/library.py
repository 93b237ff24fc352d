"""Microchip's own library, ``libcryptoauth``, as its wheel ``cryptoauthlib`` brings it: loaded once a process."""

from __future__ import annotations

import threading
import warnings
from typing import Any

from birthmark.adapters.extras import require_extra
from birthmark.errors import StationFault

__all__ = ["microchip_library"]

_loading = threading.Lock()


def microchip_library() -> Any:
    """Return the loaded library. ``Misconfigured("extra.missing")``, ``StationFault("atecc.library")``."""
    require_extra("atecc", "cryptoauthlib")
    with _loading:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the wheel leaves a file of its own open
            import cryptoauthlib
            from cryptoauthlib.exceptions import LibraryLoadError
            from cryptoauthlib.library import get_cryptoauthlib
        if get_cryptoauthlib() is None:
            try:
                cryptoauthlib.load_cryptoauthlib()
            except LibraryLoadError as problem:
                raise StationFault(
                    "atecc.library",
                    "Microchip's library cannot be loaded",
                    hint="Install the extra atecc again, for this machine's processor.",
                ) from problem
        return get_cryptoauthlib()
