"""The target ``tpm2``: a key born in a TPM 2.0, its certificates in the NV memory of the same TPM."""

from __future__ import annotations

from birthmark.adapters.targets.tpm2.target import Tpm2Target

__all__ = ["Tpm2Target"]
