"""The nouns of the command line, in the order in which people meet them, and the first screen that shows them.

It imports nothing, so that somebody who asks what there is gets the answer at once.
"""

from __future__ import annotations

__all__ = ["NOUNS", "PARTS", "first_screen"]

PARTS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "See it first",
        (
            ("demo", "demo", "A CA, 1,000 identities, a line of 4 heads, cheats, an audit"),
            ("demo-factories", "demofactories", "An authority and three factories; two of them cheat"),
        ),
    ),
    (
        "Decide and set up",
        (
            ("plan", "plan", "Eight questions in, a plan or named refusals out"),
            ("init", "init", "Make a workspace, from a plan or from a profile"),
            ("ceremony", "ceremony", "Make, roll over and destroy CA keys by one reviewed file"),
            ("ca", "ca", "CAs: requests, imports, revocation lists"),
            ("profile", "profile", "Look at what goes into a certificate, and lint it"),
            ("approval", "approval", "Dual control: n of m people approve an exact act"),
        ),
    ),
    (
        "Order and make",
        (
            ("order", "order", "Say which devices shall exist, and make their identities"),
            ("preload", "preload", "Take in identities that a chip vendor preloads"),
        ),
    ),
    (
        "At the line",
        (
            ("station", "station", "Install identities into devices and prove them"),
            ("line", "lineview", "The operator's screen: scan, PASS or FAIL, next device"),
            ("agent", "agent", "The same for a test executive, by HTTP on this machine"),
            ("label", "label", "Print and check which device is in the box"),
            ("image", "image", "Firmware images with an identity in them"),
            ("device", "device", "One device: where it stands, rework, scrap"),
        ),
    ),
    (
        "Factories that work for you",
        (
            ("site", "site", "Take sites in, bring their reports home"),
            ("bundle", "bundle", "Orders sealed for the sites that make them"),
            ("access", "access", "Who is let in to the service, and its own certificate"),
            ("serve", "serve", "Serve sites over HTTPS"),
        ),
    ),
    (
        "Clouds",
        (
            ("register", "register", "Tell clouds of devices, and compare what they hold"),
            ("export", "export", "The same for a registry of your own, as files"),
        ),
    ),
    (
        "Check",
        (
            ("audit", "audit", "Verify the record, prove one device, write the evidence"),
            ("ledger", "ledger", "The log of events and the tables that follow from it"),
            ("witness", "witness", "Cosign the heads of other logs"),
        ),
    ),
    (
        "Test and measure",
        (
            ("emulate", "emulate", "Clouds on this machine, for tests"),
            ("bench", "bench", "Measure the product beside a floor in the same run"),
        ),
    ),
)
"""Heading → (noun, module below ``birthmark.shell.cli``, one line that fits into 80 columns)."""

NOUNS: dict[str, str] = {noun: module for _, part in PARTS for noun, module, _ in part}
"""Noun → module below ``birthmark.shell.cli``."""

_HEAD = """\
birthmark gives every IoT device its own X.509 identity at the moment it is
made, and proves it.

Usage: birthmark COMMAND …            birthmark COMMAND --help tells more of it
"""
_TAIL = """\

A first workspace (secrets are named, never arguments):
  export BIRTHMARK_PASSPHRASE="a long passphrase"
  birthmark init acme --maker "Acme" --profile tls-client --value pen=99999
Every command says what happened and what comes next; with --json it says it to
a program. The exit code says who must act: 0 nobody, 2 whoever wrote the
command or the file, 3 the request is wrong, 4 this device is bad, 5 the station
is, 6 repeat it later, 7 stop the line."""


def first_screen() -> str:
    """Return what there is, in the order in which people meet it; no line is longer than 80 columns."""
    lines = [_HEAD]
    for heading, part in PARTS:
        lines.append(f"{heading}:")
        lines += [f"  {noun:<15} {line}" for noun, _, line in part]
    return "\n".join([*lines, _TAIL])
