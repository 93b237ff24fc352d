"""The laws of ``ports.Keys``, on a file and on a SoftHSM2 token alike."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.keys.file import FileKeys
from birthmark.adapters.keys.pkcs11 import Pkcs11Keys
from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.errors import Misconfigured, Refused
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import algorithm_of, is_software_key
from birthmark.ports import DestroysKeys, Keys
from support.softhsm import MODULE, PIN, SoftHsm

_WRONG = b"canary-wrong-9999"
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Key of a test")])
_SIGNING = ["p256", "p384", "ed25519", "rsa2048"]


class Place:
    """A place for keys: how its adapter is made and how its keys are named."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.is_token = kind == "pkcs11"
        self.directory = directory
        self.asked: list[str] = []
        self.secret = PIN.encode()
        if self.is_token:
            self.hsm = SoftHsm(directory / "hsm")
            self.hsm.make_token("ca")

    def keys(self) -> Keys:
        adapter = Pkcs11Keys if self.is_token else FileKeys
        return adapter(self.answer, self.directory)

    def answer(self, reference: str) -> Secret:
        self.asked.append(reference)
        return Secret(self.secret)

    def uri(self, name: str) -> str:
        if self.is_token:
            return self.hsm.uri("ca", name, pin_source="prompt:PIN of the CA")
        return f"file:{quote(name)}.pem?secret={quote('prompt:PIN of the CA')}"


@pytest.fixture(params=["file", "pkcs11"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    module = pkcs11_module(MODULE)
    module.stop()
    made = Place(request.param, tmp_path)
    if made.is_token:
        monkeypatch.setenv("SOFTHSM2_CONF", made.hsm.environment["SOFTHSM2_CONF"])
    yield made
    assert not module.logins, "a test left a token open"
    module.stop()


@pytest.fixture
def keys(place: Place) -> Iterator[Keys]:
    adapter = place.keys()
    yield adapter
    adapter.close()


class TestKeys:
    @pytest.mark.parametrize("algorithm", [*_SIGNING, "rsa3072"])
    def test_a_made_key_is_opened_and_signs(self, keys: Keys, place: Place, algorithm: str):
        made = keys.generate(place.uri("one"), algorithm)
        opened = keys.open(place.uri("one"))
        again = place.keys()
        try:
            third = again.open(place.uri("one"))
            known = algorithm_of(made.public_key())
            assert known.name == algorithm
            for key in (made, opened, third):
                assert known.verify(made.public_key(), known.sign(key, b"a message"), b"a message")
        finally:
            again.close()

    @pytest.mark.parametrize("algorithm", _SIGNING)
    def test_the_builders_take_the_key(self, keys: Keys, place: Place, algorithm: str):
        key = keys.generate(place.uri("ca key"), algorithm)
        digest = None if algorithm == "ed25519" else hashes.SHA256()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_NAME)
            .issuer_name(_NAME)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW)
            .not_valid_after(datetime(2056, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, digest)
        )
        certificate.verify_directly_issued_by(certificate)
        csr = x509.CertificateSigningRequestBuilder().subject_name(_NAME).sign(key, digest)
        assert csr.is_signature_valid
        crl = x509.CertificateRevocationListBuilder().issuer_name(_NAME).last_update(_NOW)
        assert crl.next_update(datetime(2026, 2, 1, tzinfo=UTC)).sign(key, digest).is_signature_valid(key.public_key())

    def test_a_key_is_never_overwritten(self, keys: Keys, place: Place):
        first = keys.generate(place.uri("one"), "p256")
        with pytest.raises(Refused) as refused:
            keys.generate(place.uri("one"), "p256")
        assert refused.value.code == "key.exists"
        assert keys.open(place.uri("one")).public_key() == first.public_key()

    def test_a_wrong_secret_opens_nothing(self, keys: Keys, place: Place):
        keys.generate(place.uri("one"), "p256")
        keys.close()
        place.secret = _WRONG
        wrong = place.keys()
        with pytest.raises(Misconfigured) as raised:
            wrong.open(place.uri("one"))
        assert raised.value.code == ("key.pin.wrong" if place.is_token else "key.secret.wrong")
        _shows_no_secret(raised.value)
        wrong.close()

    def test_a_wrong_secret_opens_nothing_while_another_is_logged_in(self, keys: Keys, place: Place):
        keys.generate(place.uri("one"), "p256")
        place.secret = _WRONG
        with pytest.raises(Misconfigured):
            place.keys().open(place.uri("one"))

    @pytest.mark.parametrize("algorithm", ["p521", "", "rsa1024"])
    def test_an_unknown_algorithm_makes_nothing(self, keys: Keys, place: Place, algorithm: str):
        with pytest.raises(Refused) as refused:
            keys.generate(place.uri("one"), algorithm)
        assert refused.value.code == "key.algorithm.unsupported"
        with pytest.raises(Misconfigured):
            keys.open(place.uri("one"))

    def test_a_key_that_is_not_there(self, keys: Keys, place: Place):
        with pytest.raises(Misconfigured) as raised:
            keys.open(place.uri("nobody"))
        assert raised.value.code == ("key.object.missing" if place.is_token else "key.file.missing")

    def test_a_destroyed_key_is_gone_and_its_neighbour_stays(self, keys: Keys, place: Place):
        assert isinstance(keys, DestroysKeys)
        keys.generate(place.uri("one"), "p256")
        other = keys.generate(place.uri("two"), "p256").public_key()
        before = keys.inventory(place.uri("one"))
        assert any("one" in name for name in before)
        assert before == sorted(before)
        assert keys.destroy(place.uri("one"))
        with pytest.raises(Misconfigured) as raised:
            keys.open(place.uri("one"))
        assert raised.value.code == ("key.object.missing" if place.is_token else "key.file.missing")
        assert not any("one" in name for name in keys.inventory(place.uri("one")))
        assert keys.open(place.uri("two")).public_key() == other
        assert keys.destroy(place.uri("one")), "what is gone is no error"
        assert keys.generate(place.uri("one"), "p256").public_key() != other

    def test_names_of_any_script(self, keys: Keys, place: Place):
        made = keys.generate(place.uri("Schlüssel ;&?=% № 1"), "p256")
        assert keys.open(place.uri("Schlüssel ;&?=% № 1")).public_key() == made.public_key()

    def test_the_secret_is_asked_for_by_its_reference(self, keys: Keys, place: Place):
        keys.generate(place.uri("one"), "p256")
        keys.open(place.uri("one"))
        assert set(place.asked) == {"prompt:PIN of the CA"}

    def test_closing_twice_is_safe(self, keys: Keys, place: Place):
        keys.generate(place.uri("one"), "p256")
        keys.close()
        keys.close()
        assert keys.open(place.uri("one")).key_size == 256

    def test_only_keys_in_memory_count_as_software(self, keys: Keys, place: Place):
        assert is_software_key(keys.generate(place.uri("one"), "p256")) is not place.is_token

    def test_nothing_shows_the_secret(self, keys: Keys, place: Place):
        key = keys.generate(place.uri("one"), "p256")
        for shown in (repr(keys), repr(key), str(key)):
            assert PIN not in shown

    @pytest.mark.parametrize(
        "uri", ["", "file:", "pkcs11:", "file:x", "pkcs11:token=ca", "pkcs11:object=x?y", "other:x"]
    )
    def test_half_a_uri_names_no_key(self, keys: Keys, uri: str):
        with pytest.raises(Misconfigured) as raised:
            keys.open(uri)
        assert raised.value.code == "key.uri"


@pytest.mark.parametrize("place", ["pkcs11"], indirect=True)
class TestTokenKeys:
    """What only holds for keys that stay inside."""

    @pytest.mark.parametrize("algorithm", _SIGNING)
    def test_private_operations_are_refused(self, keys: Keys, place: Place, algorithm: str):
        key = keys.generate(place.uri("one"), algorithm)
        operations = [
            lambda: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            lambda: key.private_numbers(),
            lambda: key.private_bytes_raw(),
            lambda: key.exchange(ec.ECDH(), key.public_key()),
            lambda: key.decrypt(b"", None),
        ]
        for operation in operations:
            with pytest.raises(Refused) as refused:
                operation()
            assert refused.value.code == "key.token.private"
        with pytest.raises(TypeError):
            pickle.dumps(key)
        assert copy.copy(key) is key
        assert copy.deepcopy(key) is key
        assert key.is_token

    def test_ml_dsa_is_refused_by_name(self, keys: Keys, place: Place):
        with pytest.raises(Misconfigured) as raised:
            keys.generate(place.uri("one"), "mldsa65")
        assert raised.value.code == "key.algorithm.token"

    def test_a_closed_token_signs_no_more(self, keys: Keys, place: Place):
        key = keys.generate(place.uri("one"), "p256")
        keys.close()
        with pytest.raises(RuntimeError):
            key.sign(b"x", ec.ECDSA(hashes.SHA256()))

    def test_the_pin_does_not_stand_in_the_uri(self, keys: Keys, place: Place):
        uri = place.uri("one").partition("pin-source=")[0] + f"pin-value={PIN}"
        with pytest.raises(Misconfigured) as raised:
            keys.open(uri)
        assert raised.value.code == "secret.reference"
        _shows_no_secret(raised.value)

    def test_openssl_verifies_what_the_token_signed(self, keys: Keys, place: Place):
        key = keys.generate(place.uri("one"), "p384")
        directory = place.directory
        (directory / "message").write_bytes(b"a message")
        (directory / "signature").write_bytes(key.sign(b"a message", ec.ECDSA(hashes.SHA384())))
        spki = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (directory / "public.pem").write_bytes(spki)
        named = [str(directory / name) for name in ("public.pem", "signature", "message")]
        said = place.hsm.run("openssl", "dgst", "-sha384", "-verify", named[0], "-signature", named[1], named[2])
        assert "Verified OK" in said

    def test_pkcs11_tool_lists_the_key_as_one_that_never_leaves(self, keys: Keys, place: Place):
        keys.generate(place.uri("issuing"), "p256")
        keys.close()
        environment = {"OPENSC_PIN": PIN}
        command = ["env", f"OPENSC_PIN={environment['OPENSC_PIN']}", "pkcs11-tool", "--module", str(MODULE)]
        listed = place.hsm.run(*command, "--token-label", "ca", "--login", "--pin", "env:OPENSC_PIN", "--list-objects")
        assert "Private Key Object; EC" in listed
        assert "issuing" in listed
        assert "sensitive, always sensitive, never extractable, local" in listed


def _shows_no_secret(error: BaseException | None) -> None:
    while error is not None:
        for shown in (repr(error), str(error), repr(getattr(error, "facts", "")), repr(error.args)):
            assert PIN not in shown
            assert _WRONG.decode() not in shown
        error = error.__cause__ or error.__context__
