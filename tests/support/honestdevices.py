"""Kinds of device that are told no lie: why, and the test that changes what they hold behind the target's back."""

from __future__ import annotations

__all__ = ["HONEST"]

_MODULE = (
    "the module of the token runs in the station's own process",
    "tests/unit/adapters/test_pkcs11_target.py::test_certificate_of_another_device_is_found",
)

HONEST: dict[str, tuple[str, str]] = dict.fromkeys(
    ("pkcs11-ed25519", "pkcs11-optee-shim", "pkcs11-p256", "pkcs11-p384", "pkcs11-rsa2048", "pkcs11-tpm2"), _MODULE
)
"""Kind → (why nobody can lie there, the test that finds other contents)."""
