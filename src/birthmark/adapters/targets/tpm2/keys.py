"""Signing keys of a TPM: how they are made, what their public area has to say, and how they sign.

TPM 2.0 part 1, section 27 (object attributes), part 2, section 12.2 (public area), part 3 (commands).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.adapters.pkcs11_key import TokenKey, token_key
from birthmark.adapters.targets.tpm2.link import TpmLink, binding
from birthmark.errors import DeviceFault, Misconfigured
from birthmark.pki.algorithms import spki_of

__all__ = [
    "TpmKey",
    "WrappedKey",
    "check_public",
    "create_key",
    "load_key",
    "persistent_key",
    "public_spki",
    "sign_digest",
    "signer",
    "tpm_key",
    "wrapped_key",
]

_TEMPLATES = {
    "p256": "ecc256:ecdsa-sha256:null",
    "p384": "ecc384:ecdsa-sha384:null",
    "rsa2048": "rsa2048:null:null",
}
_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|noda"
_STAYS = ("FIXEDTPM", "FIXEDPARENT", "SENSITIVEDATAORIGIN")
_SIGNS = ("SIGN_ENCRYPT",)
_MUST_NOT = ("RESTRICTED", "DECRYPT", "ENCRYPTEDDUPLICATION")


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key outside of the TPM, which alone can open it: TPM2B_PUBLIC and TPM2B_PRIVATE."""

    public: Any
    private: Any

    def octets(self) -> bytes:
        return bytes(self.public.marshal() + self.private.marshal())


@dataclass(frozen=True, slots=True)
class TpmKey:
    """A key in the TPM. ``handle``: of the ESAPI, ``public``: TPMT_PUBLIC, ``name``: its Name, ``spki``: DER."""

    handle: Any
    public: Any
    name: bytes
    spki: bytes


def wrapped_key(octets: bytes) -> WrappedKey | None:
    """Read what ``WrappedKey.octets`` wrote; None if it is anything else."""
    pytss = binding()
    try:
        public, used = pytss.TPM2B_PUBLIC.unmarshal(octets)
        private, rest = pytss.TPM2B_PRIVATE.unmarshal(octets[used:])
        whole = used + rest == len(octets)
    except (pytss.TSS2_Exception, ValueError, TypeError):
        return None
    return WrappedKey(public, private) if whole else None


def create_key(link: TpmLink, algorithm: str) -> WrappedKey:
    """Make a key in the TPM, below a storage key that every call finds again. Nothing is stored."""
    pytss = binding()
    template = _TEMPLATES.get(algorithm)
    if template is None:
        raise _no_algorithm(algorithm)
    wanted = pytss.TPM2B_PUBLIC.parse(template, objectAttributes=_ATTRIBUTES)
    parent = _storage_key(link)
    try:
        private, public, *_ = link.esys.create(parent, pytss.TPM2B_SENSITIVE_CREATE(), wanted)
    except pytss.TSS2_Exception as problem:
        codes = pytss.TPM2_RC
        if problem.error in (codes.CURVE, codes.KEY_SIZE, codes.SCHEME, codes.HASH, codes.VALUE):
            raise _no_algorithm(algorithm) from problem
        raise
    link.flush(parent)
    return WrappedKey(public, private)


def load_key(link: TpmLink, wrapped: WrappedKey) -> TpmKey | None:
    """Load a key that was made here; None if this TPM cannot open it."""
    pytss = binding()
    parent = _storage_key(link)
    try:
        handle = link.keep(link.esys.load(parent, wrapped.private, wrapped.public))
    except pytss.TSS2_Exception as problem:
        codes = pytss.TPM2_RC
        if problem.error in (codes.INTEGRITY, codes.SIZE, codes.BINDING, codes.ATTRIBUTES, codes.HANDLE):
            return None
        raise
    finally:
        link.flush(parent)
    return tpm_key(link, handle)


def tpm_key(link: TpmLink, handle: Any) -> TpmKey:
    """Return what the TPM says of a key that is loaded or persistent. ``DeviceFault("target.key.damaged")``."""
    public, name, _ = link.esys.read_public(handle)
    area = public.publicArea
    return TpmKey(handle, area, bytes(name.name), public_spki(area))


def persistent_key(link: TpmLink, handle: int) -> TpmKey | None:
    """Return the key at a persistent handle, or None."""
    if handle not in link.handles("persistent"):
        return None
    return tpm_key(link, link.esys.tr_from_tpmpublic(handle))


def public_spki(area: Any) -> bytes:
    """Return the SPKI (DER) of a public area; ``DeviceFault("target.key.damaged")`` if it is no key we know."""
    try:
        return spki_of(load_der_public_key(bytes(area.to_der())))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise DeviceFault(
            "target.key.damaged",
            "the TPM holds something else than a public key where one was looked for",
            hint="Remove it with tpm2_evictcontrol and provision the device again.",
        ) from None


def check_public(key: TpmKey, name: str) -> None:
    """Return if the key can never leave this TPM and signs whatever it is given, and nothing else.

    ``DeviceFault``: ``target.key.extractable`` (duplicable, or made outside), ``target.key.attributes`` (restricted,
    for decryption, or bound to a policy).
    """
    flags = binding().TPMA_OBJECT
    has = int(key.public.objectAttributes)
    leaves = [flag.lower() for flag in _STAYS if not has & int(getattr(flags, flag))]
    if leaves:
        raise DeviceFault(
            "target.key.extractable",
            f"the private key {name} was not made inside this TPM or may leave it",
            hint="Take the device off the line: somebody put a key in.",
            object=name,
            attributes=[f"no {flag}" for flag in leaves],
        )
    wrong = [f"no {flag.lower()}" for flag in _SIGNS if not has & int(getattr(flags, flag))]
    wrong += [flag.lower() for flag in _MUST_NOT if has & int(getattr(flags, flag))]
    wrong += ["authpolicy"] if bytes(key.public.authPolicy) else []
    if wrong:
        raise DeviceFault(
            "target.key.attributes",
            f"the private key {name} is not a plain signing key",
            hint="Remove it from the TPM and provision the device again: an identity signs whatever TLS asks for.",
            object=name,
            attributes=wrong,
        )


def signer(link: TpmLink, key: TpmKey, name: str) -> TokenKey:
    """Return a private key of ``cryptography`` that signs in the TPM while the link is open."""
    return token_key(load_der_public_key(key.spki), _signing(link, key), name)


def sign_digest(link: TpmLink, key: TpmKey, digest: bytes, hash_name: str) -> bytes:
    """Sign in the TPM as PKCS#11 has it: ECDSA (both numbers, as long as the digest), or RSA (RSASSA-PKCS1-v1_5)."""
    pytss = binding()
    algorithms = pytss.TPM2_ALG
    is_rsa = int(key.public.type) == int(algorithms.RSA)
    details = pytss.TPMU_SIG_SCHEME(any=pytss.TPMS_SCHEME_HASH(hashAlg=algorithms.parse(hash_name)))
    scheme = pytss.TPMT_SIG_SCHEME(scheme=algorithms.RSASSA if is_rsa else algorithms.ECDSA, details=details)
    ticket = pytss.TPMT_TK_HASHCHECK(tag=pytss.TPM2_ST.HASHCHECK, hierarchy=pytss.TPM2_RH.NULL)
    made = link.esys.sign(key.handle, digest, scheme, ticket)
    if is_rsa:
        return bytes(made.signature.rsassa.sig)
    numbers = bytes(made.signature.ecdsa.signatureR), bytes(made.signature.ecdsa.signatureS)
    return b"".join(number.rjust(len(digest), b"\0") for number in numbers)


def _signing(link: TpmLink, key: TpmKey) -> Callable[[bytes, str], bytes]:
    def sign(data: bytes, mechanism: str) -> bytes:
        if mechanism == "ECDSA":
            return sign_digest(link, key, data, f"sha{8 * len(data)}")
        hash_name = mechanism.partition("_")[0].lower()
        return sign_digest(link, key, hashlib.new(hash_name, data).digest(), hash_name)

    return sign


def _storage_key(link: TpmLink) -> Any:
    """Load the parent of our keys: made from the owner's seed and a fixed template, so always the same one."""
    pytss = binding()
    made = link.esys.create_primary(pytss.TPM2B_SENSITIVE_CREATE(), "ecc256", pytss.ESYS_TR.OWNER)
    return link.keep(made[0])


def _no_algorithm(algorithm: str) -> Misconfigured:
    return Misconfigured(
        "key.algorithm.token",
        f"keys of the algorithm {algorithm[:20]!r} are not made in this TPM",
        hint=f"Use one of {', '.join(_TEMPLATES)} that the TPM has.",
        algorithm=algorithm[:20],
    )
