"""Azure Device Registry signs for us: ahead of time and one by one, through the emulated provisioning service."""

from __future__ import annotations

import base64
import hmac
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.adapters.issuers.adranswer import read_answer
from birthmark.adapters.issuers.azure_adr import AzureAdrService
from birthmark.adapters.issuers.web import WebAnswer
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Tampered, Unavailable
from birthmark.model.events import decode_entry
from birthmark.model.secret import Secret
from birthmark.ports import SigningRequest
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.testing.dps import EmulatedDps, FaultPlan
from birthmark.workflow.orders import order as ordering
from birthmark.workflow.orders.procure import idempotency_key
from support.dpsservice import signer as signer_of
from support.dpsservice import verify_ca
from support.seller import Seller
from support.serviceworld import device_csr

GROUP_KEY = base64.b64encode(b"canary-adr-group-key-0123456789abcdef").decode()
COUNT, OUTSTANDING = 5, 2
PROGRAM = [sys.executable, "-c", "import sys; from birthmark.shell.cli.main import main; sys.exit(main())"]


@contextmanager
def running(place: Path, **options: Any) -> Iterator[EmulatedDps]:
    """A service whose group of symmetric keys gets certificates of 30 days."""
    with EmulatedDps(mqtt_port=0, credential_policies={"line": 30}, assigning_s=0.0, **options) as dps:
        body = {
            "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": GROUP_KEY}},
            "credentialPolicyName": "line",
        }
        assert tell(dps, "/enrollmentGroups/line", body) == 200
        (place / "dps-root.pem").write_text(dps.root_pem)
        yield dps


def tell(dps: EmulatedDps, path: str, body: Any) -> int:
    trust = ssl.create_default_context(cadata=dps.root_pem)
    with httpx.Client(verify=trust, trust_env=False) as client:
        url = f"https://127.0.0.1:{dps.https_port}{path}"
        return client.put(url, json=body, headers={"authorization": dps.sas_token()}).status_code


def uri(dps: EmulatedDps, place: Path, *options: str) -> str:
    chosen = options or ("group-key=env:ADR_KEY",)
    return f"azure-adr:127.0.0.1:{dps.https_port}/{dps.id_scope}?" + "&".join(
        (*chosen, f"trust={place / 'dps-root.pem'}")
    )


def secret(reference: str) -> Secret:
    known = {"env:ADR_KEY": GROUP_KEY, "env:BAD": "?", "env:OTHER": base64.b64encode(bytes(32)).decode()}
    return Secret(known[reference].encode())


@contextmanager
def service(uri: str, place: Path) -> Iterator[AzureAdrService]:
    """An adapter for which waiting takes no time."""
    moment = [0.0]

    def sleep(seconds: float) -> None:
        moment[0] += seconds

    made = AzureAdrService(uri, secrets=secret, base=place, sleep=sleep, monotonic=lambda: moment[0])
    try:
        yield made
    finally:
        made.close()


def wanted(name: str = "unit-1", csr: bytes | None = None) -> SigningRequest:
    csr = device_csr(name) if csr is None else csr
    return SigningRequest(idempotency_key(csr), csr, name, datetime.now(UTC) + timedelta(days=30))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry") / "fab"
    make_workspace(root, preset="azure-dps")
    settings = root / "birthmark.toml"
    settings.write_text(settings.read_text().replace('ca = "issuing"', 'ca = "registry"'))
    profile = root / "profiles" / "azure-dps.toml"
    profile.write_text(profile.read_text().replace("days = 3650", "days = 30"))
    return root


class Fab:
    """A workspace whose product is signed by the registry."""

    def __init__(self, place: Path, dps: EmulatedDps, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.dps, self.capsys, self.root = place, dps, capsys, place / "fab"
        with (self.root / "birthmark.toml").open("a") as settings:
            settings.write(
                f'\n[cas.registry]\nissuer = "{uri(dps, place)}"\nrate = 2000\noutstanding = {OUTSTANDING}\n'
            )
        (place / "chain.pem").write_text(dps.registry.chain_pem("line"))
        assert self.good("ca", "import", "registry", str(place / "chain.pem"))["kind"] == "external"

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        self.capsys.readouterr()
        code = main([*arguments, "-C", str(self.root), "--json"])
        printed = self.capsys.readouterr()
        assert GROUP_KEY not in printed.out + printed.err
        out = printed.out.splitlines()
        return code, json.loads(out[-1]) if out else {}

    def good(self, *arguments: str) -> dict[str, Any]:
        code, document = self.run(*arguments)
        assert code == 0, document
        return document

    def order(self, origin: str) -> None:
        more = ("--quantity", str(COUNT), "--first", "sn-001", "--key-origin", origin)
        self.good("order", "create", "a", "--product", "device", *more)

    def provision(self, device: str, *more: str) -> tuple[int, dict[str, Any]]:
        (self.place / "out" / device).mkdir(parents=True, exist_ok=True)
        target = f"files:{self.place}/out/{device}{'?' if more else ''}{'&'.join(more)}"
        return self.run("station", "provision", "--device-serial", device, "--target", target)

    def received(self) -> dict[str, bytes]:
        with open_workspace(self.root, publish=False) as opened:
            events = [decode_entry(entry) for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]
        found = [(event.device, der) for event, der in events if event.__struct_config__.tag == "received"]
        assert max(Counter(device for device, _ in found).values(), default=1) == 1
        return dict(found)

    def verified_by_openssl(self, device: str) -> None:
        leaf = self.place / "out" / device / "device.crt"
        (self.place / "root.pem").write_bytes(self.dps.registry.root.public_bytes(Encoding.PEM))
        chain = ["-untrusted", str(self.place / "chain.pem"), "-CAfile", str(self.place / "root.pem")]
        command = ["openssl", "verify", "-purpose", "sslclient", *chain, str(leaf)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def fab(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fab]:
    monkeypatch.setattr(ordering, "CHUNK_SIZE", 4)
    monkeypatch.setenv("ADR_KEY", GROUP_KEY)
    shutil.copytree(made, tmp_path / "fab")
    with running(tmp_path) as dps:
        yield Fab(tmp_path, dps, capsys)


class TestAWorkspace:
    def test_an_order_ahead_of_time_is_issued_by_the_registry(self, fab: Fab) -> None:
        fab.order("injected")
        document = fab.good("order", "make", "a", "--processes", "1")
        assert (document["made"], document["stock"]) == (COUNT, COUNT)
        assert fab.provision("sn-001")[0] == 0
        fab.verified_by_openssl("sn-001")
        assert len(fab.received()) == COUNT
        fab.good("ledger", "replay")

    def test_a_key_that_was_born_in_the_device_gets_its_certificate(self, fab: Fab) -> None:
        fab.order("device")
        code, document = fab.provision("sn-001", "key=born")
        assert code == 0, document
        fab.verified_by_openssl("sn-001")
        assert set(fab.received()) == {"sn-001"}
        fab.good("ledger", "replay")

    @pytest.mark.parametrize("at", [1, COUNT])
    def test_killed_at_any_registration_it_costs_at_most_what_was_outstanding(
        self, fab: Fab, at: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        issued, arrived, issue = list[str](), threading.Condition(), fab.dps.registry.issue

        def counted(enrollment: Any, registration_id: str, csr: object) -> tuple[bytes, ...]:
            with arrived:
                issued.append(registration_id)
                arrived.notify_all()
            return issue(enrollment, registration_id, csr)

        monkeypatch.setattr(fab.dps.registry, "issue", counted)
        fab.order("injected")
        command = [*PROGRAM, "order", "make", "a", "--processes", "1", "-C", str(fab.root)]
        with (fab.place / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        with arrived:
            assert arrived.wait_for(lambda: len(issued) >= at, timeout=60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        fab.good("order", "make", "a", "--processes", "1")
        assert len(fab.received()) == COUNT
        assert set(issued) == {f"sn-{number:03d}" for number in range(1, COUNT + 1)}
        assert len(issued) <= COUNT + OUTSTANDING

    def test_throttling_and_lost_answers_give_each_device_one_certificate_on_record(self, fab: Fab) -> None:
        fab.dps.faults.set(FaultPlan(seed=3, throttled=0.3, lost=0.3))
        fab.order("injected")
        for _ in range(10):
            code, document = fab.run("order", "make", "a", "--processes", "1")
            assert code in (0, 6), document
            if code == 0:
                break
        assert len(fab.received()) == COUNT


class TestTheAdapter:
    def test_a_leaf_comes_with_the_key_that_was_asked_for_and_the_name_shows_no_secret(self, tmp_path: Path) -> None:
        with running(tmp_path) as dps, service(uri(dps, tmp_path), tmp_path) as signer:
            asked = wanted()
            leaf = x509.load_der_x509_certificate(signer.sign(asked))
            assert leaf.public_key() == x509.load_der_x509_csr(asked.csr).public_key()
            assert signer.name == f"azure-adr:127.0.0.1:{dps.https_port}/{dps.id_scope}"
            assert GROUP_KEY not in f"{signer!r}{vars(signer)}"

    def test_each_device_may_come_with_its_onboarding_certificate(self, tmp_path: Path) -> None:
        seller = Seller()
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "unit-1")])
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        leaf = seller.issuing.sign_csr(csr, extensions=[])
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, seller.issuing.certificate))
        (tmp_path / "unit-1.pem").write_bytes(chain)
        with os.fdopen(os.open(tmp_path / "unit-1.key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with running(tmp_path) as dps:
            issuing = seller.issuing.certificate.public_bytes(Encoding.PEM).decode()
            verify_ca(dps, seller.issuing.certificate, signer_of(seller.issuing.certificate, seller.issuing.key))
            attestation = {"type": "x509", "x509": {"signingCertificates": {"primary": {"certificate": issuing}}}}
            body = {"attestation": attestation, "credentialPolicyName": "line"}
            assert tell(dps, "/enrollmentGroups/onboarding", body) == 200
            options = ("certificate={device_serial}.pem", "key={device_serial}.key")
            with service(uri(dps, tmp_path, *options), tmp_path) as signer:
                issued = x509.load_der_x509_certificate(signer.sign(wanted()))
                assert issued.issuer.rfc4514_string() == "CN=Emulated Device Registry line"
                with pytest.raises(Misconfigured) as raised:
                    signer.sign(wanted("unit-2"))
            assert raised.value.code == "issuer.tls.files"

    def test_an_operation_that_is_under_way_is_not_begun_again(self, tmp_path: Path) -> None:
        moment = [0.0]
        with EmulatedDps(mqtt_port=0, assigning_s=300, monotonic=lambda: moment[0]) as dps:
            body = {
                "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": GROUP_KEY}},
                "credentialPolicyName": "default",
            }
            assert tell(dps, "/enrollmentGroups/line", body) == 200
            (tmp_path / "dps-root.pem").write_text(dps.root_pem)
            with service(uri(dps, tmp_path), tmp_path) as signer:
                asked, issued = wanted(), []
                for end in (301, 602):
                    for _ in range(2):
                        with pytest.raises(Unavailable) as raised:
                            signer.sign(asked)
                        assert raised.value.code == "issuer.pending"
                    moment[0] = end
                    issued.append(signer.sign(asked))
            assert issued[0] != issued[1]
            assert len(dps._device._store.operations) == 2

    @pytest.mark.parametrize(
        ("options", "family", "code"),
        [
            (("group-key=env:OTHER",), Misconfigured, "issuer.credentials"),
            (("group-key=env:ADR_KEY", "api-version=2021-10-01"), Refused, "issuer.refused"),
            (("group-key=env:ADR_KEY", "api-version=2019-01-01"), Refused, "issuer.refused"),
        ],
    )
    def test_each_no_is_in_its_family(
        self, tmp_path: Path, options: tuple[str, ...], family: type[BirthmarkError], code: str
    ) -> None:
        with (
            running(tmp_path) as dps,
            service(uri(dps, tmp_path, *options), tmp_path) as signer,
            pytest.raises(family) as raised,
        ):
            signer.sign(wanted())
        assert raised.value.code == code

    def test_a_disabled_device_is_refused(self, tmp_path: Path) -> None:
        own = hmac.digest(base64.b64decode(GROUP_KEY), b"unit-1", "sha256")
        with running(tmp_path) as dps:
            keys = {"primaryKey": base64.b64encode(own).decode()}
            body = {"attestation": {"type": "symmetricKey", "symmetricKey": keys}, "provisioningStatus": "disabled"}
            assert tell(dps, "/enrollments/unit-1", body) == 200
            with service(uri(dps, tmp_path), tmp_path) as signer, pytest.raises(Refused) as raised:
                signer.sign(wanted())
        assert raised.value.code == "issuer.refused"

    @pytest.mark.parametrize("name", ["", "a b", "unit.", "über", "a/b", "../x"])
    def test_a_name_that_is_no_registration_id_is_never_sent(self, tmp_path: Path, name: str) -> None:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        csr = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)
        nobody = "azure-adr:127.0.0.1:1/0ne1?group-key=env:ADR_KEY"
        with service(nobody, tmp_path) as signer, pytest.raises(Refused) as raised:
            signer.sign(wanted("x", csr))
        assert raised.value.code == "issuer.name"

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("azure-adr:host?group-key=env:ADR_KEY", "issuer.uri"),
            ("azure-adr:host/0ne1", "issuer.uri"),
            ("azure-adr:host/0ne1?group-key=env:ADR_KEY&certificate={device_serial}&key={device_serial}", "issuer.uri"),
            ("azure-adr:host/0ne1?certificate=a.pem&key=a.key", "issuer.uri"),
            ("azure-adr:host/0ne1?group-key=env:ADR_KEY&api-version=latest", "issuer.uri"),
            ("azure-adr:host/0ne1?group-key=env:BAD", "issuer.key"),
            ("azure-adr:user@host/0ne1?group-key=env:ADR_KEY", "issuer.uri"),
        ],
    )
    def test_a_uri_that_cannot_be_meant(self, tmp_path: Path, text: str, code: str) -> None:
        with pytest.raises(Misconfigured) as raised:
            AzureAdrService(text, secrets=secret, base=tmp_path)
        assert raised.value.code == code


def said(status: str = "assigned", chain: object = None, **state: object) -> bytes:
    document = {"operationId": "4.a.b-c", "status": status, "registrationState": state}
    if chain is not None:
        document["registrationState"] = {**state, "issuedCertificateChain": chain}
    return json.dumps(document).encode()


def _chain() -> list[str]:
    seller = Seller()
    leaf = seller.issuing.sign_csr(x509.load_der_x509_csr(device_csr("unit-1")))
    ders = (each.public_bytes(Encoding.DER) for each in (leaf, seller.issuing.certificate, seller.root.certificate))
    return [base64.b64encode(der).decode() for der in ders]


CHAIN = _chain()


@pytest.mark.parametrize(
    ("body", "family", "code"),
    [
        (b"", Tampered, "issuer.answer.form"),
        (b"\xff", Tampered, "issuer.answer.form"),
        (b"[]", Tampered, "issuer.answer.form"),
        (b"[" * 100_000, Tampered, "issuer.answer.form"),
        (b'{"operationId":"../../enrollments/x","status":"assigning"}', Tampered, "issuer.answer.form"),
        (b'{"operationId":"","status":"assigning"}', Tampered, "issuer.answer.form"),
        (said(chain=["AAAA"]), Tampered, "issuer.answer.form"),
        (said(chain=["?"]), Tampered, "issuer.answer.form"),
        (said(chain=CHAIN[::-1]), Tampered, "issuer.answer.form"),
        (said(chain=[CHAIN[0], CHAIN[2]]), Tampered, "issuer.answer.form"),
        (said(chain=[CHAIN[0]] * 11), Tampered, "issuer.answer.form"),
        (said(chain=CHAIN[0]), Tampered, "issuer.answer.form"),
        (said(), Misconfigured, "issuer.policy"),
        (said(chain=[]), Misconfigured, "issuer.policy"),
        (said("failed", errorCode=400209, errorMessage="no"), Refused, "issuer.refused"),
        (said("failed", errorCode=429001), Unavailable, "issuer.busy"),
        (said("failed", errorCode=500000), Unavailable, "issuer.busy"),
        (said("disabled"), Refused, "issuer.refused"),
        (said("what" * 1000), Refused, "issuer.refused"),
    ],
)
def test_each_answer_is_in_its_family(body: bytes, family: type[BirthmarkError], code: str) -> None:
    with pytest.raises(family) as raised:
        read_answer(WebAnswer(200, None, body), "azure-adr:x/y", wanted())
    assert raised.value.code == code
    assert len(str(raised.value)) < 500


def test_a_good_chain_gives_its_leaf() -> None:
    answer = read_answer(WebAnswer(200, None, said(chain=CHAIN)), "azure-adr:x/y", wanted())
    assert answer.certificate == base64.b64decode(CHAIN[0])
