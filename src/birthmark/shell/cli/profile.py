"""``birthmark profile``: what goes into a certificate, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from birthmark.errors import Misconfigured, Refused
from birthmark.shell.cli.options import JsonOption
from birthmark.shell.cli.screen import emit, table

if TYPE_CHECKING:
    from birthmark.pki.lint import Finding
    from birthmark.pki.profile import Profile

__all__ = ["register"]

_MAX_OCTETS = 64 * 1024
_SPECIMEN_SERIAL = b"\x01specimen-serial"
_EXAMPLE_VALUES = {
    "maker": "Example Maker",
    "ca_name": "Example CA",
    "vid": "FFF1",
    "pid": "8000",
    "pen": "32473",
    "hw_type": "1.3.6.1.4.1.32473.1.1",
}
"""Values for the specimen: test ids of Matter, and the Private Enterprise Number for examples (RFC 5612)."""

ProfileArgument = Annotated[
    str, typer.Argument(help="A preset's name or a profile file (TOML).", metavar="FILE|PRESET")
]
ValueOption = Annotated[
    list[str] | None, typer.Option("--value", help="A placeholder's value for the specimen: name=text.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    profiles = typer.Typer(help="Profiles: what goes into a certificate.", no_args_is_help=True)
    profiles.command("lint")(lint)
    profiles.command("show")(show)
    profiles.command("list")(list_profiles)
    app.add_typer(profiles, name="profile")


def lint(profile: ProfileArgument, value: ValueOption = None, as_json: JsonOption = False) -> None:
    """Lint a profile and specimens of it, one for each kind of key. Exit 0: clean, 3: something to mend."""
    from birthmark.pki.lint import lint_profile, unallowed

    opened = _open(profile)
    found = [*lint_profile(opened), *_specimen_findings(opened, _EXAMPLE_VALUES | _values(value))]
    found = sorted(dict.fromkeys(found), key=lambda finding: (-finding.severity, finding.code, finding.message))
    bad = unallowed(found, opened)
    reasons = {exception.code: exception.reason for exception in opened.exceptions}
    document: dict[str, object] = {
        "profile": opened.name,
        "clean": not bad,
        "findings": [{**finding.document(), "exception": reasons.get(finding.code)} for finding in found],
    }
    rows = [
        (
            finding.severity.name.lower() + ("\naccepted" if finding.code in reasons else ""),
            _text(finding, reasons.get(finding.code)),
        )
        for finding in found
    ]
    verdict = f"{len(bad)} to mend" if bad else "clean"
    emit(
        document,
        table(f"{opened.name}: {verdict}", ("severity", "finding"), rows),
        as_json=as_json,
    )
    if bad:
        raise typer.Exit(Refused.exit_code)


def _text(finding: Finding, reason: str | None) -> str:
    lines = [finding.code, finding.message, f"see {finding.citation}"]
    return "\n".join(lines if reason is None else [*lines, f"accepted, since: {reason}"])


def show(profile: ProfileArgument) -> None:
    """Print a profile as one JSON object, every default filled in (the form that is hashed)."""
    print(_open(profile).canonical_json().decode())


def list_profiles(as_json: JsonOption = False) -> None:
    """List the presets."""
    from birthmark.pki.profile import load_preset, preset_names

    presets = [load_preset(name) for name in preset_names()]
    rows = [(preset.name, preset.kind, preset.description, ", ".join(preset.key_algorithms)) for preset in presets]
    keys = ("name", "kind", "description", "key_algorithms")
    emit(
        {"presets": [dict(zip(keys, row, strict=True)) for row in rows]},
        table("Presets", ("name", "kind", "what it is", "keys"), rows),
        as_json=as_json,
    )


def _open(name: str) -> Profile:
    from birthmark.pki.profile import load_preset, parse_profile, preset_names

    if name in preset_names() or not (name.endswith(".toml") or "/" in name or Path(name).is_file()):
        return load_preset(name)
    try:
        with Path(name).open("rb") as file:
            return parse_profile(file.read(_MAX_OCTETS + 1))
    except OSError as error:
        raise Misconfigured(
            "profile.file",
            f"the profile file {name} cannot be read: {error.strerror}",
            hint="Give the path of a profile file, or a name of birthmark profile list.",
            path=name,
        ) from error


def _values(options: list[str] | None) -> dict[str, str]:
    pairs = [option.partition("=") for option in options or []]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise Misconfigured(
                "profile.value_option",
                f"--value {name!r} is not name=text",
                hint="Write --value name=text, once for each placeholder.",
                option=name,
            )
    return {name: text for name, _, text in pairs}


def _specimen_findings(profile: Profile, values: Mapping[str, str]) -> list[Finding]:
    """Return the findings on one specimen for each kind of key, under specimen CAs."""
    from birthmark.pki.lint import lint_certificate

    filled = {name: values.get(name, "Example") for name in profile.placeholders()}
    serial = profile.device_serial.example if profile.device_serial else None
    found: list[Finding] = []
    for kind in profile.key_algorithms:
        der, issuer_der = _specimen(profile, kind, filled)
        found += lint_certificate(der, issuer_der=issuer_der, profile=profile, device_serial=serial, values=filled)
    return found


def _specimen(profile: Profile, kind: str, values: Mapping[str, str]) -> tuple[bytes, bytes]:
    """Return a certificate of the profile and its issuer's (DER)."""
    from birthmark.pki.rules_profile import rulesets_of

    if profile.kind == "root-ca":
        der = _filled(profile, kind, values, None)
        return der, der
    allowed = profile.issuer_key_algorithms
    issuer_kind = kind if not allowed or kind in allowed else allowed[0]
    matter = "matter" in rulesets_of(profile)
    issuer_der = _specimen_ca(issuer_kind, matter, profile.kind == "end-entity", values.get("vid"))
    return _filled(profile, kind, values, issuer_der), issuer_der


@cache
def _specimen_ca(kind: str, matter: bool, issuing: bool, vid: str | None) -> bytes:
    """Return the certificate of a CA that no one has the key of: a root's, or an issuing CA's below it."""
    from birthmark.pki.profile import load_preset

    values = {**_EXAMPLE_VALUES, "ca_name": "Example Root", "vid": vid or _EXAMPLE_VALUES["vid"]}
    root = _filled(load_preset("matter-paa" if matter else "root-ca"), kind, values, None)
    if not issuing:
        return root
    between = load_preset("matter-pai" if matter else "issuing-ca")
    return _filled(between, kind, {**values, "ca_name": "Example Issuing CA"}, root)


def _filled(profile: Profile, kind: str, values: Mapping[str, str], issuer_der: bytes | None) -> bytes:
    """Return a certificate with a fresh key. Only a root is signed; lint looks at everything else."""
    from cryptography import x509

    from birthmark.pki.algorithms import algorithm_named, spki_of
    from birthmark.pki.filler import assemble
    from birthmark.pki.template import compile_root_template, compile_template

    algorithm = algorithm_named(kind)
    private_key, now = algorithm.generate(), datetime.now(UTC)
    key = private_key.public_key()
    if issuer_der is None:
        template = compile_root_template(profile, public_key=key, not_before=now, product_values=values)
    else:
        template = compile_template(
            profile,
            issuer_certificate=x509.load_der_x509_certificate(issuer_der),
            not_before=now,
            product_values=values,
            key_algorithm=kind,
        )
    serial = profile.device_serial.example.encode() if profile.device_serial else b""
    spki = spki_of(key)
    tbs = template.filler(len(serial)).checked_fill(_SPECIMEN_SERIAL, serial, spki, algorithm.key_id(spki))
    signer = template.issuer_algorithm
    signature = signer.sign(private_key, tbs) if issuer_der is None else bytes(signer.max_signature)
    return assemble(tbs, signer.signature_algorithm, signature)
