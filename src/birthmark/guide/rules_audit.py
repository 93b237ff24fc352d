"""Rules: audit and secure rooms."""

from __future__ import annotations

from birthmark.guide.rule import Rule

__all__ = ["RULES"]

_INSTALL = "Azure IoT, Installing certificates into IoT devices"
_ROOM = "birthmark: secure room; GSMA SAS-UP, CA/Browser Forum BR 5.2.2"

RULES: tuple[Rule, ...] = (
    Rule(
        "G-AUD-01",
        "allowed",
        "No audit asked for",
        lambda c: not c.sensitive,
        "The log is kept all the same, since it costs nothing; only persons and rooms are left out.",
        "birthmark: events are the truth",
    ),
    Rule(
        "G-AUD-02",
        "recommended",
        "Secure room under dual control",
        lambda c: c.sensitive and c.f.secure_room == "line_in_room",
        "Two persons for every use of a CA key and every bundle, witnesses for the log, and a report of evidence for "
        "the auditor. It costs real money: do it where a rule asks for it.",
        _ROOM,
    ),
    Rule(
        "G-AUD-03",
        "refused",
        "Secure room and a station elsewhere",
        lambda c: c.sensitive and c.f.secure_room == "remote",
        "Identities have to be installed inside the secure room, but the station stands outside it: what the auditor "
        "certifies is not what happens.",
        _ROOM,
        "Bring the station into the room, or let the room reach to the line.",
    ),
    Rule(
        "G-AUD-04",
        "refused",
        "CA on site with a software key, sensitive product",
        lambda c: c.sensitive and c.source == "factory_ca" and c.ca_key == "file",
        "In a sensitive production the site's CA key must not be copyable, and a file can be copied by one person in a "
        "second.",
        _ROOM,
        'Put the site CA\'s key into a token: ca_key = "pkcs11".',
    ),
    Rule(
        "G-AUD-05",
        "refused",
        "CA on site without an audit, regulated product",
        lambda c: not c.sensitive and c.f.regulated == "yes" and c.source == "factory_ca",
        "Regulation asks for a traceable record, and the one place that can make devices would work without dual "
        "control or evidence.",
        _ROOM,
        'Answer audit = "sensitive", or sign centrally.',
    ),
    Rule(
        "G-AUD-06",
        "discouraged",
        "Regulated product without an audit",
        lambda c: not c.sensitive and c.f.regulated == "yes" and c.source != "factory_ca",
        "Regulation asks for a traceable record of how identities are installed; without persons and rooms it may not "
        "be accepted.",
        _INSTALL,
        "Ask the legal department whether the plain log is enough.",
    ),
    Rule(
        "G-AUD-07",
        "allowed",
        "Ask the legal department",
        lambda c: not c.sensitive and c.f.regulated == "unknown",
        "Nobody has said whether regulation demands a traceable record. Adding an audit later means new rooms and new "
        "people.",
        _INSTALL,
        "Ask, then answer regulated.",
    ),
    Rule(
        "G-AUD-08",
        "discouraged",
        "Sensitive product and a key outside secure hardware",
        lambda c: c.sensitive and c.a.storage in ("file_system", "plugin"),
        "The room is guarded, but afterwards whoever reads the device's storage has its identity.",
        _INSTALL,
        "Spend the money on a chip first, then on the room.",
    ),
    Rule(
        "G-AUD-09",
        "allowed",
        "Sensitive product and foreign hands",
        lambda c: c.sensitive and c.source in ("vendor", "csr_travel", "cloud"),
        "A part of the work happens outside your room: at the chip vendor, on the road, or in the cloud. The auditor "
        "will ask for their evidence too.",
        _ROOM,
        "Obtain the vendor's certification, or seal and count what travels, under two persons.",
    ),
    Rule(
        "G-AUD-10",
        "allowed",
        "Audit although nothing asks for it",
        lambda c: c.sensitive and c.f.regulated == "no",
        "A secure room costs real money, and you say that no regulation asks for it.",
        _INSTALL,
        "Ask the legal department before you build the room.",
    ),
)
