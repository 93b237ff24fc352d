"""A factory whose CA keys live in a token: from the ceremony to devices, with the accidents that tokens bring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.ledgers.sqlite import SqliteLedger
from birthmark.shell.workspace.wiring import utc_now
from support.softhsm import MODULE, SoftHsm

PROGRAM = [sys.executable, "-c", "import sys; from birthmark.shell.cli.main import main; sys.exit(main())"]
COUNT = 1024


@dataclass
class Factory:
    """A workspace whose CA keys are in the token ``ca``."""

    root: Path
    hsm: SoftHsm
    pin: str

    def start(self, *arguments: str, pin: str | None = None) -> subprocess.Popen[str]:
        variables = {**os.environ, **self.hsm.environment, "FACTORY_PIN": pin or self.pin}
        pipe = subprocess.PIPE
        return subprocess.Popen([*PROGRAM, *arguments], env=variables, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str, pin: str | None = None) -> tuple[int, str]:
        """Return the exit code and all that was said, which never holds the PIN."""
        process = self.start(*arguments, pin=pin)
        said = "".join(process.communicate())
        assert (pin or self.pin) not in said
        return process.returncode, said

    def good(self, *arguments: str) -> str:
        code, said = self.run(*arguments)
        assert code == 0, said
        return said

    def make(self, order: str) -> tuple[str, ...]:
        return ("order", "make", order, "--processes", "2", "-C", str(self.root))

    def order(self, name: str, first: str) -> None:
        named = ("--product", "device", "--quantity", str(COUNT), "--first", first, "-C", str(self.root))
        self.good("order", "create", name, *named)

    def certificates(self) -> list[x509.Certificate]:
        """Return every device certificate in the log."""
        ledger = SqliteLedger(self.root / "ledger" / "ledger.db", clock=utc_now)
        try:
            entries = [entry for _, entry in ledger.entries(0, ledger.head().size)]
        finally:
            ledger.close()
        parts = [entry.partition(b"\n") for entry in entries]
        issued = [der for head, _, der in parts if json.loads(head)["type"] == "issued"]
        return [x509.load_der_x509_certificate(der) for der in issued]


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    hsm = SoftHsm(tmp_path / "hsm")
    # No other test, and no other run of this one, has this PIN: whoever shows it is one of ours.
    pin = f"canary-{os.urandom(8).hex()}"
    hsm.make_token("ca", pin=pin)
    made = Factory(tmp_path / "fab", hsm, pin)
    profile = ("--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999")
    made.good("init", str(made.root), *profile, "--token", "ca", "--module", str(MODULE), "--secret", "env:FACTORY_PIN")
    made.good("ceremony", "run", str(made.root / "ceremony.toml"), "-C", str(made.root))
    return made


def test_openssl_verifies_devices_that_a_token_ca_issued(factory: Factory, tmp_path: Path) -> None:
    factory.order("lot1", "TH-000001")
    factory.good(*factory.make("lot1"))
    certificates = factory.certificates()
    assert len(certificates) == COUNT
    device = tmp_path / "device.pem"
    authorities = [str(factory.root / "ca" / f"{name}.pem") for name in ("root", "issuing")]
    for certificate in (certificates[0], certificates[-1]):
        device.write_bytes(certificate.public_bytes(Encoding.PEM))
        chain = ["-CAfile", authorities[0], "-untrusted", authorities[1]]
        said = factory.hsm.run("openssl", "verify", "-x509_strict", *chain, str(device))
        assert said.endswith(": OK\n")
    factory.good("audit", "verify", str(factory.root))
    assert sorted(path.name for path in (factory.root / "keys").iterdir()) == [
        "log.pem",
        "station-line1.pem",
        "vault.pem",
    ]


def test_the_ceremony_is_never_repeated_over_its_keys(factory: Factory) -> None:
    before = (factory.root / "ca" / "root.pem").read_bytes()
    code, said = factory.run("ceremony", "run", str(factory.root / "ceremony.toml"), "-C", str(factory.root))
    assert code == 3, said
    assert (factory.root / "ca" / "root.pem").read_bytes() == before


def test_a_wrong_pin_makes_nothing_and_the_right_one_goes_on(factory: Factory) -> None:
    factory.order("lot1", "TH-000001")
    code, said = factory.run(*factory.make("lot1"), pin="canary-wrong-pin")
    assert code == 2
    assert "key.pin.wrong" in said or "key.secret.wrong" in said
    assert factory.certificates() == []
    factory.good(*factory.make("lot1"))
    assert len(factory.certificates()) == COUNT


def test_a_token_that_is_unplugged_makes_nothing(factory: Factory) -> None:
    factory.order("lot1", "TH-000001")
    factory.hsm.delete_token("ca")
    code, said = factory.run(*factory.make("lot1"))
    assert code == 5
    assert "key.token.missing" in said
    assert factory.certificates() == []


def test_two_orders_are_killed_and_made_again(factory: Factory) -> None:
    """Killed while workers log in and sign: the lock between processes is free again and no identity is doubled."""
    factory.order("lot1", "TH-000001")
    for _ in range(3):
        process = factory.start(*factory.make("lot1"))
        assert process.stderr is not None
        process.stderr.read(1)
        process.kill()
        process.communicate()
    factory.good(*factory.make("lot1"))
    certificates = factory.certificates()
    names = {certificate.subject.rfc4514_string() for certificate in certificates}
    assert len(certificates) == len(names) == COUNT


def test_the_pin_stands_in_no_process_list_while_workers_run(factory: Factory) -> None:
    factory.order("lot1", "TH-000001")
    seen: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    seen.add((process / "cmdline").read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        factory.good(*factory.make("lot1"))
    finally:
        done.set()
        watcher.join()
    assert any(b"spawn_main" in line for line in seen), "no worker was seen"
    assert not any(factory.pin.encode() in line for line in seen)


def test_a_token_ca_certifies_keys_born_in_other_tokens(factory: Factory) -> None:
    """CA and device are tokens of one library: one is logged in for good, the others come and go."""
    named = ("--product", "device", "--quantity", "2", "--first", "DV-1", "--key-origin", "device")
    factory.good("order", "create", "born", *named, "-C", str(factory.root))
    target = factory.hsm.uri("{device_serial}", "idevid", pin_source="env:FACTORY_PIN").replace("%7B", "{")
    for device_serial in ("DV-1", "DV-2"):
        factory.hsm.make_token(device_serial, pin=factory.pin)
        scanned = ("--device-serial", device_serial, "--target", target.replace("%7D", "}"))
        for _ in range(2):
            factory.good("station", "provision", *scanned, "-C", str(factory.root))
    assert len(factory.certificates()) == 2
    factory.good("audit", "verify", str(factory.root))
