"""The target ``pkcs11`` on SoftHSM tokens: what a stranger's tools see in them, spoiled tokens, cut installations."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from birthmark.adapters.pkcs11_uri import parse_pkcs11_uri
from birthmark.adapters.targets import pkcs11 as target_module
from birthmark.adapters.targets.pkcs11 import Pkcs11Target
from birthmark.adapters.targets.tokenlink import TokenLink, open_token
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from support.devicepki import credential_for
from support.devicetoken import make_token, start_tokens, token_listing, token_objects
from support.fences import OPEN
from support.softhsm import MODULE, PIN


class Token:
    """One empty SoftHSM token and the target on it."""

    def __init__(self) -> None:
        self.label = f"SN-{uuid4().hex[:16]}"
        make_token(self.label)
        self.uri = f"pkcs11:token={self.label};object=idevid?module-path={MODULE}&pin-source=test:"

    def target(self, more: str = "") -> Pkcs11Target:
        return Pkcs11Target(self.uri + more, secrets=lambda _: Secret(PIN.encode()), base=Path())

    def obtain(self, algorithm: str = "p256") -> Credential:
        request = x509.load_der_x509_csr(self.target().make_key(algorithm, self.label, OPEN))
        return credential_for(request.public_key(), self.label)

    def provision(self) -> Credential:
        credential = self.obtain()
        self.target().install(credential, OPEN)
        return credential

    @contextmanager
    def session(self) -> Iterator[Any]:
        with open_token(parse_pkcs11_uri(self.uri, base=Path()), Secret(PIN.encode())) as link:
            yield link.session

    def find(self, session: Any, kind: ObjectClass, label: str = "idevid") -> Any:
        (found,) = session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label})
        return found


@pytest.fixture(autouse=True)
def _tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_tokens(tmp_path / "tokens", monkeypatch)


@pytest.fixture
def token() -> Token:
    return Token()


def fault_of(act: Callable[[], object]) -> str:
    with pytest.raises(DeviceFault) as caught:
        act()
    return caught.value.code


def test_pkcs11_tool_sees_a_key_that_cannot_leave_and_reads_the_certificate(token: Token, tmp_path: Path) -> None:
    credential = token.provision()
    (key,) = (one for one in token_objects(token.label) if one.startswith("Private Key Object"))
    assert "sensitive, always sensitive, never extractable, local" in key
    assert "Usage:      sign\n" in key
    file = tmp_path / "certificate.der"
    token_listing(token.label, "-r", "-y", "cert", "-a", "idevid", "-o", str(file))
    assert file.read_bytes() == credential.certificate
    for place, der in enumerate(credential.chain):
        token_listing(token.label, "-r", "-y", "cert", "-a", f"idevid-ca{place}", "-o", str(file))
        assert file.read_bytes() == der
    labels = [line for one in token_objects(token.label) for line in one.splitlines() if line.startswith("label:")]
    assert sorted(line.split()[1] for line in labels) == ["idevid"] * 3 + ["idevid-ca0", "idevid-ca1"]


def test_openssl_accepts_what_pkcs11_tool_signs_with_the_same_key(token: Token, tmp_path: Path) -> None:
    credential = token.provision()
    message, signature, public = tmp_path / "message", tmp_path / "signature", tmp_path / "public.pem"
    message.write_bytes(b"m" * 32)
    sign = ("--sign", "-m", "ECDSA", "-i", str(message), "-o", str(signature), "--signature-format", "openssl")
    token_listing(token.label, *sign, "-a", "idevid")
    key = x509.load_der_x509_certificate(credential.certificate).public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-in", message, "-sigfile", signature]
    subprocess.run(verify, check=True, capture_output=True)


def test_request_of_the_token_key_is_accepted_by_openssl(token: Token) -> None:
    request = token.target().make_key("p384", token.label, OPEN)
    command = ["openssl", "req", "-inform", "DER", "-verify", "-noout", "-subject"]
    ran = subprocess.run(command, input=request, check=True, capture_output=True)
    assert token.label.encode() in ran.stdout


def extractable_key(token: Token, label: str) -> None:
    with token.session() as session:
        parameters = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        domain = session.create_domain_parameters(KeyType.EC, parameters, local=True)
        loose = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
        domain.generate_keypair(store=True, label=label, id=b"\x07", private_template=loose)


def test_extractable_key_is_found_before_anyone_asks_for_a_certificate(token: Token) -> None:
    extractable_key(token, "idevid-new")
    with pytest.raises(DeviceFault) as caught:
        token.target().make_key("p256", token.label, OPEN)
    assert caught.value.code == "target.key.extractable"
    assert caught.value.facts["attributes"] == ["sensitive", "extractable", "always_sensitive", "never_extractable"]


def test_extractable_key_is_neither_certified_nor_proven(token: Token) -> None:
    extractable_key(token, "idevid")
    with token.session() as session:
        found = token.find(session, ObjectClass.PRIVATE_KEY)
        public_key = TokenLink(session, token.label).signer(found).public_key()
    credential = credential_for(public_key, token.label)
    assert fault_of(lambda: token.target().install(credential, OPEN)) == "target.key.extractable"
    assert token.target().probe().certificate is None


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ObjectClass.CERTIFICATE, "target.certificate.missing"),
        (ObjectClass.PRIVATE_KEY, "target.key.missing"),
    ],
)
def test_missing_object_is_found(token: Token, kind: ObjectClass, code: str) -> None:
    token.provision()
    with token.session() as session:
        token.find(session, kind).destroy()
    assert fault_of(lambda: token.target().prove(b"")) == code


def test_waiting_key_without_its_public_key_gets_no_certificate(token: Token) -> None:
    credential = token.obtain()
    with token.session() as session:
        token.find(session, ObjectClass.PUBLIC_KEY, "idevid-new").destroy()
    assert fault_of(lambda: token.target().install(credential, OPEN)) == "target.key.mismatch"
    assert token.target().probe().certificate is None


def test_gap_in_the_chain_is_found(token: Token) -> None:
    token.provision()
    with token.session() as session:
        token.find(session, ObjectClass.CERTIFICATE, "idevid-ca0").destroy()
    assert fault_of(lambda: token.target().prove(b"")) == "target.certificate.damaged"


def test_certificate_of_another_device_is_found(token: Token) -> None:
    token.provision()
    other = Token().provision()
    with token.session() as session:
        mine = token.find(session, ObjectClass.CERTIFICATE)
        copy = {
            name: mine[name] for name in (Attribute.CERTIFICATE_TYPE, Attribute.LABEL, Attribute.ID, Attribute.SUBJECT)
        }
        mine.destroy()
        whole = {Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.TOKEN: True, **copy}
        session.create_object({**whole, Attribute.VALUE: other.certificate})
    assert fault_of(lambda: token.target().prove(b"")) == "target.key.mismatch"


def test_rubbish_in_place_of_the_certificate_is_found(token: Token) -> None:
    token.provision()
    with token.session() as session:
        mine = token.find(session, ObjectClass.CERTIFICATE)
        copy = {
            name: mine[name] for name in (Attribute.CERTIFICATE_TYPE, Attribute.LABEL, Attribute.ID, Attribute.SUBJECT)
        }
        mine.destroy()
        whole = {Attribute.CLASS: ObjectClass.CERTIFICATE, Attribute.TOKEN: True, **copy}
        session.create_object({**whole, Attribute.VALUE: b"rubbish"})
    assert fault_of(lambda: token.target().prove(b"")) == "target.certificate.damaged"


def test_two_waiting_keys_are_not_guessed_between(token: Token) -> None:
    token.target().make_key("p256", token.label, OPEN)
    extractable_key(token, "idevid-new")
    assert fault_of(lambda: token.target().make_key("p256", token.label, OPEN)) == "target.object.doubled"


def test_waiting_key_of_another_algorithm_is_kept(token: Token) -> None:
    token.target().make_key("p256", token.label, OPEN)
    before = token_objects(token.label)
    with pytest.raises(Refused) as caught:
        token.target().make_key("p384", token.label, OPEN)
    assert caught.value.code == "target.key.other_algorithm"
    assert token_objects(token.label) == before


def test_algorithm_that_no_token_has_is_refused(token: Token) -> None:
    with pytest.raises(Misconfigured) as caught:
        token.target().make_key("mldsa44", token.label, OPEN)
    assert caught.value.code == "key.algorithm.token"


def test_issuing_only_leaves_the_root_out(token: Token) -> None:
    credential = token.provision()
    token.target("&chain=issuing").install(credential, OPEN)
    assert token.target().prove(b"").chain == credential.chain[:1]


class PowerCut(BaseException):
    """The power goes before the N-th change of the token."""


class Cutter:
    """Stands before a session and its objects and counts what changes them."""

    def __init__(self, thing: Any, cut: Callable[[], None]) -> None:
        self._thing = thing
        self._cut = cut

    def __getattr__(self, name: str) -> Any:
        if name in ("create_object", "destroy"):
            self._cut()
        if name == "get_objects":
            return lambda wanted: [Cutter(found, self._cut) for found in self._thing.get_objects(wanted)]
        return getattr(self._thing, name)

    def __getitem__(self, name: Attribute) -> Any:
        return self._thing[name]

    def __setitem__(self, name: Attribute, value: object) -> None:
        self._cut()
        self._thing[name] = value


def test_installation_cut_before_any_change_can_be_taken_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = open_token, [0]

    def cut() -> None:
        if left[0] == 0:
            raise PowerCut
        left[0] -= 1

    @contextmanager
    def cutting(*arguments: Any) -> Iterator[TokenLink]:
        with real(*arguments) as link:
            yield TokenLink(Cutter(link.session, cut), link.token)

    token = Token()
    changes = 0
    done = False
    while not done:
        old = token.provision()
        new = token.obtain()
        before = {old.certificate, new.certificate}
        left[0] = changes
        changes += 1
        with monkeypatch.context() as patch:
            patch.setattr(target_module, "open_token", cutting)
            try:
                token.target().install(new, OPEN)
                done = True
            except PowerCut:
                assert left[0] == 0
        assert token.target().probe().certificate in before
        assert token.target().prove(b"").certificate == token.target().probe().certificate
        if not done:
            request = x509.load_der_x509_csr(token.target().make_key("p256", token.label, OPEN))
            assert request.public_key() == x509.load_der_x509_certificate(new.certificate).public_key()
        token.target().install(new, OPEN)
        assert token.target().prove(b"").certificate == new.certificate
        assert len(token_objects(token.label)) == 5
    assert changes > 5


def test_public_key_left_by_a_cut_generation_goes_away(token: Token) -> None:
    token.target().make_key("p256", token.label, OPEN)
    with token.session() as session:
        token.find(session, ObjectClass.PRIVATE_KEY, "idevid-new").destroy()
    token.provision()
    assert len(token_objects(token.label)) == 5


def test_four_heads_with_a_token_each_do_not_disturb_each_other() -> None:
    tokens = [Token() for _ in range(4)]
    proven: list[bool] = []

    def head(token: Token) -> None:
        credential = token.provision()
        proven.append(all(token.target().prove(bytes([n])).certificate == credential.certificate for n in range(5)))

    threads = [Thread(target=head, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert proven == [True] * 4


def test_wrong_pin_and_missing_token_are_named(token: Token) -> None:
    wrong = Pkcs11Target(token.uri, secrets=lambda _: Secret(b"0000"), base=Path())
    missing = Pkcs11Target(token.uri.replace(token.label, "nobody"), secrets=lambda _: Secret(b"0000"), base=Path())
    for place, family, code in ((wrong, Misconfigured, "key.pin.wrong"), (missing, StationFault, "key.token.missing")):
        with pytest.raises(family) as caught:
            place.probe()
        assert caught.value.code == code
        assert "0000" not in str(caught.value.document())


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:object=x?module-path=m&pin-source=env:X",
        "pkcs11:token=x?module-path=m&pin-source=env:X",
        "pkcs11:token=x;id=%01?module-path=m&pin-source=env:X",
        "pkcs11:token=x;object=y?pin-source=env:X",
        "pkcs11:token=x;object=y?module-path=m",
        "pkcs11:token=x;object=y?module-path=m&pin-value=738291",
        "pkcs11:token=x;object=y?module-path=m&pin-source=env:X&chain=none",
        "pkcs11:token=x;object=y?module-path=m&pin-source=env:X&chain=full&chain=full",
        "files:token=x;object=y?module-path=m&pin-source=env:X",
    ],
)
def test_uri_that_cannot_be_meant_is_refused_at_start_and_shows_no_pin(uri: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Pkcs11Target(uri, secrets=lambda _: Secret(b""), base=Path())
    assert isinstance(caught.value, BirthmarkError)
    assert "738291" not in str(caught.value.document())
