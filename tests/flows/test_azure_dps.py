"""A workspace and an emulated provisioning service: CAs proven, groups made, devices let in by Microsoft's client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1, sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.errors import Refused
from birthmark.model.events import PossessionIntended, PossessionProven, decode_entry
from birthmark.ports.cloud import CloudAuthority, Registration
from birthmark.shell.authority.approvals import write_plan
from birthmark.shell.authority.possession import ACTION, possession, possession_facts
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import Workspace, open_workspace
from birthmark.testing.dps import EmulatedDps
from support.approvers import OPERATOR, Desk
from support.clouds.azure_dps import ARM, DpsService
from support.clouds.fleet import Fleet
from support.fences import PowerCut
from support.forgery import AT, Entries, appended, changed, entry_of, find, without
from support.ledgerfiles import rewrite_log
from support.softhsm import MODULE, PIN, SoftHsm
from support.vendortools import run_tool

SUPPORT = Path(__file__).resolve().parents[1] / "support"
PROGRAM = "import sys; from birthmark.shell.cli.main import main; sys.exit(main())"
CLOUD, CODE = "azure-dps:dps1.example", "AB12" * 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dps")
    make_workspace(place / "fab")
    return place / "fab"


@pytest.fixture
def fab(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "fab"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[DpsService]:
    host = f"127.12.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # the client's port is fixed
    with EmulatedDps(host=host, assigning_s=0.1) as dps:
        yield DpsService(dps, tmp_path)


def authority(opened: Workspace, ca: str = "issuing") -> CloudAuthority:
    own, *above = opened.chain(ca)
    return CloudAuthority(ca, (own,), tuple(above))


def events(opened: Workspace) -> list[tuple[PossessionIntended | PossessionProven, bytes]]:
    entries = [decode_entry(entry) for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]
    return [(one, data) for one, data in entries if isinstance(one, PossessionIntended | PossessionProven)]


def findings(fab: Path) -> set[str]:
    return {code for code in verify_workspace(fab, processes=1).totals if code != "audit.entry.unpublished"}


def device(fleet: Fleet, directory: Path, told: Registration) -> str:
    """Write key and chain of a device for Microsoft's client; return its argument."""
    pem = fleet.keys[told.device_serial].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key, chain = directory / f"{told.device_serial}.key", directory / f"{told.device_serial}.pem"
    with os.fdopen(os.open(key, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(pem)
    certificates = (told.certificates[0], *told.chain)
    chain.write_bytes(b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in certificates))
    return f"{told.device_serial}={chain}={key}"


def register(service: DpsService, *devices: str) -> dict[str, str]:
    root = service.directory / "dps-root.pem"
    told = run_tool(
        "azure", "python", SUPPORT / "azuredevices.py", service.dps.host, service.dps.id_scope, root, *devices
    )
    lines = [json.loads(line) for line in told.splitlines() if line.startswith('{"name"')]
    return {one["name"]: one.get("status") or one["error"] for one in lines}


def manage(service: DpsService, *arguments: str | Path) -> dict[str, object]:
    base = f"https://{service.host}"
    root = service.directory / "dps-root.pem"
    told = run_tool("azure", "python", SUPPORT / "azuremanagement.py", base, root, service.token, ARM, *arguments)
    return dict(json.loads(told.splitlines()[-1]))


def test_microsofts_management_client_sees_the_ca_proven_by_a_certificate_on_record(
    fab: Path, service: DpsService, tmp_path: Path
) -> None:
    cloud = service.open(ca="reference")
    with open_workspace(fab) as opened:
        own = authority(opened)
        lines = cloud.prepare([own], possession(opened, cloud=cloud.name, cas=["issuing"]))
        (intended, _), (proven, der) = events(opened)
    cloud.close()
    assert [line.rpartition(": ")[2] for line in lines] == ["possession proven", "made"]
    assert isinstance(intended, PossessionIntended)
    assert isinstance(proven, PossessionProven)
    certificate = x509.load_der_x509_certificate(der)
    (name,) = certificate.subject
    assert (name.oid, name.value, intended.cloud) == (NameOID.COMMON_NAME, intended.code, cloud.name)
    assert intended.tbs_sha256 == sha256(certificate.tbs_certificate_bytes).hexdigest()
    assert certificate.issuer == x509.load_der_x509_certificate(own.certificates[0]).subject
    thumbprint = sha1(own.certificates[0], usedforsecurity=False).hexdigest().upper()
    digest = sha256(own.certificates[0]).hexdigest()
    assert manage(service) == {f"issuing-{digest[:16]}": [True, thumbprint]}
    pem = tmp_path / "other.pem"
    pem.write_bytes(x509.load_der_x509_certificate(own.chain[-1]).public_bytes(Encoding.PEM))
    asked = manage(service, "root-by-hand", pem)
    assert asked["verified"] is False
    assert str(asked["code"]).isalnum()
    assert findings(fab) == set()


@pytest.mark.parametrize("options", [{"ca": "upload"}, {"ca": "upload", "root": "verified"}, {}])
def test_microsofts_device_client_comes_in_by_the_group_and_a_blocked_one_does_not(
    service: DpsService, tmp_path: Path, options: dict[str, str]
) -> None:
    fleet = Fleet()
    if options.get("root"):
        root = {"certificate": b64encode(fleet.chain()[1]).decode(), "isVerified": True}
        service.ask("PUT", f"{ARM}/certificates/our-root", {"properties": root})
    cloud = service.open(**{name: value for name, value in options.items() if name != "root"})
    cloud.prepare([fleet.authority()], fleet.prove)
    assert len(fleet.proofs) == (not options.get("root"))
    good, bad = fleet.registration("unit-good"), fleet.registration("unit-bad")
    arguments = [device(fleet, tmp_path, one) for one in (good, bad)]
    blocked = Registration("unit-bad", "blocked", bad.certificates, bad.chain)
    assert [one.kind for one in cloud.tell([good, blocked])] == ["covered", "done"]
    seen = register(service, *arguments)
    assert seen["unit-good"] == "assigned"
    assert "disabled" in seen["unit-bad"]
    nameless = Registration("unit-bad", "blocked", (), ())
    assert [one.kind for one in cloud.tell([nameless])] == ["done"]
    assert register(service, arguments[1])["unit-bad"] != "assigned"
    assert [one.kind for one in cloud.tell([bad])] == ["done"]
    assert register(service, arguments[1])["unit-bad"] == "assigned"
    cloud.close()


def test_microsofts_device_client_comes_in_by_either_certificate_while_one_is_rolled(
    service: DpsService, tmp_path: Path
) -> None:
    fleet, cloud = Fleet(), service.open(mode="individual")
    first = fleet.registration("unit-rolled")
    argument = device(fleet, tmp_path, first)
    assert register(service, argument)["unit-rolled"] != "assigned"
    second = fleet.certificate("unit-rolled")
    cloud.tell([Registration("unit-rolled", "enabled", (second, *first.certificates), first.chain)])
    assert register(service, argument)["unit-rolled"] == "assigned"
    cloud.tell([Registration("unit-rolled", "enabled", (second,), first.chain)])
    assert register(service, argument)["unit-rolled"] != "assigned"
    cloud.close()


def test_a_power_cut_between_intent_and_proof_leaves_an_intent_and_the_next_run_proves(fab: Path) -> None:
    with open_workspace(fab) as opened:
        prove = possession(opened, cloud=CLOUD, cas=["issuing"])
        issuer = opened.issuer("issuing")

        def cut(*arguments: object, **options: object) -> list[bytes]:
            raise PowerCut

        issuer.sign_many = cut  # type: ignore[method-assign]
        opened.issuer = lambda ca: issuer  # type: ignore[method-assign]
        with pytest.raises(PowerCut):
            prove("issuing", CODE)
    assert findings(fab) == set()
    with open_workspace(fab) as opened:
        assert [type(event) for event, _ in events(opened)] == [PossessionIntended]
        der = possession(opened, cloud=CLOUD, cas=["issuing"])("issuing", CODE)
        (*_, (last, kept)) = events(opened)
        assert isinstance(last, PossessionProven)
        assert kept == der
    assert findings(fab) == set()


@pytest.mark.parametrize("code", ["", "short", "x" * 65, "with space 1", "ümlaut-12", "device-0001"])
def test_what_is_no_code_is_never_signed(fab: Path, code: str) -> None:
    with open_workspace(fab) as opened:
        prove = possession(opened, cloud=CLOUD, cas=["issuing"])
        with pytest.raises(Refused) as caught:
            prove("issuing", code)
        assert caught.value.code == "possession.code"
        with pytest.raises(Refused) as caught:
            prove("root", CODE)
        assert caught.value.code == "possession.ca"
        assert events(opened) == []


def test_under_dual_control_two_people_approve_which_cas_prove_themselves_to_which_cloud(
    fab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSON_SECRET", "each to their own")
    desk = Desk(tmp_path, capsys)
    desk.good(*desk.set_rule(2, desk.person("alice"), desk.person("bob"), desk.person(OPERATOR)))
    facts, plan, other = possession_facts(CLOUD, ["issuing"]), tmp_path / "a.plan", tmp_path / "b.plan"
    with open_workspace(fab) as opened:
        with pytest.raises(Refused) as caught:
            possession(opened, cloud=CLOUD, cas=["issuing"])("issuing", CODE)
        assert caught.value.code == "approval.missing"
        write_plan(opened, ACTION, facts, plan, hours=1)
        write_plan(opened, ACTION, possession_facts("azure-dps:other.example", ["issuing"]), other, hours=1)
    for name in ("alice", "bob"):
        desk.sign(plan, name)
        desk.sign(other, name)
    with open_workspace(fab) as opened:
        for approval, code in ((other, "approval.other"), (None, "approval.missing")):
            with pytest.raises(Refused) as caught:
                possession(opened, cloud=CLOUD, cas=["issuing"], approval=approval)("issuing", CODE)
            assert caught.value.code == code
        assert events(opened) == []
        prove = possession(opened, cloud=CLOUD, cas=["issuing"], approval=plan)
        assert len({prove("issuing", CODE), prove("issuing", CODE)}) == 2
    assert findings(fab) == set()
    forge(fab, without("approval_used"))
    assert "audit.approval.missing" in findings(fab)


def forge(fab: Path, change: object) -> None:
    with open_workspace(fab, publish=False) as opened:
        key, origin = opened.private_key(opened.settings.log.key), opened.settings.origin
    rewrite_log(fab, key, change, origin)  # type: ignore[arg-type]


def _unasked(entries: Entries) -> Entries:
    said = {"at": AT, "ca": "issuing", "cert_sha256": "00" * 32, "intent": 0, "type": "possession_proven"}
    return appended(entry_of(said, b"\x30\x00"))(entries)


def _by_another_key(entries: Entries) -> Entries:
    """Whoever holds the log's key alone signs a proof with a key of their own, and says so everywhere."""
    at = find(entries, "possession_proven")
    document, _, der = entries[at].partition(b"\n")
    forged = bytearray(der)
    forged[-1] ^= 1
    members = {**json.loads(document), "cert_sha256": sha256(forged).hexdigest()}
    entries[at] = entry_of(members, bytes(forged))
    return entries


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_unasked, "audit.possession.intent"),
        (without("possession_intended"), "audit.possession.intent"),
        (changed("possession_intended")(ca="nobody"), "audit.possession.intent"),
        (changed("possession_intended")(code="CD34" * 12), "audit.possession.certificate"),
        (changed("possession_intended")(tbs_sha256="11" * 32), "audit.possession.certificate"),
        (changed("possession_intended")(cert_serial="11" * 16), "audit.possession.certificate"),
        (changed("possession_proven", b"\x30\x00")(), "audit.possession.certificate"),
        (_by_another_key, "audit.possession.certificate"),
    ],
)
def test_forged_proofs_are_found_by_the_audit(fab: Path, change: object, code: str) -> None:
    with open_workspace(fab) as opened:
        possession(opened, cloud=CLOUD, cas=["issuing"])("issuing", CODE)
    forge(fab, change)
    assert code in findings(fab)


def test_keys_of_proofs_are_of_one_certificate_each(fab: Path) -> None:
    with open_workspace(fab) as opened:
        prove = possession(opened, cloud=CLOUD, cas=["issuing"])
        keys = [x509.load_der_x509_certificate(prove("issuing", CODE)).public_key() for _ in range(2)]
    assert all(isinstance(key, ec.EllipticCurvePublicKey) for key in keys)
    assert keys[0] != keys[1]


def test_a_ca_whose_key_stays_in_a_token_proves_itself(
    tmp_path: Path, service: DpsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    hsm = SoftHsm(tmp_path / "hsm")
    for name, value in {**hsm.environment, "TOKEN_PIN": PIN}.items():
        monkeypatch.setenv(name, value)
    hsm.make_token("ca")
    fab, cloud = tmp_path / "fab", service.open(ca="reference")
    choices = ("--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999", "--secret", "env:TOKEN_PIN")
    for command in (
        ("init", str(fab), *choices, "--token", "ca", "--module", str(MODULE)),
        ("ceremony", "run", str(fab / "ceremony.toml"), "-C", str(fab)),
    ):
        subprocess.run([sys.executable, "-c", PROGRAM, *command], check=True, capture_output=True)
    with open_workspace(fab) as opened:
        lines = cloud.prepare([authority(opened)], possession(opened, cloud=cloud.name, cas=["issuing"]))
        assert lines[0].endswith("possession proven")
        assert len(events(opened)) == 2
    cloud.close()
    assert findings(fab) == set()
