"""An authority and its sites meet: request, grant, acceptance, in all three modes, and what goes wrong on the way."""

from __future__ import annotations

import shutil
import ssl
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.pki.algorithms import spki_of
from birthmark.pki.request import unnamed_request
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.wire.document import document_text
from birthmark.wire.site import Grant, SiteRequest, open_grant, open_request, sign_grant, sign_request
from support.siteworld import SiteWorld, make_authority, openssl, order_at_site, run

MODES = ("online", "factory_ca", "pool")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("authority")
    make_authority(place)
    return place / "hq"


@pytest.fixture
def world(authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> SiteWorld:
    shutil.copytree(authority, tmp_path / "hq")
    text = (tmp_path / "hq" / "birthmark.toml").read_text()
    (tmp_path / "hq" / "birthmark.toml").write_text(text.replace(str(authority), str(tmp_path / "hq")))
    return SiteWorld(tmp_path, capsys)


def request_with(world: SiteWorld, name: str, **changes: Any) -> Path:
    """Return the request of a site with other members, signed by the site's own key."""
    path = world.place / name / "site-request.note"
    request = msgspec.structs.replace(open_request(path.read_bytes()), **changes)
    with open_workspace(world.place / name, publish=False) as site:
        path.write_bytes(sign_request(request, site.private_key(site.settings.log.key)))
    return path


def grant_with(world: SiteWorld, grant: Path, **changes: Any) -> Path:
    """Return a grant with other members, signed by the authority's own key."""
    changed = msgspec.structs.replace(open_grant(grant.read_bytes(), None), **changes)
    path = world.place / "changed.note"
    with open_workspace(world.hq, publish=False) as hq:
        path.write_bytes(sign_grant(changed, hq.private_key(hq.settings.log.key)))
    return path


def entries(root: Path) -> int:
    with open_workspace(root, publish=False) as opened:
        return opened.ledger.head().size


@pytest.mark.parametrize("mode", MODES)
def test_a_site_meets_its_authority(world: SiteWorld, mode: str) -> None:
    request = world.init("fab", mode, "--station", "line1", "--station", "line2")
    added = world.good("site", "add", request, "-C", world.hq, "--url", "https://hq.example:8443")
    assert added["stations"] == ["line1", "line2"]
    assert added["cas"] == (["fab-ca-1"] if mode == "factory_ca" else [])
    vkey = (world.hq / "log" / "vkey").read_text().strip()
    accepted = world.good("site", "accept", added["grant"], "-C", world.place / "fab", "--authority-vkey", vkey)
    assert (accepted["mode"], accepted["vkey"], accepted["products"]) == (mode, vkey, ["device"])
    with open_workspace(world.place / "fab", publish=False) as site, open_workspace(world.hq, publish=False) as hq:
        known = site.records.authority()
        assert (known.authority, known.vkey, known.mode) == (hq.settings.origin, vkey, mode)
        assert site.settings.authority.url == "https://hq.example:8443"
        ca = site.product("device").ca
        assert ca == ("fab-ca-1" if mode == "factory_ca" else "issuing")
        assert site.chain(ca) == hq.chain(ca)
        assert site.profile("tls-client") == hq.profile("tls-client")
        record = hq.records.site("fab")
        assert (record.mode, record.vkey) == (mode, site.root.joinpath("log/vkey").read_text().strip())
        assert set(hq.records.stations()) == {"line1", "fab/line1", "fab/line2"}
        assert hq.records.stations()["fab/line1"] == site.records.stations()["line1"]


@pytest.mark.parametrize("mode", MODES)
def test_openssl_accepts_station_certificates_as_tls_clients(world: SiteWorld, mode: str) -> None:
    site = world.join("fab", mode)
    world.good("access", "server", "--name", "hq.example", "--name", "127.0.0.1", "-C", world.hq)
    clients, line = world.hq / "serve" / "clients.pem", site / "tls" / "line1.pem"
    openssl("verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslclient", "-CAfile", clients, line)
    subject = openssl("x509", "-in", line, "-noout", "-subject", "-nameopt", "multiline")
    assert "commonName                = fab/line1" in subject


def test_a_station_and_the_service_shake_hands(world: SiteWorld) -> None:
    """With what `access server` and `site accept` wrote, and nothing else."""
    site = world.join("fab", "online")
    world.good("access", "server", "--name", "hq.example", "--name", "::1", "-C", world.hq)
    served = world.hq / "serve"
    assert stat.S_IMODE((served / "server.key").stat().st_mode) == 0o600
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(served / "server.pem", served / "server.key")
    server.load_verify_locations(served / "clients.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(site / "tls" / "service-ca.pem"))
    passphrase = (world.hq / "secrets" / "passphrase").read_text()
    client.load_cert_chain(site / "tls" / "line1.pem", site / "keys" / "tls-line1.pem", password=passphrase)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname="hq.example")
    theirs = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for end in (ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = theirs.getpeercert(binary_form=True)
    assert shown is not None
    key = x509.load_der_x509_certificate(shown).public_key()
    with open_workspace(world.hq, publish=False) as hq:
        record = hq.records.access(sha256(spki_of(key)).hexdigest())
    assert (record.name, record.role, record.site) == ("fab/line1", "station", "fab")


def test_openssl_and_gnutls_accept_a_device_of_the_site_ca(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    order_at_site(site, "lot", "TH-1", 2)
    world.good("order", "make", "lot", "--processes", "1", "-C", site)
    out = world.place / "TH-1"
    out.mkdir()
    options = ("--target", f"files:{out}", "--handshake", "-C", site)
    assert world.good("station", "provision", "--device-serial", "TH-1", *options)["status"] == "pass"
    root, ca = world.hq / "ca" / "root.pem", site / "ca" / "fab-ca-1.pem"
    openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", root, ca)
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", ca, out / "device.crt")
    chain = world.place / "chain.pem"
    chain.write_bytes((out / "device.crt").read_bytes() + ca.read_bytes())
    judged = run("certtool", "--verify", "--load-ca-certificate", root, "--infile", chain)
    assert "Verified. The certificate is trusted." in judged
    shown = openssl("x509", "-in", ca, "-noout", "-text")
    assert "CA:TRUE, pathlen:0" in shown
    assert "Private Key Usage Period" in shown
    device = x509.load_pem_x509_certificate((out / "device.crt").read_bytes())
    with open_workspace(site, publish=False) as opened:
        assert device.serial_number.to_bytes(16, "big")[:2].hex() == opened.settings.site_prefix
        assert opened.settings.site_prefix != "0101"


def test_a_key_born_in_the_device_gets_its_certificate_from_the_site_ca(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    order_at_site(site, "born", "EL-1", origin="device")
    (world.place / "EL-1").mkdir()
    target = f"files:{world.place}/EL-1?key=born"
    assert world.good("station", "provision", "--device-serial", "EL-1", "--target", target, "-C", site)["status"] == (
        "pass"
    )
    root, ca = world.hq / "ca" / "root.pem", site / "ca" / "fab-ca-1.pem"
    openssl("verify", "-x509_strict", "-CAfile", root, "-untrusted", ca, world.place / "EL-1" / "device.crt")


def test_the_same_request_again_gives_the_same_certificates(world: SiteWorld) -> None:
    request = world.init("fab", "factory_ca")
    first = open_grant(world.add(request).read_bytes(), None)
    size = entries(world.hq)
    again = open_grant(world.add(request).read_bytes(), None)
    assert entries(world.hq) == size
    assert msgspec.structs.replace(again, at=first.at) == first


def test_accepting_again_changes_nothing_and_brings_lost_files_back(world: SiteWorld) -> None:
    grant = world.add(world.init("fab", "factory_ca"))
    world.accept("fab", grant)
    site = world.place / "fab"
    size = entries(site)
    for name in ("tls/line1.pem", "ca/fab-ca-1.pem", "settings.d/grant.toml", "profiles/tls-client.toml"):
        (site / name).unlink()
    world.accept("fab", grant)
    assert entries(site) == size
    with open_workspace(site, publish=False) as opened:
        assert opened.product("device").ca == "fab-ca-1"


def test_a_grant_of_another_authority_is_refused(world: SiteWorld, tmp_path: Path) -> None:
    grant = world.add(world.init("fab", "pool"))
    other = "other.example/log+6dbb1cc1+Abcdefghijklmnopqrstuvwxyz"
    assert world.refused("site", "accept", grant, "-C", world.place / "fab", "--authority-vkey", other) == (
        "log.vkey.malformed"
    )
    make_authority(tmp_path / "other")
    foreign = (tmp_path / "other" / "hq" / "log" / "vkey").read_text().strip()
    size = entries(world.place / "fab")
    options = ("-C", world.place / "fab", "--authority-vkey", foreign)
    assert world.refused("site", "accept", grant, *options) == "document.signature"
    assert entries(world.place / "fab") == size
    assert not (world.place / "fab" / "settings.d" / "grant.toml").exists()
    world.accept("fab", grant)
    assert world.refused("site", "accept", grant, *options) == "document.signature"
    # The same names, signed by somebody else: once the site has an authority, no other key counts.
    with open_workspace(tmp_path / "other" / "hq", publish=False) as stranger:
        forged = msgspec.structs.replace(open_grant(grant.read_bytes(), None), vkey=foreign)
        (tmp_path / "forged").write_bytes(sign_grant(forged, stranger.private_key(stranger.settings.log.key)))
    assert world.refused("site", "accept", tmp_path / "forged", "-C", world.place / "fab") == "document.signature"


def test_a_request_that_was_changed_on_the_way_is_refused(world: SiteWorld) -> None:
    request = world.init("fab", "pool")
    size = entries(world.hq)
    request.write_bytes(request.read_bytes().replace(b'"mode":"pool"', b'"mode":"online"'))
    assert world.refused("site", "add", request, "-C", world.hq) == "document.signature"
    request.write_bytes(b"\xff\x00")
    assert world.refused("site", "add", request, "-C", world.hq) == "document.malformed"
    assert world.refused("site", "add", world.place / "nothing", "-C", world.hq) == "file.missing"
    assert entries(world.hq) == size


def test_names_logs_and_prefixes_that_are_known_are_refused(world: SiteWorld, tmp_path: Path) -> None:
    world.join("fab", "pool", "--site-prefix", "0a0b")
    cases = {
        "site.prefix.taken": ("--site-prefix", "0a0b"),
        "site.origin.taken": ("--origin", "hq.example/birthmark/site/fab"),
        "site.known": ("--name", "fab", "--origin", "hq.example/elsewhere"),
    }
    for number, (code, options) in enumerate(cases.items()):
        assert world.refused("site", "add", world.init(f"other{number}", "pool", *options), "-C", world.hq) == code
    own = world.init("own", "pool", "--site-prefix", "0101")
    assert world.refused("site", "add", own, "-C", world.hq) == "site.prefix.taken"
    with open_workspace(world.hq, publish=False) as hq:
        assert [site.site for site in hq.records.sites()] == ["fab"]
        assert len(hq.records.accesses()) == 1, "what was refused was not signed on record"


def test_a_request_whose_parts_contradict_each_other_is_refused(world: SiteWorld) -> None:
    world.init("fab", "factory_ca")
    good = open_request((world.place / "fab" / "site-request.note").read_bytes())
    station = good.stations[0]
    renamed = msgspec.structs.replace(station, vkey=good.vkey)
    assert good.ca is not None
    cases: dict[str, dict[str, Any]] = {
        "no station": {"stations": ()},
        "a station twice": {"stations": (station, station)},
        "the receipt key of the log": {"stations": (renamed,)},
        "a CA in mode pool": {"mode": "pool"},
        "no CA in mode factory_ca": {"ca": None},
        "one key for station and CA": {"ca": msgspec.structs.replace(good.ca, csr=station.csr)},
    }
    for what, changes in cases.items():
        path = request_with(world, "fab", **{"mode": good.mode, "ca": good.ca, "stations": good.stations, **changes})
        assert world.refused("site", "add", path, "-C", world.hq) == "site.request.parts", what
    path = request_with(world, "fab", mode=good.mode, ca=good.ca, stations=good.stations, vault=b"\x01" * 32)
    assert world.refused("site", "add", path, "-C", world.hq) == "vault.recipient.malformed"


def test_a_ca_request_without_proof_of_possession_is_refused(world: SiteWorld) -> None:
    """Somebody wants a CA certificate for a key that he does not have."""
    world.init("fab", "factory_ca")
    good = open_request((world.place / "fab" / "site-request.note").read_bytes())
    assert good.ca is not None
    csr = bytearray(unnamed_request(ec.generate_private_key(ec.SECP256R1())))
    csr[-1] ^= 1
    path = request_with(world, "fab", ca=msgspec.structs.replace(good.ca, csr=bytes(csr)))
    assert world.refused("site", "add", path, "-C", world.hq) == "csr.signature"
    with open_workspace(world.hq, publish=False) as hq:
        assert hq.records.ca("fab-ca-1") is None


def test_a_ca_with_the_key_of_another_ca_is_refused(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    request = open_request((site / "site-request.note").read_bytes())
    assert request.ca is not None
    (world.place / "ca.csr").write_bytes(request.ca.csr)
    again = ("site", "delegate", "fab", "--csr", world.place / "ca.csr", "-C", world.hq)
    assert world.refused(*again, "--name", "fab-ca-2") == "site.ca.key"
    assert world.refused(*again, "--name", "fab-ca-1") == "site.ca.exists"


@pytest.mark.parametrize(
    ("member", "value"),
    [("mode", "online"), ("site", "other"), ("site_prefix", "0a0c"), ("authority", "evil.example/log")],
)
def test_a_grant_with_other_terms_is_refused(world: SiteWorld, member: str, value: str) -> None:
    grant = world.add(world.init("fab", "pool", "--site-prefix", "0a0b"))
    changes: dict[str, Any] = {member: value}
    if member == "authority":
        evil = open_grant(grant.read_bytes(), None)
        path = world.place / "changed.note"
        with open_workspace(world.hq, publish=False) as hq:
            key = hq.private_key(hq.settings.log.key)
            renamed = msgspec.structs.replace(evil, authority=value, vkey=encode_vkey(value, public_octets(key)))
            path.write_bytes(sign_grant(renamed, key))
    else:
        path = grant_with(world, grant, **changes)
    assert world.refused("site", "accept", path, "-C", world.place / "fab") == "site.grant.terms"
    assert not (world.place / "fab" / "grant.note").exists()


def test_parts_of_a_grant_that_do_not_fit_the_site_are_refused(world: SiteWorld) -> None:
    grant = world.add(world.init("fab", "factory_ca"))
    other = open_grant(world.add(world.init("fab2", "factory_ca")).read_bytes(), None)
    good = open_grant(grant.read_bytes(), None)
    product = msgspec.structs.replace(good.products[0], ca="root")
    profile = msgspec.structs.replace(good.products[0], key_algorithm="sha1")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("site.grant.station", {"stations": other.stations}),
        ("site.grant.ca", {"cas": (good.cas[0], msgspec.structs.replace(other.cas[1], name="fab-ca-1"))}),
        ("site.grant.ca", {"cas": good.cas[1:]}),
        ("site.grant.product", {"products": (product,)}),
        ("site.grant.product", {"products": (profile,)}),
        ("site.grant.url", {"url": "http://hq.example", "service_ca": good.stations[0].chain[0]}),
        ("chain.signature", {"cas": (other.cas[0], msgspec.structs.replace(good.cas[1], certificate=_bent(good)))}),
    ]
    for code, changes in cases:
        path = grant_with(world, grant, **changes)
        assert world.refused("site", "accept", path, "-C", world.place / "fab") == code
    world.accept("fab", grant)


def _bent(grant: Grant) -> bytes:
    """Return the delegated CA's certificate with another signature."""
    certificate = bytearray(grant.cas[1].certificate)
    certificate[-1] ^= 1
    return bytes(certificate)


def test_an_older_grant_does_not_come_back(world: SiteWorld) -> None:
    first = world.add(world.init("fab", "pool"))
    old = world.place / "old.note"
    old.write_bytes(first.read_bytes())
    world.accept("fab", world.add(world.place / "fab" / "site-request.note"))
    assert world.refused("site", "accept", old, "-C", world.place / "fab") == "site.grant.old"


def test_a_stopped_site_gets_nothing(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    create = ("--product", "device", "--quantity", "5", "-C", world.hq)
    world.good("order", "create", "lot", "--first", "TH-1", *create)
    assert world.refused("order", "assign", "lot", "--site", "fab", "-C", world.hq) == "order.assignment.ca"
    world.good("site", "stop", "fab", "--reason", "a receipt was forged", "-C", world.hq)
    assert world.refused("order", "create", "lot3", "--first", "TJ-1", "--site", "fab", *create) == "site.stopped"
    assert len(world.good("order", "list", "-C", world.hq)["orders"]) == 1
    assert world.refused("site", "grant", "fab", "-C", world.hq) == "site.stopped"
    new = world.good("site", "ca", "fab-ca-2", "--output", world.place / "c2.csr", "-C", site)
    ask = ("site", "delegate", "fab", "--name", "fab-ca-2", "--csr", new["csr"], "-C", world.hq)
    assert world.refused(*ask) == "site.stopped"
    assert world.good("site", "list", "-C", world.hq)["sites"][0]["stopped"] == "a receipt was forged"
    world.good("site", "resume", "fab", "--reason", "it was a test", "-C", world.hq)
    world.good("order", "create", "lot2", "--first", "TI-1", "--site", "fab", *create)
    shown = world.good("order", "show", "lot2", "-C", world.hq)
    assert (shown["ca"], shown["site"], shown["mode"]) == ("fab-ca-1", "fab", "factory_ca")
    assert world.good("site", "show", "fab", "-C", world.hq)["orders"] == ["lot2"]
    assert world.refused("order", "make", "lot2", "--processes", "1", "-C", world.hq) == "settings.ca"


def test_an_order_is_made_at_one_site(world: SiteWorld) -> None:
    world.join("fab", "pool")
    world.join("fab2", "factory_ca")
    for name, first in (("lot", "TH-1"), ("lot2", "TI-1")):
        create = ("order", "create", name, "--product", "device", "--quantity", "5", "--first", first)
        world.good(*create, "-C", world.hq)
    assign = ("order", "assign", "lot", "-C", world.hq, "--site")
    assert world.refused(*assign, "nowhere") == "site.unknown"
    assert world.good(*assign, "fab")["devices"] == 5
    size = entries(world.hq)
    assert world.good(*assign, "fab")["mode"] == "pool"
    assert entries(world.hq) == size
    assert world.refused(*assign, "fab2") == "order.assigned"
    assert world.good("order", "show", "lot", "-C", world.hq)["site"] == "fab"
    assert world.refused("order", "assign", "lot2", "--site", "fab2", "-C", world.hq) == "order.assignment.ca"


def test_commands_of_one_role_are_refused_by_the_other(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    grant, request = world.hq / "sites" / "fab" / "grant.note", site / "site-request.note"
    assert world.refused("site", "accept", grant, "-C", world.hq) == "workspace.role"
    assert world.refused("site", "add", request, "-C", site) == "workspace.role"
    assert world.refused("site", "ca", "next", "--output", world.place / "x", "-C", world.hq) == "workspace.role"
    assert world.refused("site", "station", "l9", "--output", world.place / "x", "-C", world.hq) == "workspace.role"


def test_a_request_is_text_that_people_can_read(world: SiteWorld) -> None:
    """What travels holds no secret, and is what docs/formats/site.md says."""
    request = world.init("fab", "factory_ca").read_bytes()
    assert b"PRIVATE" not in request
    members = msgspec.json.decode(document_text(request))
    assert set(members) == set(SiteRequest.__struct_fields__)
    assert SecretsResolver()(world.secret).reveal() not in request
