"""Rules: where the device's key lives, and its algorithm."""

from __future__ import annotations

from birthmark.guide.case import PROFILE_ALGORITHMS, Case
from birthmark.guide.rule import Rule

__all__ = ["RULES"]

_INSTALL = "Azure IoT, Installing certificates into IoT devices"
_BORN_INSIDE = "birthmark: a key born inside never leaves"


def _pqc(c: Case) -> bool:
    return c.key_algorithm.startswith("mldsa")


RULES: tuple[Rule, ...] = (
    Rule(
        "G-STO-01",
        "recommended",
        "Key in an HSM, secure element or TPM",
        lambda c: c.a.storage == "hsm",
        "The key is born inside and never leaves: a copied flash is not a copied device. Only the public part is "
        "taken out.",
        _INSTALL,
    ),
    Rule(
        "G-STO-02",
        "refused",
        "Ready-made keys for a key that is born inside",
        lambda c: c.a.storage == "hsm" and c.generate == "ahead_of_time",
        "A key made ahead of time was outside the chip, so the chip proves nothing about it. A pool of ready-made keys "
        "and a key that must be born inside exclude each other.",
        _BORN_INSIDE,
        "Leave when_to_generate to the guide: the key is born in the device, its request travels if it must.",
    ),
    Rule(
        "G-STO-03",
        "refused",
        "Ready-made keys for a TEE",
        lambda c: c.a.storage == "tee" and c.generate == "ahead_of_time",
        "A trusted execution environment has the same shape as an HSM: its keys are born inside and it takes no "
        "ready-made ones.",
        _BORN_INSIDE,
        "Let the key be born in the device, or store it in the file system and say so.",
    ),
    Rule(
        "G-STO-04",
        "allowed",
        "Key in a trusted execution environment",
        lambda c: c.a.storage == "tee",
        "Works like an HSM through PKCS#11, slower and with fewer slots; it is as good as the system's secure boot.",
        _INSTALL,
        "Measure key generation and free slots on a board before you fix the takt of the line.",
    ),
    Rule(
        "G-STO-05",
        "allowed",
        "Key in the file system or certificate store",
        lambda c: c.a.storage == "file_system",
        "Whoever reads the storage has the identity. The station sets modes, writes durably and reads back by digest; "
        "encryption at rest is the device's part.",
        _INSTALL,
        "Encrypt the partition with a key of the chip, and never let the certificate run for ever.",
    ),
    Rule(
        "G-STO-06",
        "allowed",
        "Key in another place",
        lambda c: c.a.storage == "plugin",
        "A plug-in writes the credential. It has to honour the laws of the target port, and the contract tests say "
        "whether it does.",
        "birthmark: laws of the target port",
        "Run the contract tests against your plug-in before the first lot.",
    ),
    Rule(
        "G-STO-07",
        "discouraged",
        "The board's secure hardware stays unused",
        lambda c: c.a.storage != "hsm" and c.f.board_has_hsm == "yes",
        "The board already carries secure hardware, it is paid for, and the key would lie beside it.",
        _INSTALL,
        'Use it: answer storage = "hsm".',
    ),
    Rule(
        "G-STO-08",
        "allowed",
        "Look whether the board carries secure hardware",
        lambda c: c.a.storage != "hsm" and c.f.board_has_hsm == "unknown",
        "Makers are surprised to find a secure element, a TPM or a key store in their processor that they do not use.",
        _INSTALL,
        "Ask the hardware manufacturer, then answer board_has_hsm.",
    ),
    Rule(
        "G-STO-09",
        "recommended",
        "Read the TPM's endorsement key once, as late as trust allows",
        lambda c: c.target == "tpm2",
        "The endorsement key names the chip. Read it at the last moment before foreign software runs, by hands you "
        "trust: chip maker, board maker or your line. A later owner clears the TPM and takes over with an own key.",
        "Azure IoT, A manufacturing timeline for TPM devices; TCG EK Credential Profile",
    ),
    Rule(
        "G-KEY-01",
        "refused",
        "The profile does not grant this key algorithm",
        lambda c: c.key_algorithm not in PROFILE_ALGORITHMS[c.profile],
        "Certificates of the profile {c.profile} cannot carry a {c.key_algorithm} key: the other side would refuse "
        "the device.",
        "IEEE 802.1AR clause 9; Azure DPS and AWS IoT, X.509 certificates; Matter core specification 6.2.2",
        "Use p256, which every profile grants, or another profile.",
    ),
    Rule(
        "G-KEY-02",
        "refused",
        "The cloud does not take this key algorithm",
        lambda c: (
            c.key_algorithm in ("ed25519", "mldsa44", "mldsa65") and bool({"azure_dps", "aws_iot"} & set(c.clouds))
        ),
        "Azure and AWS take RSA and the NIST curves only; a {c.key_algorithm} certificate could not be registered.",
        "Azure IoT and AWS IoT developer guides, X.509 client certificates",
        "Use p256, or register by export only.",
    ),
    Rule(
        "G-KEY-03",
        "discouraged",
        "RSA on a small microcontroller",
        lambda c: c.f.device_class == "small_mcu" and c.key_algorithm.startswith("rsa"),
        "Making one RSA key takes a small microcontroller from seconds to minutes, and every connection costs time and "
        "battery for the whole life of the device.",
        "birthmark: RSA on small devices",
        "Use p256.",
    ),
    Rule(
        "G-KEY-04",
        "refused",
        "The credential does not fit into the device",
        lambda c: c.f.target_free_bytes is not None and c.f.target_free_bytes < c.credential_bytes,
        "Key, certificate and issuing CA take about {c.credential_bytes:,} bytes with {c.key_algorithm}; the device "
        "has {c.f.target_free_bytes:,} free.",
        "RFC 9881 (sizes of ML-DSA); birthmark: measured sizes of certificates",
        "Make room, or use p256 (about 1,800 bytes).",
    ),
    Rule(
        "G-KEY-05",
        "discouraged",
        "ML-DSA without knowing the free space",
        lambda c: _pqc(c) and c.f.target_free_bytes is None,
        "One ML-DSA certificate takes about 5 KB, about seven times one of today's, and the chain twice that.",
        "RFC 9881",
        "Measure the free space of the target and answer target_free_bytes.",
    ),
    Rule(
        "G-KEY-06",
        "discouraged",
        "ML-DSA as the only identity",
        lambda c: _pqc(c),
        "Many servers and libraries in the field cannot verify ML-DSA yet; a device that has nothing else may be "
        "unable to connect.",
        "RFC 9881; birthmark: post-quantum as a second chain",
        "Give the device a second, classical identity.",
    ),
    Rule(
        "G-KEY-07",
        "discouraged",
        "Few tokens know this algorithm",
        lambda c: (
            c.a.storage in ("hsm", "tee") and (_pqc(c) or (c.key_algorithm == "ed25519" and c.target != "pkcs11"))
        ),
        "The chip has to make and use a {c.key_algorithm} key itself, and few chips can.",
        "birthmark: algorithms seen in tokens",
        "Prove it with the very chip before ordering boards, or use p256.",
    ),
)
