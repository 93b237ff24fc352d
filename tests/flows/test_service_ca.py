"""A third party's service signs: over EST in bulk and one by one, killed and fooled at every turn."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.model.events import decode_entry
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.workflow.orders import order as ordering
from support.estserver import PASSWORD, USER, EstServer, est_server, write_tls_identity
from support.seller import Seller, name_of, pem

PROGRAM = [sys.executable, "-c", "import sys; from birthmark.shell.cli.main import main; sys.exit(main())"]
COUNT = 11


@pytest.fixture(scope="module")
def seller() -> Seller:
    return Seller()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("service") / "fab"
    make_workspace(root)
    (root / "birthmark.toml").write_text(
        (root / "birthmark.toml").read_text().replace('ca = "issuing"', 'ca = "service"')
    )
    return root


@pytest.fixture
def est(seller: Seller, tmp_path: Path) -> Iterator[EstServer]:
    with est_server(seller, tmp_path) as server:
        yield server


class Fab:
    """A workspace whose product is signed by the service."""

    def __init__(self, place: Path, est: EstServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.est, self.capsys, self.root = place, est, capsys, place / "fab"
        self.settings = (self.root / "birthmark.toml").read_text()

    def connect(self, uri: str, *more: str) -> None:
        lines = "\n".join([f'issuer = "{uri}"', "rate = 2000", *more])
        (self.root / "birthmark.toml").write_text(f"{self.settings}\n[cas.service]\n{lines}\n")

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        self.capsys.readouterr()
        code = main([*arguments, "-C", str(self.root), "--json"])
        out = self.capsys.readouterr().out.splitlines()
        assert PASSWORD not in "".join(out)
        return code, json.loads(out[-1]) if out else {}

    def good(self, *arguments: str) -> dict[str, Any]:
        code, document = self.run(*arguments)
        assert code == 0, document
        return document

    def import_chain(self) -> None:
        path = self.place / "chain.pem"
        path.write_bytes(pem(self.est.seller.issuing.certificate, self.est.seller.root.certificate))
        assert self.good("ca", "import", "service", str(path))["kind"] == "external"

    def order(self, name: str = "a", *, count: int = COUNT, origin: str = "injected", first: str = "SN-001") -> None:
        more = ("--quantity", str(count), "--first", first, "--key-origin", origin)
        self.good("order", "create", name, "--product", "device", *more)

    def make(self, name: str = "a") -> tuple[int, dict[str, Any]]:
        return self.run("order", "make", name, "--processes", "1")

    def events(self) -> list[tuple[Any, bytes]]:
        with open_workspace(self.root, publish=False) as opened:
            return [decode_entry(entry) for _, entry in opened.ledger.entries(0, opened.ledger.head().size)]

    def received(self) -> dict[str, bytes]:
        """Return the certificate of every device; each has exactly one."""
        found = [(event.device, der) for event, der in self.events() if event.__struct_config__.tag == "received"]
        assert max(Counter(device for device, _ in found).values(), default=1) == 1
        return dict(found)

    def provision(self, device: str, *more: str) -> tuple[int, dict[str, Any]]:
        (self.place / "out" / device).mkdir(parents=True, exist_ok=True)
        target = f"files:{self.place}/out/{device}{'?' if more else ''}{'&'.join(more)}"
        return self.run("station", "provision", "--device-serial", device, "--target", target)

    def whole(self, count: int = COUNT) -> None:
        """Every device has one certificate in the pool, with a key that opens, and the log replays."""
        assert len(self.received()) == count
        keys = {x509.load_der_x509_certificate(der).public_key().public_numbers() for der in self.received().values()}
        assert len(keys) == count
        assert self.provision("SN-001")[0] == 0
        self.good("ledger", "replay")
        assert list((self.root / "ledger" / "requests").glob("*")) == []


@pytest.fixture
def fab(
    made: Path, est: EstServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Fab:
    monkeypatch.setattr(ordering, "CHUNK_SIZE", 4)
    monkeypatch.setenv("EST_PASSWORD", PASSWORD)
    shutil.copytree(made, tmp_path / "fab")
    opened = Fab(tmp_path, est, capsys)
    opened.connect(est.uri(user=USER, secret="env:EST_PASSWORD"), "outstanding = 3")
    opened.import_chain()
    return opened


class TestTheServerIsHonest:
    """strongSwan's client, which nobody here wrote, gets along with the server that the other tests use."""

    def swan(self, *arguments: str) -> bytes:
        done = subprocess.run(["pki", *arguments], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def test_strongswan_enrols(self, est: EstServer, seller: Seller, tmp_path: Path):
        key = ec.generate_private_key(ec.SECP256R1())
        (tmp_path / "device.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        request = self.swan("--req", "--in", str(tmp_path / "device.key"), "--type", "ecdsa", "--dn", "CN=SN-1")
        (tmp_path / "request.der").write_bytes(request)
        (tmp_path / "issuing.pem").write_bytes(pem(seller.issuing.certificate))
        url = est.url.removesuffix("/.well-known/est")
        trust = ("--cacert", str(est.trust), "--cacert", str(tmp_path / "issuing.pem"))
        answer = self.swan(
            "--est", "--url", url, "--in", str(tmp_path / "request.der"), *trust, "--userpass", f"{USER}:{PASSWORD}",
            "--outform", "pem",
        )  # fmt: skip
        certificate = x509.load_pem_x509_certificate(answer)
        certificate.verify_directly_issued_by(seller.issuing.certificate)
        assert certificate.public_key() == key.public_key()


class TestAheadOfTime:
    def test_an_order_is_signed_by_the_service(self, fab: Fab):
        fab.order()
        code, document = fab.make()
        assert (code, document["made"], document["stock"]) == (0, COUNT, COUNT)
        assert len(fab.est.signed) == COUNT
        assert fab.est.most <= 3
        fab.whole()
        assert fab.make()[1]["made"] == 0
        assert len(fab.est.requests) == COUNT

    def test_mutual_tls(self, fab: Fab):
        certificate, key = write_tls_identity(fab.est.seller.root, fab.place, "factory", server=False)
        fab.connect(fab.est.uri(certificate=str(certificate), key=str(key)))
        fab.order(count=2)
        assert fab.make()[0] == 0

    def test_openssl_verifies_what_came(self, fab: Fab):
        fab.order(count=1)
        assert fab.make()[0] == 0
        assert fab.provision("SN-001")[0] == 0
        leaf = fab.place / "out" / "SN-001" / "device.crt"
        untrusted = ["-untrusted", str(fab.root / "ca" / "service.pem")]
        trust = ["-CAfile", str(fab.root / "ca" / "service-root.pem")]
        done = subprocess.run(["openssl", "verify", *trust, *untrusted, str(leaf)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("at", [1, 3, 5, 8, COUNT])
    def test_killed_at_any_request(self, fab: Fab, at: int):
        fab.order()
        (fab.place / "log").write_bytes(b"")
        command = [*PROGRAM, "order", "make", "a", "--processes", "1", "-C", str(fab.root)]
        with (fab.place / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        fab.est.wait_for(at)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = len(fab.est.requests)
        assert fab.make()[0] == 0
        fab.whole()
        # Whatever was answered and kept before the kill is not asked for again.
        assert COUNT <= len(fab.est.requests) <= COUNT + 3
        assert before >= at
        # What was asked for again was the very same request, unless its chunk had not come on record.
        requested = sum(1 for event, _ in fab.events() if event.__struct_config__.tag == "requested")
        assert requested == 3

    def test_lost_answers_are_asked_for_again(self, fab: Fab):
        fab.est.fault = lambda number: "drop" if number in (1, 4) else "503" if number == 6 else None
        fab.order()
        assert fab.make()[0] == 0
        fab.whole()
        assert len(fab.est.requests) == COUNT + 3
        assert len(set(fab.est.requests)) == COUNT

    def test_a_service_that_wants_to_be_left_alone(self, fab: Fab):
        fab.est.fault = lambda number: "202" if number >= 5 else None
        fab.order()
        code, document = fab.make()
        assert (code, document["error"], document["retry_safe"]) == (6, "issuer.pending", True)
        assert document["facts"]["retry_after"] == 3600
        first = set(fab.est.requests)
        fab.est.fault = lambda number: None
        assert fab.make()[0] == 0
        fab.whole()
        assert first <= set(fab.est.requests)
        assert len(set(fab.est.requests)) == COUNT

    @pytest.mark.parametrize(
        ("fault", "code", "error"),
        [("400", 3, "issuer.refused"), ("401", 2, "issuer.credentials"), ("junk", 7, "issuer.answer.form")],
    )
    def test_a_service_that_says_no(self, fab: Fab, fault: str, code: int, error: str):
        fab.est.fault = lambda number: fault if number >= 2 else None
        fab.order()
        said = fab.make()
        assert (said[0], said[1]["error"]) == (code, error)
        assert fab.received() == {}
        fab.est.fault = lambda number: None
        assert fab.make()[0] == 0
        fab.whole()

    def test_requests_that_were_lost_are_given_up_on_record(self, fab: Fab):
        fab.est.fault = lambda number: "202"
        fab.order(count=4)
        assert fab.make()[0] == 6
        (kept,) = (fab.root / "ledger" / "requests").glob("*.req")
        kept.write_bytes(kept.read_bytes()[:-1] + b"\xff")
        fab.est.fault = lambda number: None
        assert fab.make()[0] == 0
        fab.whole(4)
        assert [event.reason for event, _ in fab.events() if event.__struct_config__.tag == "abandoned"] == [
            "requests lost"
        ]


def _other_key(seller: Seller) -> Callable[[x509.CertificateSigningRequest], x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return lambda csr: seller.issuing.sign_csr(csr, public_key=key)


WRONG: dict[str, tuple[str, Callable[[Seller], Any]]] = {
    "another key": ("issuer.answer.key", _other_key),
    "another CA": ("issuer.answer.chain", lambda seller: Seller().issuing.sign_csr),
    "another CA of the same root": (
        "issuer.answer.chain", lambda seller: seller.root.sub_ca("Sister", path_length=0).sign_csr
    ),
    "another name": (
        "issuer.answer.profile",
        lambda seller: lambda csr: seller.issuing.sign_csr(csr, subject=name_of("SN-999")),
    ),
    "no alternative name": (
        "issuer.answer.profile",
        lambda seller: lambda csr: seller.issuing.sign_csr(csr, drop=(x509.SubjectAlternativeName,)),
    ),
    "no usage": (
        "issuer.answer.profile", lambda seller: lambda csr: seller.issuing.sign_csr(csr, drop=(x509.KeyUsage,))
    ),
    "a short life": ("issuer.answer.validity", lambda seller: lambda csr: seller.issuing.sign_csr(csr, days=90)),
    "a life that is too long": (
        "issuer.answer.profile", lambda seller: lambda csr: seller.issuing.sign_csr(csr, days=7300)
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_an_answer_that_is_not_what_was_asked_for(wrong: str, fab: Fab, seller: Seller):
    error, sign = WRONG[wrong]
    fab.est.sign = sign(seller)
    fab.order(count=3)
    code, document = fab.make()
    assert (code, document["error"]) == (7, error), document
    assert fab.received() == {}
    fab.est.sign = seller.issuing.sign_csr
    assert fab.make()[0] == 0
    fab.whole(3)


class TestOneByOne:
    def born(self, fab: Fab, device: str) -> tuple[int, dict[str, Any]]:
        return fab.provision(device, "key=born")

    @pytest.fixture
    def line(self, fab: Fab, seller: Seller) -> Fab:
        """A service whose own rule says what a device gets, whatever its request asks for."""
        fab.order("b", count=3, origin="device")
        bits = dict.fromkeys(
            (
                "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
                "crl_sign", "encipher_only", "decipher_only",
            ),
            False,
        )  # fmt: skip

        def sign(csr: x509.CertificateSigningRequest) -> x509.Certificate:
            (name,) = csr.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            urn = x509.UniformResourceIdentifier(f"urn:dev:os:99999-{name.value}")
            given: list[tuple[x509.ExtensionType, bool]] = [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (x509.KeyUsage(digital_signature=True, **bits), True),
                (x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), False),
                (x509.SubjectAlternativeName([urn]), False),
            ]
            return seller.issuing.sign_csr(csr, extensions=given)

        fab.est.sign = sign
        return fab

    def test_a_device_gets_its_certificate_from_the_service(self, line: Fab):
        code, document = self.born(line, "SN-001")
        assert code == 0, document
        assert len(line.est.requests) == 1
        assert set(line.received()) == {"SN-001"}
        line.good("ledger", "replay")

    def test_a_lost_answer_is_asked_for_again_with_the_same_request(self, line: Fab):
        line.est.fault = lambda number: "drop" if number == 0 else None
        code, document = self.born(line, "SN-001")
        assert (code, document["error"]) == (6, "issuer.unreachable")
        code, document = self.born(line, "SN-001")
        assert code == 0, document
        assert len(line.est.requests) == 2
        assert len(set(line.est.requests)) == 1
        assert len(line.received()) == 1

    def test_a_refusal_is_on_record(self, line: Fab):
        line.est.fault = lambda number: "400"
        code, document = self.born(line, "SN-001")
        assert (code, document["error"]) == (3, "issuer.refused")
        rejected = [event.code for event, _ in line.events() if event.__struct_config__.tag == "rejected"]
        assert rejected == ["issuer.refused"]

    def test_a_wrong_answer_stops_the_line(self, line: Fab, seller: Seller):
        line.est.sign = _other_key(seller)
        code, document = self.born(line, "SN-001")
        assert (code, document["error"]) == (7, "issuer.answer.key")
        assert line.received() == {}


class TestConnection:
    def test_a_server_that_is_not_trusted(self, fab: Fab):
        stranger = fab.place / "stranger.pem"
        stranger.write_bytes(pem(Seller().root.certificate))
        fab.connect(fab.est.uri(user=USER, secret="env:EST_PASSWORD", trust=str(stranger)))
        fab.order(count=1)
        code, document = fab.make()
        assert (code, document["error"]) == (2, "issuer.tls")
        assert fab.est.requests == []

    def test_a_server_that_is_away(self, fab: Fab, monkeypatch: pytest.MonkeyPatch):
        from birthmark.adapters.issuers import paced

        monkeypatch.setattr(paced, "_FIRST_PAUSE_S", 0.001)
        fab.connect(fab.est.uri(user=USER, secret="env:EST_PASSWORD").replace(fab.est.url, "https://localhost:1/est"))
        fab.order(count=1)
        code, document = fab.make()
        assert (code, document["error"]) == (6, "issuer.unreachable")

    def test_a_wrong_password(self, fab: Fab, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("EST_PASSWORD", "wrong")
        fab.order(count=1)
        code, document = fab.make()
        assert (code, document["error"]) == (2, "issuer.credentials")

    @pytest.mark.parametrize(
        "uri",
        [
            "est:http://localhost/est", "est:https://user:pw@localhost/est", "est:", "est:https://localhost/x?token=1",
            "est:https://localhost/x?user=me", "est:https://localhost/x?trust=", "est:https:///x",
            "aws-pca:arn:aws:acm:eu-west-1:1:x/y",
        ],
    )  # fmt: skip
    def test_half_a_uri_names_no_service(self, fab: Fab, uri: str):
        fab.connect(uri)
        fab.order(count=1)
        code, document = fab.make()
        assert (code, document["error"]) == (2, "issuer.uri")

    def test_a_scheme_nobody_serves(self, fab: Fab):
        fab.connect("acme:https://localhost/x")
        fab.order(count=1)
        code, document = fab.make()
        assert (code, document["error"]) == (2, "plugin.issuers.unknown")

    def test_a_ca_has_a_key_or_an_issuer(self, fab: Fab):
        fab.connect(fab.est.uri(), 'key = "file:x?secret=env:Y"')
        assert fab.run("ca", "list")[1]["error"] == "settings.malformed"

    def test_a_rate_of_nothing(self, fab: Fab):
        fab.order(count=1)
        code, document = fab.run("order", "make", "a", "--rate", "0")
        assert (code, document["error"]) == (2, "order.rate")
