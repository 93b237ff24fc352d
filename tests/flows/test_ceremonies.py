"""Ceremonies as the people around the table and the auditor see them: reviewed, approved, done once, on record."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from birthmark.model.events import ApprovalUsed, CaCreated, CaKeyDestroyed, decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.shell.workspace.setup import SetupRequest, create_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.tlog.note import encode_vkey, public_octets, sign_note
from birthmark.wire.site import RequestedCa, SiteRequest, sign_request
from birthmark.workflow.authority.transcript import recorded_part
from support.approvers import Desk
from support.softhsm import MODULE, SoftHsm

HEAD = 'format = "birthmark-ceremony/2"\ntitle = "CA keys of Acme"\nparticipants = ["Alice Adams, PKI engineer"]\n'
VALUES = '[step.values]\nmaker = "Example Devices"\nca_name = "{}"\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ceremonies")
    make_workspace(place / "fab")
    return place


@pytest.fixture
def desk(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    return Desk(tmp_path, capsys)


def key_uri(desk: Desk, name: str) -> str:
    with open_workspace(desk.fab, publish=False) as opened:
        return opened.settings.cas["root"].key.replace("root.pem", f"{name}.pem")


def ceremony(desk: Desk, *steps: str) -> Path:
    file = desk.place / "next.toml"
    file.write_text(HEAD + "".join(f"\n[[step]]\n{step}" for step in steps))
    return file


def rollover(desk: Desk, name: str = "root2", replaces: str = "root", title: str = "Example Devices Root CA 2") -> str:
    where = f'key = "{key_uri(desk, name)}"\nkey_algorithm = "p384"\nprofile = "root-ca"\n'
    return f'do = "rollover"\nname = "{name}"\nreplaces = "{replaces}"\n{where}{VALUES.format(title)}'


def issuing(desk: Desk, name: str = "issuing2", issuer: str = "root2") -> str:
    where = f'key = "{key_uri(desk, name)}"\nkey_algorithm = "p256"\nprofile = "issuing-ca"\n'
    return f'do = "issuing"\nname = "{name}"\nissuer = "{issuer}"\n{where}{VALUES.format("Issuing CA " + name)}'


def destroy(ca: str = "issuing") -> str:
    return f'do = "destroy"\nca = "{ca}"\nreason = "replaced"\ncopies = "one in safe 3, destroyed before"\n'


def run(desk: Desk, file: Path, *more: str) -> tuple[str, ...]:
    return ("ceremony", "run", str(file), "-C", str(desk.fab), *more)


def check(desk: Desk, file: Path) -> tuple[str, ...]:
    return ("ceremony", "check", str(file), "-C", str(desk.fab))


def events(desk: Desk, kind: type) -> list[tuple[object, bytes]]:
    with open_workspace(desk.fab, publish=False) as opened:
        entries = [decode_entry(entry) for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]
    return [pair for pair in entries if isinstance(pair[0], kind)]


def files(desk: Desk) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in desk.fab.rglob("*") if path.is_file() and path.suffix != ".lock"}


def name_cas(desk: Desk, settings: list[str]) -> None:
    path = desk.fab / "birthmark.toml"
    path.write_text(path.read_text() + "\n" + "\n".join(settings) + "\n")


def order(desk: Desk, name: str, first: str) -> tuple[str, ...]:
    named = ("--product", "device", "--quantity", "2", "--first", first)
    return ("order", "create", name, *named, "-C", str(desk.fab))


def openssl_verifies(desk: Desk, root: str, *chain: str) -> bool:
    ca = desk.fab / "ca"
    between = [word for name in chain[1:] for word in ("-untrusted", str(ca / f"{name}.pem"))]
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(ca / f"{root}.pem"), *between]
    done = subprocess.run([*command, str(ca / f"{chain[0]}.pem")], capture_output=True, text=True, check=False)
    return done.returncode == 0


def test_a_rehearsal_tells_all_and_writes_nothing(desk: Desk) -> None:
    file = ceremony(desk, rollover(desk), issuing(desk), destroy())
    before = files(desk)
    told = desk.good(*check(desk, file))
    assert [act["act"] for act in told["acts"]] == ["rollover", "link", "link", "make issuing", "destroy key"]
    assert told["ceremony_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {path for path in files(desk) if "ledger.db" not in path} == {p for p in before if "ledger.db" not in p}
    assert len(events(desk, CaCreated)) == 2


def test_old_and_new_root_lead_to_old_and_new_devices(desk: Desk) -> None:
    """RFC 4210, 4.4, judged by OpenSSL."""
    desk.good(*run(desk, ceremony(desk, rollover(desk), issuing(desk))))
    assert openssl_verifies(desk, "root2", "issuing2")
    assert openssl_verifies(desk, "root", "issuing2", "root2-by-root")
    assert openssl_verifies(desk, "root2", "issuing", "root-by-root2")
    assert not openssl_verifies(desk, "root", "issuing2")
    links = [
        x509.load_pem_x509_certificate((desk.fab / "ca" / f"{n}.pem").read_bytes()) for n in ("root", "root-by-root2")
    ]
    assert links[0].public_key() == links[1].public_key()
    assert links[0].subject.public_bytes() == links[1].subject.public_bytes()
    assert desk.good("audit", "verify", str(desk.fab))["findings"] == []


def test_a_replaced_ca_takes_no_new_orders(desk: Desk) -> None:
    desk.good(*order(desk, "before", "AA-0001"))
    settings = desk.good(*run(desk, ceremony(desk, rollover(desk), issuing(desk))))["settings"]
    facts = desk.refused("ca.replaced", *order(desk, "after", "BB-0001"))
    assert facts["replaced_by"] == "root2"
    desk.good("order", "make", "before", "--processes", "1", "-C", str(desk.fab))
    name_cas(desk, settings)
    path = desk.fab / "birthmark.toml"
    path.write_text(path.read_text().replace('ca = "issuing"', 'ca = "issuing2"'))
    desk.good(*order(desk, "after", "BB-0001"))
    desk.good("order", "make", "after", "--processes", "1", "-C", str(desk.fab))
    assert desk.good("audit", "verify", str(desk.fab))["findings"] == []


def test_a_ca_is_replaced_once(desk: Desk) -> None:
    desk.good(*run(desk, ceremony(desk, rollover(desk))))
    desk.refused("ceremony.rollover.twice", *check(desk, ceremony(desk, rollover(desk, "root3"))))


def test_an_issuing_ca_under_a_root_of_an_earlier_ceremony(desk: Desk) -> None:
    desk.good(*run(desk, ceremony(desk, issuing(desk, issuer="root"))))
    assert openssl_verifies(desk, "root", "issuing2")


def test_a_ceremony_is_held_once(desk: Desk) -> None:
    file = ceremony(desk, issuing(desk, issuer="root"), destroy())
    desk.good(*run(desk, file))
    before = files(desk)
    desk.refused("ceremony.done", *run(desk, file))
    assert files(desk) == before


def test_another_ceremony_cannot_take_a_name_over(desk: Desk) -> None:
    desk.refused("ceremony.ca.exists", *check(desk, ceremony(desk, issuing(desk, "issuing", "root"))))


def test_a_key_that_lies_ready_is_not_certified(desk: Desk) -> None:
    shutil.copy(desk.fab / "keys" / "issuing.pem", desk.fab / "keys" / "issuing2.pem")
    file = ceremony(desk, issuing(desk, issuer="root"))
    desk.refused("key.exists", *check(desk, file))
    desk.refused("key.exists", *run(desk, file))
    assert len(events(desk, CaCreated)) == 2


def test_what_cannot_work_is_refused_before_a_key_is_made(desk: Desk) -> None:
    keys = sorted((desk.fab / "keys").iterdir())
    below = issuing(desk, "deeper", "issuing2")
    desk.refused("issuer.path_length", *run(desk, ceremony(desk, issuing(desk, issuer="root"), below)))
    assert sorted((desk.fab / "keys").iterdir()) == keys


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        (("destroy", "issuing"), "ceremony.order"),
        (("signed before made",), "ceremony.order"),
        (("unknown key",), "ceremony.malformed"),
        ((), "ceremony.format"),
    ],
)
def test_a_file_in_disorder_is_refused(desk: Desk, steps: tuple[str, ...], code: str) -> None:
    made = {
        "destroy": destroy(),
        "issuing": issuing(desk, issuer="root"),
        "signed before made": issuing(desk, issuer="root2") + "\n[[step]]\n" + rollover(desk),
        "unknown key": destroy() + "force = true\n",
    }
    desk.refused(code, *check(desk, ceremony(desk, *(made[name] for name in steps))))


# Destruction


def test_a_destroyed_key_is_gone_and_the_log_says_so(desk: Desk) -> None:
    key = desk.fab / "keys" / "issuing.pem"
    inode = os.open(key, os.O_RDONLY)
    said = desk.good(*run(desk, ceremony(desk, destroy())))
    assert said["destroyed"] == ["issuing"]
    assert not key.exists()
    assert not os.read(inode, 1 << 16).strip(b"\0"), "the file was unlinked with the key in it"
    os.close(inode)
    ((event, transcript),) = events(desk, CaKeyDestroyed)
    assert isinstance(event, CaKeyDestroyed)
    assert event.transcript_sha256 == hashlib.sha256(transcript).hexdigest()
    text = transcript.decode()
    assert "  before: file issuing.pem\n" in text
    assert "  after: file issuing.pem\n" not in text
    assert "  after: file root.pem\n" in text
    assert (desk.fab / "ca" / "transcript-issuing-destroyed.txt").read_bytes() == transcript
    assert desk.good("audit", "verify", str(desk.fab))["findings"] == []


def test_a_key_that_an_open_order_needs_is_not_destroyed(desk: Desk) -> None:
    desk.good(*order(desk, "lot", "AA-0001"))
    facts = desk.refused("ceremony.key.needed", *run(desk, ceremony(desk, destroy())))
    assert facts["orders"] == ["lot"]
    desk.good("order", "make", "lot", "--processes", "1", "-C", str(desk.fab))
    desk.good(*run(desk, ceremony(desk, destroy())))


def test_a_key_that_somebody_took_away_does_not_count_as_destroyed(desk: Desk) -> None:
    (desk.fab / "keys" / "issuing.pem").rename(desk.place / "stolen.pem")
    desk.refused("ceremony.key.missing", *run(desk, ceremony(desk, destroy())))
    assert events(desk, CaKeyDestroyed) == []


def test_a_note_that_destruction_began_counts_only_with_the_signature_of_the_log(desk: Desk) -> None:
    """Whoever took the key away writes that a ceremony destroyed it."""
    key = desk.fab / "keys" / "issuing.pem"
    key.rename(desk.place / "stolen.pem")
    certificate = x509.load_pem_x509_certificate((desk.fab / "ca" / "issuing.pem").read_bytes())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = f"birthmark-transcript/2\ndestroy: issuing\n  spki-sha256: {hashlib.sha256(spki).hexdigest()}\n"
    forged = sign_note(text, "fab.example/birthmark", Ed25519PrivateKey.generate())
    (desk.fab / "ca" / "transcript-issuing-destroying.txt").write_text(forged)
    desk.refused("log.note.unsigned", *run(desk, ceremony(desk, destroy())))
    assert events(desk, CaKeyDestroyed) == []


def test_another_key_at_its_place_is_not_destroyed_in_its_stead(desk: Desk) -> None:
    shutil.copy(desk.fab / "keys" / "root.pem", desk.fab / "keys" / "issuing.pem")
    desk.refused("ceremony.key.other", *run(desk, ceremony(desk, destroy())))
    assert (desk.fab / "keys" / "issuing.pem").exists()


def test_a_token_lists_its_objects_before_and_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hsm, pin = SoftHsm(tmp_path / "hsm"), f"canary-{os.urandom(8).hex()}"
    hsm.make_token("ca", pin=pin)
    for name, value in {**hsm.environment, "FACTORY_PIN": pin}.items():
        monkeypatch.setenv(name, value)
    desk = Desk(tmp_path, capsys)
    token = ("--token", "ca", "--module", str(MODULE), "--secret", "env:FACTORY_PIN")
    desk.good("init", str(desk.fab), "--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999", *token)
    desk.good(*run(desk, desk.fab / "ceremony.toml"))
    desk.good(*run(desk, ceremony(desk, destroy())))
    ((_, transcript),) = events(desk, CaKeyDestroyed)
    lines = transcript.decode().splitlines()
    assert sum(line.startswith("  before: private 'issuing'") for line in lines) == 1
    assert not any(line.startswith("  after: private 'issuing'") for line in lines)
    assert any(line.startswith("  after: private 'root'") for line in lines)
    assert "  method: C_DestroyObject on 2 objects (private and public key)" in lines
    listed = subprocess.run(
        ["pkcs11-tool", "--module", str(MODULE), "--token-label", "ca", "--login", "--pin", pin, "--list-objects"],
        env={**os.environ, **hsm.environment}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "root" in listed
    assert "issuing" not in listed


# Delegation


def site_request(desk: Desk, site: str = "shenzhen") -> Path:
    log, key = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    request = SiteRequest(
        site=site, origin=f"{site}.example/log", vkey=encode_vkey(f"{site}.example/log", public_octets(log)),
        site_prefix="0201", mode="factory_ca", vault=b"vault", stations=(), software="test",
        ca=RequestedCa(name="issuing", csr=csr.public_bytes(Encoding.DER), key_scheme="pkcs11"),
        at="2026-11-25T00:00:00.000Z",
    )  # fmt: skip
    path = desk.place / f"{site}.request"
    path.write_bytes(sign_request(request, log))
    return path


def delegate(request: Path, site: str = "shenzhen") -> str:
    digest = hashlib.sha256(request.read_bytes()).hexdigest()
    where = f'request = "{request.name}"\nrequest_sha256 = "{digest}"\nissuer = "root"\nprofile = "site-ca"\n'
    return f'do = "delegate"\nname = "{site}-issuing"\nsite = "{site}"\n{where}{VALUES.format("Shenzhen CA")}'


def test_a_site_gets_a_ca_for_its_own_key_and_no_more(desk: Desk) -> None:
    preset = (desk.fab / "profiles" / "issuing-ca.toml").read_text()
    (desk.fab / "profiles" / "site-ca.toml").write_text(preset)
    request = site_request(desk)
    desk.refused("ceremony.delegate.profile", *check(desk, ceremony(desk, delegate(request))))
    (desk.fab / "profiles" / "site-ca.toml").write_text(preset.replace('days = "none"', "days = 365"))
    desk.good(*run(desk, ceremony(desk, delegate(request))))
    event, der = events(desk, CaCreated)[-1]
    assert isinstance(event, CaCreated)
    assert (event.ca, event.site, event.key_scheme) == ("shenzhen-issuing", "shenzhen", "pkcs11")
    assert openssl_verifies(desk, "root", "shenzhen-issuing")
    assert (
        x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        == 0
    )
    desk.refused("ceremony.key.foreign", *check(desk, ceremony(desk, destroy("shenzhen-issuing"))))


def test_a_request_exchanged_after_the_review_is_refused(desk: Desk) -> None:
    text = delegate(site_request(desk))
    site_request(desk)
    desk.refused("ceremony.request.changed", *check(desk, ceremony(desk, text)))


# Dual control


@pytest.fixture
def sensitive(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A sensitive workspace in which nothing was done yet."""
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    monkeypatch.setenv("FAB_SECRET", "of the factory")
    request = SetupRequest(
        name="fab", origin="fab.example/birthmark", maker="Acme", product="device", preset="tls-client",
        key_algorithm="p256", secret="env:FAB_SECRET", sensitive=True, values={"pen": "99999"},
    )  # fmt: skip
    create_workspace(tmp_path / "fab", request, secrets=SecretsResolver())
    return Desk(tmp_path, capsys)


def test_a_sensitive_workspace_does_nothing_for_one_person(sensitive: Desk) -> None:
    desk, file = sensitive, sensitive.fab / "ceremony.toml"
    desk.refused("approval.no_rule", *run(desk, file))
    desk.refused("approval.one_person", *desk.set_rule(1, desk.person("alice")))
    alone = desk.good("approval", "key", "--key", desk.key("alice"), "--name", "alice")["vkey"]
    desk.good(*desk.set_rule(2, alone, desk.person("bob")))
    desk.refused("approval.missing", *run(desk, file))
    path = desk.fab / "birthmark.toml"
    path.write_text(path.read_text().replace("sensitive = true", "sensitive = false"))
    desk.refused("approval.missing", *run(desk, file))
    assert not (desk.fab / "keys" / "root.pem").exists()


def test_a_sensitive_workspace_from_the_ceremony_to_an_order(sensitive: Desk) -> None:
    desk, file, plan = sensitive, sensitive.fab / "ceremony.toml", sensitive.place / "ceremony.plan"
    desk.good(*desk.set_rule(2, desk.person("alice"), desk.person("bob"), desk.person("carol")))
    desk.good(*run(desk, file, "--plan-only", str(plan)))
    for name in ("carol", "alice"):
        desk.sign(plan, name)
    changed = desk.place / "changed.toml"
    changed.write_text(file.read_text().replace("Issuing CA 1", "Issuing CA 9"))
    desk.refused("approval.other", *run(desk, changed, "--approval", str(plan)))
    desk.good(*run(desk, file, "--approval", str(plan)))
    ((event, _),) = events(desk, ApprovalUsed)
    assert isinstance(event, ApprovalUsed)
    transcript = desk.fab / "ca" / "transcript-root.txt"
    assert f"approved: plan {event.plan_sha256}\napproved: by carol\napproved: by alice\n" in transcript.read_text()
    desk.refused("approval.missing", *order(desk, "lot", "AA-0001"))
    lot = desk.place / "lot.plan"
    desk.good(*order(desk, "lot", "AA-0001"), "--plan-only", str(lot))
    for name in ("bob", "alice"):
        desk.sign(lot, name)
    desk.good(*order(desk, "lot", "AA-0001"), "--approval", str(lot))
    desk.good("order", "make", "lot", "--processes", "1", "-C", str(desk.fab))
    assert desk.good("audit", "verify", str(desk.fab))["findings"] == []


def test_those_who_took_part_sign_what_the_log_recorded(desk: Desk) -> None:
    desk.person("alice")
    transcript = desk.fab / "ca" / "transcript-root.txt"
    recorded = events(desk, CaCreated)[0][0]
    assert isinstance(recorded, CaCreated)
    said = desk.good("ceremony", "sign", str(transcript), "--key", desk.key("alice"), "--name", "alice")
    assert said["signed_by"] == ["fab.example/birthmark", "alice"]
    assert recorded_part(transcript.read_bytes())[1] == recorded.transcript_sha256 == said["transcript_sha256"]
    again = ("ceremony", "sign", str(transcript), "--key", desk.key("alice"), "--name", "alice")
    desk.refused("approval.signed", *again)


def test_a_line_feed_in_a_title_forges_no_line(desk: Desk) -> None:
    file = ceremony(desk, issuing(desk, issuer="root"))
    file.write_text(file.read_text().replace('title = "CA keys of Acme"', 'title = "x\\napproved: by alice"'))
    desk.refused("ceremony.malformed", *check(desk, file))


def test_a_ceremony_of_the_first_format_is_still_read(desk: Desk) -> None:
    step = issuing(desk, issuer="root").replace('do = "issuing"', 'kind = "issuing"').replace("[step.", "[ca.")
    where = f'key = "{key_uri(desk, "r1")}"\nkey_algorithm = "p256"\n'
    root = f'\n[[ca]]\nname = "r1"\nkind = "root"\nprofile = "root-ca"\n{where}'
    file = desk.place / "old.toml"
    text = HEAD.replace("/2", "/1") + root + VALUES.format("R1").replace("step", "ca") + "\n[[ca]]\n" + step
    file.write_text(text.replace('issuer = "root"', 'issuer = "r1"'))
    assert main(["ceremony", "run", str(file), "-C", str(desk.fab)]) == 0
    assert openssl_verifies(desk, "r1", "issuing2")
