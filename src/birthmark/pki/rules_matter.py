"""Matter device attestation: DAC, PAI and PAA (Matter Core Specification 1.x, 6.2.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from birthmark.pki.expected import usage_bits
from birthmark.pki.lintcase import Case, Rule, Severity

__all__ = ["MATTER_PID", "MATTER_RULES", "MATTER_VID", "MatterIds", "matter_ids"]

MATTER_VID = x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.1")
MATTER_PID = x509.ObjectIdentifier("1.3.6.1.4.1.37244.2.2")
_ID = re.compile(r"[0-9A-F]{4}")
_CN_OCTETS = 64
_KEY_ID_OCTETS = 20
_MAX_OCTETS = 600
_ROLE = {"end-entity": "DAC", "issuing-ca": "PAI", "root-ca": "PAA"}


@dataclass(frozen=True, slots=True)
class MatterIds:
    """The vendor and product id in a name (None: absent), and what is wrong with how they are written."""

    vid: str | None
    pid: str | None
    faults: tuple[str, ...]


def matter_ids(name: x509.Name) -> MatterIds:
    """Read VendorID and ProductID: the Matter attributes, else ``Mvid:``/``Mpid:`` in the common name."""
    vids = [str(attribute.value) for attribute in name.get_attributes_for_oid(MATTER_VID)]
    pids = [str(attribute.value) for attribute in name.get_attributes_for_oid(MATTER_PID)]
    faults = [f"{value!r} is not four upper-case hex digits" for value in vids + pids if not _ID.fullmatch(value)]
    faults += [f"{what} stands {len(found)} times" for what, found in (("VID", vids), ("PID", pids)) if len(found) > 1]
    if vids or pids:
        if pids and not vids:
            faults.append("PID is an attribute, so VID must be one too")
        return MatterIds(vids[0] if vids else None, pids[0] if pids else None, tuple(faults))
    names = [str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    text = (names[0] if names else "").encode()[:_CN_OCTETS].decode("utf-8", "replace")
    found: dict[str, str | None] = {}
    for prefix in ("Mvid:", "Mpid:"):
        match = re.search(prefix + "([0-9A-F]{4})", text)
        found[prefix] = match[1] if match else None
        if match is None and prefix in text:
            faults.append(f"{prefix} in the common name is never followed by four upper-case hex digits")
    return MatterIds(found["Mvid:"], found["Mpid:"], tuple(faults))


def _role(case: Case) -> str:
    return _ROLE[case.profile.kind]


def _version(case: Case) -> Iterator[str]:
    if case.cert.version is not x509.Version.v3:
        yield "not version 3"


def _signature(case: Case) -> Iterator[str]:
    if case.signature != "ecdsa-with-SHA256":
        yield f"signature algorithm {case.signature}"


def _key(case: Case) -> Iterator[str]:
    if case.kind != "p256":
        yield f"a key of kind {case.kind}"


def _basic_constraints(case: Case) -> Iterator[str]:
    basic, role = case.value(x509.BasicConstraints), _role(case)
    if basic is None or not case.critical(x509.BasicConstraints):
        yield "basicConstraints is missing or not critical"
        return
    if basic.ca != (role != "DAC"):
        yield f"cA is {basic.ca} in a {role}"
    allowed: dict[str, set[int | None]] = {"DAC": {None}, "PAI": {0}, "PAA": {None, 1}}
    if basic.path_length not in allowed[role]:
        yield f"pathLenConstraint is {basic.path_length} in a {role}"


def _key_usage(case: Case) -> Iterator[str]:
    usage, role = case.value(x509.KeyUsage), _role(case)
    if usage is None or not case.critical(x509.KeyUsage):
        yield "keyUsage is missing or not critical"
        return
    bits = usage_bits(usage)
    good = bits == {"digitalSignature"} if role == "DAC" else bits - {"digitalSignature"} == {"keyCertSign", "cRLSign"}
    if not good:
        yield f"keyUsage is {', '.join(sorted(bits))} in a {role}"


def _ski(case: Case) -> Iterator[str]:
    found = case.value(x509.SubjectKeyIdentifier)
    if found is None or case.critical(x509.SubjectKeyIdentifier) or len(found.digest) != _KEY_ID_OCTETS:
        yield "subjectKeyIdentifier is missing, critical or not 20 octets"


def _aki(case: Case) -> Iterator[str]:
    if _role(case) == "PAA":
        return
    found = case.value(x509.AuthorityKeyIdentifier)
    octets = len(found.key_identifier or b"") if found else 0
    if found is None or case.critical(x509.AuthorityKeyIdentifier) or octets != _KEY_ID_OCTETS:
        yield "authorityKeyIdentifier is missing, critical or not 20 octets"


def _id_form(case: Case) -> Iterator[str]:
    yield from matter_ids(case.cert.subject).faults


def _ids_present(case: Case) -> Iterator[str]:
    ids, role = matter_ids(case.cert.subject), _role(case)
    if ids.vid is None and role != "PAA":
        yield f"no VID in the subject of a {role}"
    if ids.pid is None and role == "DAC":
        yield "no PID in the subject of a DAC"
    if ids.pid is not None and role == "PAA":
        yield "a PID in the subject of a PAA"


def _ids_match(case: Case) -> Iterator[str]:
    if _role(case) == "PAA":
        return
    ours, theirs = matter_ids(case.cert.subject), matter_ids(case.issuer.subject)
    if theirs.vid is not None and ours.vid != theirs.vid:
        yield f"VID {ours.vid} under an issuer of VID {theirs.vid}"
    if theirs.vid is None and _role(case) == "DAC":
        yield "the issuer of a DAC has no VID"
    if theirs.pid is not None and ours.pid != theirs.pid:
        yield f"PID {ours.pid} under an issuer of PID {theirs.pid}"


def _issuer_is_pai(case: Case) -> Iterator[str]:
    if _role(case) == "DAC" and case.issuer.subject == case.issuer.issuer:
        yield "a DAC straight under a root: the chain must be DAC, PAI, PAA"


def _chain_time(case: Case) -> Iterator[str]:
    start = case.cert.not_valid_before_utc
    if not case.issuer.not_valid_before_utc <= start <= case.issuer.not_valid_after_utc:
        yield "the issuer is not valid at this notBefore, the time at which the chain is verified"


def _size(case: Case) -> Iterator[str]:
    if len(case.der) > _MAX_OCTETS:
        yield f"{len(case.der)} octets"


def _matter(code: str, clause: str, says: str, check: Callable[[Case], Iterable[str]]) -> Rule:
    return Rule(f"matter.{code}", Severity.ERROR, f"Matter Core, {clause}", says, check, "matter")


MATTER_RULES: tuple[Rule, ...] = (
    _matter("version", "6.2.2", "Version 3.", _version),
    _matter("signature", "6.2.2", "ecdsa-with-SHA256 alone.", _signature),
    _matter("key", "6.2.2", "P-256 alone.", _key),
    _matter(
        "basic_constraints",
        "6.2.2.3 to 6.2.2.5",
        "Critical; DAC: no CA; PAI: CA with path length 0; PAA: CA with path length 1 or none.",
        _basic_constraints,
    ),
    _matter(
        "key_usage",
        "6.2.2.3 to 6.2.2.5",
        "Critical; DAC: digitalSignature alone; PAI, PAA: keyCertSign and cRLSign, digitalSignature if wanted.",
        _key_usage,
    ),
    _matter("ski", "6.2.2", "subjectKeyIdentifier of 20 octets, not critical.", _ski),
    _matter("aki", "6.2.2", "DAC, PAI: authorityKeyIdentifier of 20 octets, not critical.", _aki),
    _matter("id_form", "6.2.2.2", "VID and PID: once, four upper-case hex digits, both as attributes.", _id_form),
    _matter("ids", "6.2.2.3 to 6.2.2.5", "DAC: VID and PID; PAI: VID; PAA: no PID.", _ids_present),
    _matter("ids_match", "6.2.3.1", "VID is the issuer's; PID too when the issuer has one.", _ids_match),
    _matter("chain", "6.2.3.1", "A DAC stands below a PAI, not below a root.", _issuer_is_pai),
    _matter("chain_time", "6.2.3.1", "The issuer is valid at notBefore.", _chain_time),
    _matter("size", "6.1.3", "At most 600 octets.", _size),
)
"""Rules for profiles that name a Matter attribute or have the word ``matter`` in their name."""
