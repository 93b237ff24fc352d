"""A bought intermediate: request, import, devices, revocation list; and every certificate that must not come in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from support.seller import Authority, Seller, name_of, pem

SUBJECT = "CN=Device CA 1,O=Example Devices"


@pytest.fixture(scope="module")
def seller() -> Seller:
    return Seller()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose product is to be signed by a CA that is not bought yet; its request lies there."""
    root = tmp_path_factory.mktemp("bought") / "fab"
    make_workspace(root)
    text = (root / "birthmark.toml").read_text()
    issuing = re.search(r'\[cas\.issuing\]\nkey = "(.*)"', text)
    assert issuing is not None
    key = issuing[1].replace("issuing.pem", "bought.pem")
    text = text.replace('ca = "issuing"', 'ca = "bought"') + f'\n[cas.bought]\nkey = "{key}"\n'
    (root / "birthmark.toml").write_text(text)
    assert main(["ca", "csr", "bought", "--subject", SUBJECT, "--new-key", "p256", "-C", str(root)]) == 0
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "fab")
    return tmp_path


class Shop:
    """Sends files of the seller to ``birthmark ca import``."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.capsys = place, capsys
        self.csr = x509.load_pem_x509_csr((place / "fab" / "ca" / "bought.csr").read_bytes())

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        self.capsys.readouterr()
        code = main([*arguments, "-C", str(self.place / "fab"), "--json"])
        out = self.capsys.readouterr().out.splitlines()
        return code, json.loads(out[-1]) if out else {}

    def bring(self, *contents: bytes, ca: str = "bought") -> tuple[int, dict[str, Any]]:
        paths = []
        for number, content in enumerate(contents):
            path = self.place / f"sent-{number}"
            path.write_bytes(content)
            paths.append(str(path))
        return self.run("ca", "import", ca, *paths)

    def refused(self, code: str, *contents: bytes, cause: str | None = None) -> None:
        exit_code, document = self.bring(*contents)
        assert document.get("error") == code, document
        assert exit_code in (3, 2)
        if cause is not None:
            assert document["facts"]["cause"] == cause
        assert [ca["ca"] for ca in self.run("ca", "list")[1]["cas"]] == ["root", "issuing"]


@pytest.fixture
def shop(place: Path, capsys: pytest.CaptureFixture[str]) -> Shop:
    return Shop(place, capsys)


def bought(seller: Seller, shop: Shop, **more: Any) -> x509.Certificate:
    return seller.issuing.sign_ca(shop.csr.public_key(), shop.csr.subject, **more)


def test_the_request_is_what_openssl_reads(made: Path):
    path = str(made / "ca" / "bought.csr")
    said = subprocess.run(
        ["openssl", "req", "-in", path, "-noout", "-text", "-verify"], capture_output=True, text=True, check=True
    )
    assert "verify OK" in said.stdout + said.stderr
    assert "CA:TRUE, pathlen:0" in said.stdout
    assert "Certificate Sign, CRL Sign" in said.stdout


def test_a_second_request_is_of_the_same_key(shop: Shop):
    code, _ = shop.run("ca", "csr", "bought", "--subject", SUBJECT)
    assert code == 0
    again = x509.load_pem_x509_csr((shop.place / "fab" / "ca" / "bought.csr").read_bytes())
    assert again.public_key() == shop.csr.public_key()
    code, document = shop.run("ca", "csr", "bought", "--subject", SUBJECT, "--new-key", "p256")
    assert (code, document["error"]) == (3, "key.exists")
    code, document = shop.run("ca", "csr", "bought", "--subject", "no name")
    assert (code, document["error"]) == (2, "ca.subject")


FORMS: dict[str, Callable[[list[x509.Certificate]], list[bytes]]] = {
    "one PEM file": lambda path: [pem(*path)],
    "root first": lambda path: [pem(*path[::-1])],
    "DER files": lambda path: [certificate.public_bytes(Encoding.DER) for certificate in path],
    "PKCS#7": lambda path: [pkcs7.serialize_certificates(path, Encoding.PEM)],
    "the same twice": lambda path: [pem(*path), pem(path[0])],
}


@pytest.mark.parametrize("form", FORMS)
def test_from_request_to_a_revoked_device(form: str, seller: Seller, shop: Shop):
    path = [bought(seller, shop), seller.issuing.certificate, seller.root.certificate]
    code, document = shop.bring(*FORMS[form](path))
    assert code == 0, document
    assert document["above"] == ["bought-1", "bought-root"]
    kinds = {ca["ca"]: ca["kind"] for ca in shop.run("ca", "list")[1]["cas"]}
    assert kinds == {
        "root": "root", "issuing": "issuing", "bought": "issuing", "bought-1": "external", "bought-root": "external"
    }  # fmt: skip
    if form != "one PEM file":
        return
    assert shop.run("order", "create", "a", "--product", "device", "--quantity", "3", "--first", "SN-1")[0] == 0
    assert shop.run("order", "make", "a", "--processes", "1")[0] == 0
    for number in (1, 2):
        target = f"files:{shop.place}/out/SN-{number}"
        (shop.place / "out" / f"SN-{number}").mkdir(parents=True)
        code, document = shop.run("station", "provision", "--device-serial", f"SN-{number}", "--target", target)
        assert code == 0, document
    assert shop.run("device", "scrap", "SN-2", "--reason", "crushed")[0] == 0
    code, first = shop.run("ca", "crl", "bought", "--days", "3")
    assert (code, first["revoked"]) == (0, 1)
    code, second = shop.run("ca", "crl", "bought", "--days", "3")
    assert int(second["number"]) > int(first["number"]) > 0
    assert shop.run("ca", "show", "bought")[1]["revoked"] == 1
    assert shop.run("ca", "export", "bought", "--output", str(shop.place / "chain.pem"))[0] == 0
    assert openssl_verifies(shop.place, 1)
    assert not openssl_verifies(shop.place, 2)
    assert shop.run("ledger", "replay")[0] == 0
    assert main(["audit", "verify", str(shop.place / "fab")]) == 0


def openssl_verifies(place: Path, number: int) -> bool:
    """Ask OpenSSL with the root alone as trust anchor and the list of the issuing CA."""
    ca = place / "fab" / "ca"
    (place / "root.pem").write_bytes((ca / "bought-root.pem").read_bytes())
    subprocess.run(
        ["openssl", "crl", "-inform", "DER", "-in", str(ca / "bought.crl"), "-out", str(place / "crl.pem"),
         "-CAfile", str(ca / "bought.pem")], check=True, capture_output=True,
    )  # fmt: skip
    leaf = place / "out" / f"SN-{number}" / "device.crt"
    done = subprocess.run(
        ["openssl", "verify", "-crl_check", "-CRLfile", str(place / "crl.pem"), "-CAfile", str(place / "root.pem"),
         "-untrusted", str(place / "chain.pem"), str(leaf)], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) or "certificate revoked" in done.stdout + done.stderr
    return done.returncode == 0


class TestRefusals:
    def above(self, seller: Seller) -> bytes:
        return pem(seller.issuing.certificate, seller.root.certificate)

    def test_no_certificate_at_all(self, shop: Shop):
        shop.refused("certificate.file", b"not a certificate")

    def test_the_certificate_of_another_key(self, seller: Seller, shop: Shop):
        other = seller.issuing.sub_ca("Somebody else").certificate
        shop.refused("ca.import.key", pem(other) + self.above(seller))

    def test_a_gap_in_the_chain(self, seller: Seller, shop: Shop):
        shop.refused("ca.import.chain", pem(bought(seller, shop), seller.root.certificate), cause="chain.no_issuer")

    def test_no_root(self, seller: Seller, shop: Shop):
        shop.refused("ca.import.chain", pem(bought(seller, shop), seller.issuing.certificate), cause="chain.no_issuer")

    def test_a_forged_chain(self, seller: Seller, shop: Shop):
        fake = Authority(seller.issuing.certificate, ec.generate_private_key(ec.SECP256R1()))
        forged = fake.sign_ca(shop.csr.public_key(), shop.csr.subject)
        shop.refused("ca.import.chain", pem(forged) + self.above(seller), cause="chain.signature")

    def test_an_expired_ca(self, seller: Seller, shop: Shop):
        old = bought(seller, shop, not_after=datetime(2025, 6, 1, tzinfo=UTC))
        shop.refused("ca.import.chain", pem(old) + self.above(seller), cause="chain.expired")

    def test_a_certificate_that_belongs_to_nothing(self, seller: Seller, shop: Shop):
        stranger = Seller().root.certificate
        shop.refused("ca.import.surplus", pem(bought(seller, shop), stranger) + self.above(seller))

    def test_a_device_certificate_in_place_of_a_ca(self, seller: Seller, shop: Shop):
        shop.refused("ca.import.not_a_ca", pem(bought(seller, shop, ca=False)) + self.above(seller))

    def test_a_ca_that_may_not_sign(self, seller: Seller, shop: Shop):
        shop.refused("ca.import.key_usage", pem(bought(seller, shop, may_sign=False)) + self.above(seller))

    def test_no_room_for_one_more_ca(self, seller: Seller, shop: Shop):
        narrow = seller.root.sub_ca("Narrow", path_length=0)
        own = narrow.sign_ca(shop.csr.public_key(), shop.csr.subject)
        shop.refused("ca.import.path_length", pem(own, narrow.certificate, seller.root.certificate))

    def test_a_life_shorter_than_the_products(self, seller: Seller, shop: Shop):
        short = bought(seller, shop, not_after=datetime.now(UTC) + timedelta(days=1000))
        shop.refused("ca.import.lifetime", pem(short) + self.above(seller))

    def test_a_ca_that_outlives_its_issuer(self, seller: Seller, shop: Shop):
        mortal = seller.root.sub_ca("Mortal", path_length=1, not_after=datetime.now(UTC) + timedelta(days=7000))
        own = mortal.sign_ca(shop.csr.public_key(), shop.csr.subject)
        shop.refused("ca.import.nesting", pem(own, mortal.certificate, seller.root.certificate))

    @pytest.mark.parametrize("kind", ["permitted", "excluded"])
    def test_names_that_the_chain_forbids(self, kind: str, seller: Seller, shop: Shop):
        elsewhere = [x509.DirectoryName(name_of("elsewhere"))] if kind == "permitted" else None
        excluded = [x509.DirectoryName(x509.Name([]))] if kind == "excluded" else None
        limits = x509.NameConstraints(permitted_subtrees=elsewhere, excluded_subtrees=excluded)
        own = bought(seller, shop, constraints=limits)
        shop.refused("ca.import.names", pem(own) + self.above(seller))

    def test_a_weak_key_above_us(self, shop: Shop):
        weak = Seller()
        weak.issuing.key = rsa.generate_private_key(public_exponent=3, key_size=2048)
        weak.issuing.certificate = weak.root.sign_ca(weak.issuing.key.public_key(), name_of("Weak"), path_length=1)
        own = weak.issuing.sign_ca(shop.csr.public_key(), shop.csr.subject)
        shop.refused("key.weak.rsa.exponent", pem(own, weak.issuing.certificate, weak.root.certificate))

    def test_algorithm_that_the_product_does_not_take(self, seller: Seller, shop: Shop):
        profile = shop.place / "fab" / "profiles" / "tls-client.toml"
        profile.write_text(profile.read_text().replace("ski = true", 'issuer_key_algorithms = ["p384"]\nski = true', 1))
        shop.refused("ca.import.algorithm", pem(bought(seller, shop)) + self.above(seller))

    def test_a_name_that_is_taken(self, seller: Seller, shop: Shop):
        code, document = shop.bring(pem(bought(seller, shop)) + self.above(seller), ca="issuing")
        assert (code, document["error"]) == (3, "ca.exists")

    def test_the_same_key_under_another_name(self, seller: Seller, shop: Shop):
        settings = shop.place / "fab" / "birthmark.toml"
        key = re.search(r'\[cas\.bought\]\nkey = "(.*)"', settings.read_text())
        assert key is not None
        settings.write_text(settings.read_text() + f'\n[cas.again]\nkey = "{key[1]}"\n')
        sent = pem(bought(seller, shop)) + self.above(seller)
        assert shop.bring(sent)[0] == 0
        code, document = shop.bring(sent, ca="again")
        assert (code, document["error"]) == (3, "ca.import.known")

    def test_no_such_ca_in_the_settings(self, seller: Seller, shop: Shop):
        code, document = shop.bring(pem(bought(seller, shop)) + self.above(seller), ca="nobody")
        assert (code, document["error"]) == (2, "settings.ca")


class TestRevocationList:
    def test_a_ca_whose_key_is_elsewhere_has_none_here(self, seller: Seller, shop: Shop):
        path = pem(bought(seller, shop), seller.issuing.certificate, seller.root.certificate)
        assert shop.bring(path)[0] == 0
        code, document = shop.run("ca", "crl", "bought-1")
        assert (code, document["error"]) == (3, "crl.external")

    def test_days_and_names(self, shop: Shop):
        assert shop.run("ca", "crl", "nobody")[1]["error"] == "ca.unknown"
        assert shop.run("ca", "crl", "issuing", "--days", "4000")[1]["error"] == "crl.days"

    def test_a_clock_that_went_back(self, shop: Shop, monkeypatch: pytest.MonkeyPatch):
        assert shop.run("ca", "crl", "issuing")[0] == 0
        from birthmark.shell.workspace import wiring

        early = datetime.now(UTC) - timedelta(hours=1)
        monkeypatch.setattr(wiring, "utc_now", lambda: early)
        code, document = shop.run("ca", "crl", "issuing")
        assert (code, document["error"]) == (5, "crl.clock")

    def test_a_list_on_file_that_somebody_changed(self, shop: Shop):
        assert shop.run("ca", "crl", "issuing")[0] == 0
        path = shop.place / "fab" / "ca" / "issuing.crl"
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        code, document = shop.run("ca", "crl", "issuing")
        assert (code, document["error"]) == (7, "crl.signature")

    def test_a_lost_list_does_not_bring_the_number_back(self, shop: Shop):
        _, first = shop.run("ca", "crl", "issuing")
        (shop.place / "fab" / "ca" / "issuing.crl").unlink()
        _, second = shop.run("ca", "crl", "issuing")
        assert int(second["number"]) > int(first["number"])
