"""The issuing CA of a site: narrow, for a short time, in a token or a file; the next one; stations that come later."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.errors import Refused, Tampered
from birthmark.pki.algorithms import spki_of
from birthmark.pki.chain import verify_chain
from birthmark.pki.issuer import issue_ca_certificate
from birthmark.pki.profile import Validity, load_preset
from birthmark.pki.request import unnamed_request
from birthmark.shell.workspace.wiring import open_workspace, utc_now
from birthmark.wire.site import open_grant
from support.siteworld import SiteWorld, make_authority, openssl, order_at_site, run
from support.softhsm import MODULE, SoftHsm


@pytest.fixture(scope="module", params=["idevid", "tls-client"])
def authority(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("authority")
    make_authority(place, preset=request.param)
    return place / "hq"


@pytest.fixture
def world(authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> SiteWorld:
    shutil.copytree(authority, tmp_path / "hq")
    text = (tmp_path / "hq" / "birthmark.toml").read_text()
    (tmp_path / "hq" / "birthmark.toml").write_text(text.replace(str(authority), str(tmp_path / "hq")))
    return SiteWorld(tmp_path, capsys)


def made(world: SiteWorld, site: Path, order: str, first: str) -> Path:
    """Make an order of one at the site, provision it there and return the device's certificate."""
    order_at_site(site, order, first)
    world.good("order", "make", order, "--processes", "1", "-C", site)
    return provisioned(world, site, first)


def provisioned(world: SiteWorld, site: Path, device_serial: str, *more: str) -> Path:
    target = world.place / device_serial
    target.mkdir()
    options = ("--device-serial", device_serial, "--target", f"files:{target}", "-C", site)
    assert world.good("station", "provision", *options, *more)["status"] == "pass"
    return target / "device.crt"


def accepted_by_openssl(site: Path, device: Path, ca: str, *more: str) -> None:
    root, issuing = site / "ca" / "root.pem", site / "ca" / f"{ca}.pem"
    openssl("verify", "-x509_strict", *more, "-CAfile", root, "-untrusted", issuing, device)


def test_the_ca_key_of_a_site_lives_in_its_token(
    world: SiteWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as programs: the token's library reads its configuration once in a process."""
    hsm = SoftHsm(tmp_path / "hsm")
    pin = f"canary-{os.urandom(8).hex()}"
    hsm.make_token("fab", pin=pin)
    for name, value in {**hsm.environment, "SITE_PIN": pin}.items():
        monkeypatch.setenv(name, value)
    program = Path(sys.executable).parent / "birthmark"
    site = tmp_path / "fab"
    token = ("--token", "fab", "--module", str(MODULE), "--secret", "env:SITE_PIN")
    asked = ("--mode", "factory_ca", "--authority-origin", "hq.example/birthmark")
    said = run(program, "site", "init", site, *asked, *token)
    grant = world.add(site / "site-request.note")
    said += run(program, "site", "accept", grant, "-C", site)
    assert not list((site / "keys").glob("*ca-1*"))
    order_at_site(site, "lot", "TK-1", 2)
    run(program, "order", "make", "lot", "--processes", "1", "-C", site)
    (tmp_path / "TK-1").mkdir()
    target = ("--device-serial", "TK-1", "--target", f"files:{tmp_path / 'TK-1'}")
    said += run(program, "station", "provision", *target, "-C", site)
    accepted_by_openssl(site, tmp_path / "TK-1" / "device.crt", "fab-ca-1")
    with open_workspace(world.hq, publish=False) as hq:
        record = hq.records.ca("fab-ca-1")
    assert record.site == "fab"
    assert pin not in said
    assert pin.encode() not in grant.read_bytes() + (site / "site-request.note").read_bytes()


def test_a_delegated_ca_cannot_sign_a_ca(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    key = ec.generate_private_key(ec.SECP256R1())
    profile = msgspec.structs.replace(load_preset("issuing-ca"), validity=Validity(days=1))
    with open_workspace(site, publish=False) as opened:
        issuer = opened.issuer("fab-ca-1")
        assert issuer.path_length == 0
        with pytest.raises(Refused) as refusal:
            issue_ca_certificate(
                profile,
                subject_key=key.public_key(),
                issuer=issuer,
                cert_serial=b"\x01" * 16,
                not_before=utc_now(),
                values={"maker": "Example Devices", "ca_name": "one more"},
                lint=lambda *_: (),
            )
    assert refusal.value.code == "issuer.path_length"


def test_the_issuing_ca_has_no_room_for_a_site_ca(world: SiteWorld) -> None:
    request = world.init("fab", "factory_ca")
    assert world.refused("site", "add", request, "--issuer", "issuing", "-C", world.hq) == "issuer.path_length"
    assert world.refused("site", "add", request, "--issuer", "nobody", "-C", world.hq) == "ca.unknown"
    with open_workspace(world.hq, publish=False) as hq:
        assert hq.records.site("fab") is None
    assert world.good("site", "add", request, "--issuer", "root", "-C", world.hq)["cas"] == ["fab-ca-1"]


def test_a_site_ca_cannot_make_a_web_server_or_another_makers_device(world: SiteWorld) -> None:
    """What the key signs behind birthmark's back: OpenSSL and our own validator read the name constraints."""
    site = world.join("fab", "factory_ca")
    with open_workspace(site, publish=False) as opened:
        key = opened.private_key(opened.ca_key_uri("fab-ca-1"))
        chain = opened.chain("fab-ca-1")
        preset = opened.profile(opened.product("device").profile).name
    ca = x509.load_der_x509_certificate(chain[0])
    forged = {"dns": ("Example Devices", x509.DNSName("bank.example"))}
    if preset == "idevid":
        forged["maker"] = ("Another Maker", x509.UniformResourceIdentifier("urn:x"))
    for name, (maker, alternative) in forged.items():
        leaf = _signed_behind_our_back(ca, key, maker, alternative)
        path = world.place / f"{name}.pem"
        path.write_bytes(leaf)
        der = x509.load_pem_x509_certificate(leaf)
        with pytest.raises(Tampered) as found:
            verify_chain(_der(der), chain[:1], chain[1:], at=utc_now())
        assert found.value.code == "chain.name_constraints"
        with pytest.raises(AssertionError, match="subtree violation"):
            accepted_by_openssl(site, path, "fab-ca-1")


def _signed_behind_our_back(ca: x509.Certificate, key: object, maker: str, alternative: x509.GeneralName) -> bytes:
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, maker), x509.NameAttribute(NameOID.COMMON_NAME, "x")]
    own = ec.generate_private_key(ec.SECP256R1()).public_key()
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
    builder = x509.CertificateBuilder(ca.subject, x509.Name(subject), own, 4711)
    builder = builder.not_valid_before(utc_now()).not_valid_after(utc_now() + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own), critical=False)
    builder = builder.add_extension(authority, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def test_after_its_time_a_site_signs_nothing_and_its_devices_live_on(world: SiteWorld) -> None:
    site = world.place / "fab"
    world.accept("fab", world.add(world.init("fab", "factory_ca"), "--days", "30"))
    device = made(world, site, "lot", "TH-1")
    late = utc_now() + timedelta(days=31)
    with open_workspace(site, publish=False) as opened:
        opened.clock = lambda: late
        opened.ledger.clock = opened.clock
        order_at_site(site, "lot2", "TI-1")
        order = opened.records.order("lot2")
        with pytest.raises(Refused) as refusal:
            opened.permits.for_order(order)
    assert refusal.value.code == "issuer.signing_period"
    accepted_by_openssl(site, device, "fab-ca-1", "-attime", str(int(late.timestamp())))


def test_no_device_outlives_the_ca_of_its_site(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    device = x509.load_pem_x509_certificate(made(world, site, "lot", "TH-1").read_bytes())
    ca = x509.load_pem_x509_certificate((site / "ca" / "fab-ca-1.pem").read_bytes())
    root = x509.load_pem_x509_certificate((site / "ca" / "root.pem").read_bytes())
    assert root.not_valid_before_utc <= ca.not_valid_before_utc <= device.not_valid_before_utc
    assert device.not_valid_after_utc <= ca.not_valid_after_utc <= root.not_valid_after_utc


def test_the_next_ca_of_a_site_has_a_new_name_and_a_new_key(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    first = made(world, site, "lot", "TH-1")
    csr = world.good("site", "ca", "fab-ca-2", "--output", world.place / "next.csr", "-C", site)["csr"]
    assert world.refused("site", "ca", "fab-ca-2", "--output", csr, "-C", site) == "site.ca.exists"
    ask = ("site", "delegate", "fab", "--name", "fab-ca-2", "--csr", csr, "--days", "10", "-C", world.hq)
    grant = Path(world.good(*ask)["grant"])
    world.accept("fab", grant)
    with open_workspace(site, publish=False) as opened:
        assert opened.product("device").ca == "fab-ca-2"
        assert opened.settings.stations["line1"].tls_certificate == "tls/line1.pem"
        known = {ca.ca: ca.site for ca in opened.records.cas()}
    assert known == {"root": None, "fab-ca-1": "fab", "fab-ca-2": "fab"}
    second = made(world, site, "lot2", "TI-1")
    accepted_by_openssl(site, first, "fab-ca-1")
    accepted_by_openssl(site, second, "fab-ca-2")
    shown = world.good("site", "show", "fab", "-C", world.hq)
    assert shown["cas"] == ["fab-ca-1", "fab-ca-2"]


def test_an_order_goes_on_with_the_ca_it_began_with(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    order_at_site(site, "lot", "TH-1")
    csr = world.good("site", "ca", "fab-ca-2", "--output", world.place / "next.csr", "-C", site)["csr"]
    ask = ("site", "delegate", "fab", "--name", "fab-ca-2", "--csr", csr, "-C", world.hq)
    world.accept("fab", Path(world.good(*ask)["grant"]))
    world.good("order", "make", "lot", "--processes", "1", "-C", site)
    accepted_by_openssl(site, provisioned(world, site, "TH-1"), "fab-ca-1")


def test_only_a_site_that_signs_for_itself_gets_a_ca(world: SiteWorld) -> None:
    world.join("fab", "pool")
    csr = world.place / "x.csr"
    csr.write_bytes(unnamed_request(ec.generate_private_key(ec.SECP256R1())))
    assert world.refused("site", "delegate", "fab", "--name", "x", "--csr", csr, "-C", world.hq) == "site.mode"
    assert world.refused("site", "delegate", "gab", "--name", "x", "--csr", csr, "-C", world.hq) == "site.unknown"


def test_a_station_that_comes_later(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    asked = world.good("site", "station", "line2", "--output", world.place / "line2.csr", "-C", site)
    add = ("station", "add", "line2", "--site", "fab", "--csr", asked["csr"], "-C", world.hq, "--vkey")
    wrong = (site / "log" / "vkey").read_text().strip()
    assert world.refused(*add, wrong) == "station.vkey"
    grant = Path(world.good(*add, asked["vkey"])["grant"])
    assert world.refused(*add, asked["vkey"]) == "ledger.exists", "the same TLS key twice"
    world.accept("fab", grant)
    order_at_site(site, "lot", "TH-1")
    world.good("order", "make", "lot", "--processes", "1", "-C", site)
    provisioned(world, site, "TH-1", "--station", "line2")
    world.good("access", "server", "--name", "hq.example", "-C", world.hq)
    clients = world.hq / "serve" / "clients.pem"
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", clients, site / "tls" / "line2.pem")
    with open_workspace(world.hq, publish=False) as hq:
        assert hq.records.stations()["fab/line2"] == asked["vkey"]
    assert world.refused("site", "station", "line2", "--output", world.place / "y", "-C", site) == "station.exists"


def test_a_station_that_is_let_in_no_more_is_not_in_the_next_grant(world: SiteWorld) -> None:
    world.accept("fab", world.add(world.init("fab", "pool", "--station", "line1", "--station", "line2")))
    world.good("access", "withdraw", "fab/line1", "--reason", "stolen", "-C", world.hq)
    grant = Path(world.good("site", "grant", "fab", "-C", world.hq)["grant"])
    assert [station.name for station in open_grant(grant.read_bytes(), None).stations] == ["line2"]


def test_a_grant_keeps_what_the_last_one_said(world: SiteWorld) -> None:
    world.join("fab", "online")
    grant = Path(world.good("site", "grant", "fab", "-C", world.hq)["grant"])
    assert open_grant(grant.read_bytes(), None).url == "https://hq.example:8443"
    moved = Path(world.good("site", "grant", "fab", "--url", "https://new.example", "-C", world.hq)["grant"])
    assert open_grant(moved.read_bytes(), None).url == "https://new.example"
    request = world.init("gab", "online")
    for bad in ((), ("--url", "http://hq.example")):
        assert world.refused("site", "add", request, "-C", world.hq, *bad) == "site.url"


def test_the_key_of_a_site_ca_never_comes_to_the_authority(world: SiteWorld) -> None:
    site = world.join("fab", "factory_ca")
    with open_workspace(site, publish=False) as opened:
        certificate = x509.load_der_x509_certificate(opened.ca_certificate("fab-ca-1"))
        assert spki_of(opened.private_key(opened.ca_key_uri("fab-ca-1")).public_key()) == spki_of(
            certificate.public_key()
        )
    assert world.refused("site", "add", site / "site-request.note", "--issuer", "x", "-C", site) == "workspace.role"
    with open_workspace(world.hq, publish=False) as hq:
        assert "fab-ca-1" not in hq.settings.cas
        assert not (hq.root / "keys" / "fab-ca-1.pem").exists()
