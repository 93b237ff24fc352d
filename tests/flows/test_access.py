"""Who is let in: certificates for people and for the service, on record before they leave, and taken back."""

from __future__ import annotations

import shutil
import stat
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from birthmark.model.events import (
    DevicesOrdered,
    OrderAssigned,
    OrderCreated,
    SiteReported,
    SiteSettled,
    decode_entry,
    utc_text,
)
from birthmark.pki.algorithms import spki_of
from birthmark.shell.authority.access import access_tools
from birthmark.shell.workspace.wiring import open_workspace, utc_now
from support.siteworld import SiteWorld, make_authority, openssl, run


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


def csr_of(world: SiteWorld, name: str, *more: str) -> Path:
    """Let OpenSSL make a key and a request, as a person would."""
    key, csr = world.place / f"{name}.key", world.place / f"{name}.csr"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-new", *curve, "-keyout", key, "-out", csr, "-subj", f"/CN={name}", *more)
    return csr


def granted(world: SiteWorld, name: str, role: str, *more: str) -> Path:
    output = world.place / f"{name}.pem"
    options = ("--role", role, "--csr", csr_of(world, name), "--output", output, "-C", world.hq)
    assert world.good("access", "grant", *options, *more)["name"] == name
    return output


@pytest.mark.parametrize("role", ["operator", "approver", "auditor"])
def test_a_person_is_let_in_and_out_again(world: SiteWorld, role: str) -> None:
    certificate = granted(world, "ada", role)
    world.good("access", "server", "--name", "hq.example", "-C", world.hq)
    clients = world.hq / "serve" / "clients.pem"
    openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", clients, certificate)
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    found = sha256(spki_of(key)).hexdigest()
    with open_workspace(world.hq, publish=False) as hq:
        record = hq.records.access(found)
        assert (record.name, record.role, record.site, record.withdrawn) == ("ada", role, None, None)
        ((_, entry),) = hq.ledger.entries(record.seq, 1)
        on_record = x509.load_der_x509_certificate(decode_entry(entry)[1])
    assert on_record == x509.load_pem_x509_certificate(certificate.read_bytes())
    assert world.good("access", "withdraw", "ada", "--reason", "left", "-C", world.hq)["withdrawn"] == [found]
    listed = {item["name"]: item["withdrawn"] for item in world.good("access", "list", "-C", world.hq)["access"]}
    assert listed == {"ada": "left", "hq.example": None}
    assert world.refused("access", "withdraw", "ada", "--reason", "again", "-C", world.hq) == "access.unknown"


def test_a_withdrawn_key_does_not_come_back(world: SiteWorld) -> None:
    granted(world, "ada", "operator")
    world.good("access", "withdraw", "ada", "--reason", "stolen", "-C", world.hq)
    again = ("access", "grant", "--role", "operator", "--csr", world.place / "ada.csr")
    output = world.place / "again.pem"
    assert world.refused(*again, "--output", output, "-C", world.hq) == "ledger.exists"
    assert not output.exists(), "nothing leaves that is not on record"


def test_requests_for_more_than_a_client_are_refused(world: SiteWorld) -> None:
    wishes = {
        "csr.asks_ca": "basicConstraints=critical,CA:TRUE",
        "csr.extended_key_usage": "extendedKeyUsage=serverAuth",
        "csr.name": "subjectAltName=DNS:hq.example",
    }
    for code, extension in wishes.items():
        csr = csr_of(world, "eve", "-addext", extension)
        options = ("--role", "operator", "--csr", csr, "--output", world.place / "eve.pem", "-C", world.hq)
        assert world.refused("access", "grant", *options) == code
    plain = csr_of(world, "eve")
    options = ("--csr", plain, "--output", world.place / "eve.pem", "-C", world.hq)
    assert world.refused("access", "grant", "--role", "operator", "--name", "root", *options) == "csr.name"
    assert world.refused("access", "grant", "--role", "station", *options) == "access.role"
    assert world.refused("access", "grant", "--role", "operator", "--name", "fab/line1", *options) == "access.name"
    assert world.refused("access", "grant", "--role", "operator", "--name", "A B", *options) == (
        "station.name.malformed"
    )
    with open_workspace(world.hq, publish=False) as hq:
        assert list(hq.records.accesses()) == []


def test_the_service_has_a_certificate_for_names_and_addresses(world: SiteWorld) -> None:
    names = ("--name", "hq.example", "--name", "localhost", "--name", "192.0.2.7", "--name", "2001:db8::7")
    made = world.good("access", "server", *names, "-C", world.hq)["files"]
    assert [Path(path).name for path in made] == ["server.key", "server.pem", "clients.pem"]
    served = world.hq / "serve"
    assert stat.S_IMODE((served / "server.key").stat().st_mode) == 0o600
    check = ("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", served / "clients.pem")
    for wanted in (
        ("-verify_hostname", "hq.example"),
        ("-verify_hostname", "localhost"),
        ("-verify_ip", "192.0.2.7"),
        ("-verify_ip", "2001:db8::7"),
    ):
        openssl(*check, *wanted, served / "server.pem")
    with pytest.raises(AssertionError, match="hostname mismatch"):
        openssl(*check, "-verify_hostname", "evil.example", served / "server.pem")
    judged = run(
        "certtool", "--verify", "--load-ca-certificate", served / "clients.pem", "--infile", served / "server.pem"
    )
    assert "Verified. The certificate is trusted." in judged
    first = (served / "server.pem").read_bytes()
    world.good("access", "server", *names, "-C", world.hq)
    assert (served / "server.pem").read_bytes() != first
    assert world.refused("access", "server", "--name", "x" * 65, "-C", world.hq) == "access.host"


def test_the_access_ca_is_made_once_and_signs_no_devices(world: SiteWorld) -> None:
    granted(world, "ada", "operator")
    granted(world, "bob", "auditor")
    with open_workspace(world.hq, publish=False) as hq:
        record = hq.records.ca("access")
        assert (record.kind, record.issuer) == ("access", None)
        assert len([ca for ca in hq.records.cas() if ca.kind == "access"]) == 1
        key = (hq.root / "keys" / "access.pem").read_bytes()
    assert b"ENCRYPTED" in key
    assert world.refused("site", "add", world.init("gab", "factory_ca"), "--issuer", "access", "-C", world.hq) == (
        "ca.access"
    )
    text = (world.hq / "birthmark.toml").read_text()
    (world.hq / "birthmark.toml").write_text(text.replace('ca = "issuing"', 'ca = "access"'))
    assert world.refused("site", "add", world.init("fab", "pool"), "-C", world.hq) == "ca.unknown"


def test_a_key_that_a_power_cut_left_without_a_record_is_certified_by_the_next_command(world: SiteWorld) -> None:
    with open_workspace(world.hq, publish=False) as hq:
        key = access_tools(hq).key()
    granted(world, "ada", "operator")
    with open_workspace(world.hq, publish=False) as hq:
        certificate = x509.load_der_x509_certificate(hq.records.ca("access").certificate)
    assert spki_of(certificate.public_key()) == spki_of(key.public_key())


def test_the_authority_shows_where_a_settled_device_was_made(world: SiteWorld) -> None:
    world.join("fab", "pool")
    with open_workspace(world.hq) as hq, hq.ledger.transaction() as tx:
        at = utc_text(utc_now())
        order = {"order": "lot", "product": "device", "profile": "tls-client", "key_algorithm": "p256", "ca": "issuing"}
        tx.append(OrderCreated(at=at, **order, key_origin="injected", quantity=1, chunks=1, by="test"))
        tx.append(DevicesOrdered(at=at, order="lot", chunk=0, first=0, count=1), b"TH-1")
        tx.append(OrderAssigned(at=at, order="lot", site="fab", mode="pool", by="test"))
        tx.append(SiteReported(at=at, site="fab", size=40, root="00" * 32), b"checkpoint")
        key = sha256(spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())).hexdigest()
        line = f"TH-1 verified 37 {key}".encode()
        tx.append(SiteSettled(at=at, site="fab", order="lot", upto=40, count=1), line)
    shown = world.good("device", "show", "TH-1", "-C", world.hq)
    assert (shown["state"], shown["site"], shown["site_log_entry"]) == ("verified", "fab", 37)
