"""Rules: connectivity of the factory, when to generate, when to install."""

from __future__ import annotations

from birthmark.guide.case import Case
from birthmark.guide.rule import Rule

__all__ = ["RULES"]

_INSTALL = "Azure IoT, Installing certificates into IoT devices"
_MODES = "birthmark: three connectivity modes, one station"


def _offline(c: Case) -> bool:
    return c.a.connectivity != "online"


RULES: tuple[Rule, ...] = (
    Rule(
        "G-CON-01",
        "recommended",
        "Connected factory",
        lambda c: c.a.connectivity == "online" and c.source == "online",
        "Certificates are made when a device needs one: nothing lies in stock that could be stolen or used twice.",
        _INSTALL,
    ),
    Rule(
        "G-CON-02",
        "allowed",
        "CA on site",
        lambda c: c.source == "factory_ca",
        "The site signs by itself, so its CA is kept narrow: no CA below it (path length 0), your names only, a short "
        "life, a quota per order; everything it signs comes home in a report that can be proven.",
        "RFC 5280 §4.2.1.9 and §4.2.1.10; birthmark: site CA",
        "Agree with the factory who may touch the token, and how often the report travels.",
    ),
    Rule(
        "G-CON-03",
        "allowed",
        "Identities made ahead of time",
        lambda c: c.source == "pool",
        "Keys and certificates wait in a pool sealed to the site. Each is drawn exactly once; leftovers are destroyed, "
        "with a record.",
        _MODES,
        "Order as many as the lot needs plus scrap, and set a date for destroying leftovers.",
    ),
    Rule(
        "G-CON-04",
        "refused",
        "On demand online in a factory that is offline",
        lambda c: _offline(c) and c.generate == "on_demand_online",
        "The factory has no connection, so nobody can be asked for a certificate while the line runs.",
        _INSTALL,
        "Use a factory CA or identities made ahead of time, or connect the factory.",
    ),
    Rule(
        "G-CON-05",
        "refused",
        "On demand offline with nobody there who may sign",
        lambda c: (
            c.generate == "on_demand_offline"
            and c.a.connectivity == "offline_prepared"
            and c.a.root == "third_party_service"
        ),
        "The service signs at its own place and the factory holds no CA: nothing can be signed on site.",
        _INSTALL,
        "Have identities made ahead of time, or obtain a CA for the site and answer offline_factory_ca.",
    ),
    Rule(
        "G-CON-06",
        "allowed",
        "Offline PKI on site",
        lambda c: (
            c.generate == "on_demand_offline"
            and c.a.connectivity == "offline_prepared"
            and c.a.root in ("self_managed", "bought_intermediate")
        ),
        "A PKI that runs offline at the factory is a site CA and is treated as one, with the same limits.",
        _INSTALL,
    ),
    Rule(
        "G-CON-07",
        "discouraged",
        "A CA on site although the factory is connected",
        lambda c: c.a.connectivity == "online" and c.source == "factory_ca",
        "A CA key in a factory is a risk that a connected factory does not need to take.",
        _MODES,
        "Sign centrally; keep a sealed pool for the hours without a connection.",
    ),
    Rule(
        "G-CON-08",
        "discouraged",
        "A pool although certificates could be made on demand",
        lambda c: (
            c.source == "pool"
            and c.a.connectivity in ("online", "offline_factory_ca")
            and c.a.when_to_generate == "ahead_of_time"
        ),
        "Keys lie in stock, and stock can be stolen, although the factory could make each one when it is needed.",
        _INSTALL,
        "Leave when_to_generate to the guide, unless a bad connection forces the pool.",
    ),
    Rule(
        "G-CON-09",
        "allowed",
        "Pool because the service is slow",
        lambda c: (
            c.source == "pool"
            and c.a.when_to_generate == "derive"
            and c.a.root == "third_party_service"
            and c.a.connectivity != "offline_prepared"
        ),
        "The lines make {c.devices_per_day:,} devices a day, the service signs {c.f.third_party_rate_per_day:,}: the "
        "identities are collected ahead of time.",
        "birthmark: third-party rate against the line",
    ),
    Rule(
        "G-GEN-01",
        "recommended",
        "Key and request born in the device",
        lambda c: c.key_origin == "device" and c.source in ("online", "factory_ca"),
        "The device makes its own key and signs a request with it; its public certificate is read back for "
        "registration. Nobody, not even the line, ever holds the key.",
        "RFC 2986; Azure IoT, Installing certificates into IoT devices",
    ),
    Rule(
        "G-GEN-02",
        "allowed",
        "Key injected by the station",
        lambda c: c.key_origin == "injected",
        "The key exists outside the device for a moment. It travels sealed, is drawn once, installed, and erased with "
        "a record.",
        "RFC 9180; birthmark: sealed pools",
    ),
    Rule(
        "G-GEN-03",
        "discouraged",
        "Requests travel to a remote CA",
        lambda c: c.source == "csr_travel" and c.f.csr_travel == "accepted",
        "The key is born in the device and nobody on site may sign: requests are collected, carried out, signed, and "
        "the certificates carried back. Every device is touched twice.",
        "birthmark: CSR travel",
        "Put a factory CA on site (offline_factory_ca) if your root allows one.",
    ),
    Rule(
        "G-GEN-04",
        "refused",
        "Requests would have to travel, and that was ruled out",
        lambda c: c.source == "csr_travel" and c.f.csr_travel == "refused",
        "The key is born in the device, the factory is offline and holds no CA, and you do not want to touch every "
        "device twice. There is no third way.",
        "birthmark: CSR travel",
        "Put a factory CA on site, connect the factory, or buy preloaded chips.",
    ),
    Rule(
        "G-GEN-05",
        "recommended",
        "Preloaded by the chip vendor",
        lambda c: c.generate == "preloaded" and c.a.storage == "hsm",
        "The vendor installs certificates below yours into every chip it sells you. The line receives the vendor's "
        "signed manifest, checks it, and checks each mounted chip against it. Easiest, a little dearer.",
        _INSTALL,
        "Give the vendor a signing certificate that is narrow: path length 0, your names, a quota.",
    ),
    Rule(
        "G-GEN-06",
        "refused",
        "Preloaded without a chip",
        lambda c: c.generate == "preloaded" and c.a.storage != "hsm",
        "Only a chip can be bought with an identity inside; a file system, a TEE or a plug-in is empty when it reaches "
        "the line.",
        _INSTALL,
        'Answer storage = "hsm", or another way to generate.',
    ),
    Rule(
        "G-GEN-07",
        "discouraged",
        "Certificate from the cloud, over a connection only the line has",
        lambda c: c.source == "cloud" and c.generate == "on_demand_online" and c.a.connectivity == "online",
        "Each device fetches its first certificate from the cloud while it stands on the line: the takt of the line "
        "depends on the cloud's answer, and the certificate ages in the warehouse.",
        "Azure IoT, certificate issuance",
        "Let the device fetch its certificate when it first connects in the field.",
    ),
    Rule(
        "G-INS-01",
        "recommended",
        "One touch on the line",
        lambda c: c.install == "line_tool" and c.source in ("online", "factory_ca", "pool"),
        "Every device is touched once anyway, for its firmware and the last test. The same tool installs the identity, "
        "reads it back and lets the device prove its key.",
        _INSTALL,
    ),
    Rule(
        "G-INS-02",
        "allowed",
        "With the firmware image",
        lambda c: c.install == "firmware_image" and c.key_origin == "injected",
        "Each device gets its own image. The image holds a private key, so it is a secret from the build to the flash, "
        "and the same image in two devices is the accident to prevent.",
        _INSTALL,
        "Build the image at the station, flash it, erase it; never keep it as a build artefact.",
    ),
    Rule(
        "G-INS-03",
        "refused",
        "Image for a key that does not exist yet",
        lambda c: c.install == "firmware_image" and c.key_origin == "device" and c.generate != "preloaded",
        "The key is born in the device after the image is written, so the image cannot hold a certificate for it.",
        "birthmark: a key born inside never leaves",
        "Install with the line tool: it flashes, lets the device make its key, and writes the certificate.",
    ),
    Rule(
        "G-INS-04",
        "refused",
        "Preloaded and installed once more",
        lambda c: c.generate == "preloaded" and c.install != "preloaded",
        "The chip arrives with its identity; there is nothing left to install.",
        _INSTALL,
        'Answer when_to_install = "preloaded" or leave it to the guide; the line only checks.',
    ),
    Rule(
        "G-INS-05",
        "refused",
        "Installed by nobody",
        lambda c: c.install == "preloaded" and c.generate != "preloaded",
        "The certificate is not made by the chip vendor, so it is not in the chip, and nothing on the line would "
        "install it.",
        _INSTALL,
        'Answer when_to_generate = "preloaded", or let the line tool install it.',
    ),
    Rule(
        "G-INS-06",
        "allowed",
        "Line tool and a cloud-run PKI",
        lambda c: c.install == "line_tool" and c.source == "cloud" and c.generate in ("by_cloud", "in_device"),
        "The line tool installs no certificate: it reads the device's id and hands it over for registration.",
        "birthmark: cloud-run root",
    ),
)
