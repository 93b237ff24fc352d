"""The laws of ``ports.Keys`` in clouds: AWS KMS at moto's server, Azure Key Vault at a fake that its SDK talks to."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from moto.server import ThreadedMotoServer
from test_keys import TestKeys as KeyLaws

from birthmark.adapters.keys import aws_kms
from birthmark.adapters.keys.aws_kms import AwsKmsKeys
from birthmark.adapters.keys.azure_keyvault import AzureKeyVaultKeys
from birthmark.errors import Misconfigured, Refused, Tampered, Unavailable
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import algorithm_of
from birthmark.ports import DestroysKeys, Keys
from support.keyvault import KeyVault, key_vault

REGION = "eu-west-1"
_SIGNING = ["p256", "p384", "rsa2048"]


class Place:
    """A cloud: how its adapter is made and how its keys are named."""

    is_token = True

    def __init__(self, kind: str, directory: Path, vault: KeyVault | None) -> None:
        self.kind, self.directory, self.vault = kind, directory, vault
        self._mark = os.urandom(4).hex()

    def keys(self) -> Keys:
        adapter = AwsKmsKeys if self.kind == "aws-kms" else AzureKeyVaultKeys
        return adapter(self.answer, self.directory)

    def answer(self, reference: str) -> Secret:
        raise AssertionError("a cloud key asks for no secret of ours")

    def uri(self, name: str) -> str:
        plain = f"{name.replace(' ', '-')}-{self._mark}"
        if self.vault is not None:
            return self.vault.uri(plain)
        return f"aws-kms:alias/{plain}?region={REGION}"


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyVault]:
    with key_vault(tmp_path_factory.mktemp("vault")) as running:
        yield running


@pytest.fixture(params=["aws-kms", "azure-kv"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto_url: str, vault: KeyVault
) -> Iterator[Place]:
    if request.param == "aws-kms":
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
    else:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vault.trust))
        monkeypatch.setenv("IDENTITY_ENDPOINT", vault.token_url)
        monkeypatch.setenv("IDENTITY_HEADER", "x")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    yield Place(request.param, tmp_path, vault if request.param == "azure-kv" else None)
    vault.swap, vault.status = None, None


@pytest.fixture
def keys(place: Place) -> Iterator[Keys]:
    adapter = place.keys()
    yield adapter
    adapter.close()


class TestCloudKeys(KeyLaws):
    """All laws but those of secrets, which these keys do not have, of names clouds refuse, and of destruction.

    A cloud forgets a key weeks later and on its own terms: that is left to its console and refused here.
    """

    test_a_wrong_secret_opens_nothing = None
    test_a_wrong_secret_opens_nothing_while_another_is_logged_in = None
    test_a_destroyed_key_is_gone_and_its_neighbour_stays = None
    test_names_of_any_script = None
    test_the_secret_is_asked_for_by_its_reference = None

    def test_nobody_is_told_that_a_key_of_a_cloud_is_destroyed(self, keys: Keys):
        assert not isinstance(keys, DestroysKeys)

    @pytest.mark.parametrize("algorithm", [*_SIGNING, "rsa3072"])
    def test_a_made_key_is_opened_and_signs(self, keys: Keys, place: Any, algorithm: str):
        super().test_a_made_key_is_opened_and_signs(keys, place, algorithm)

    @pytest.mark.parametrize("algorithm", _SIGNING)
    def test_the_builders_take_the_key(self, keys: Keys, place: Any, algorithm: str):
        if algorithm == "p384":
            self._issue_with_sha384(keys, place)
        else:
            super().test_the_builders_take_the_key(keys, place, algorithm)

    def _issue_with_sha384(self, keys: Keys, place: Any) -> None:
        from birthmark.pki.request import ca_request

        assert ca_request("CN=Cloud CA", keys.generate(place.uri("ca key"), "p384"), path_length=0)

    def test_a_key_that_is_not_there(self, keys: Keys, place: Any):
        with pytest.raises(Misconfigured) as raised:
            keys.open(place.uri("nobody"))
        assert raised.value.code == ("aws.unknown" if place.kind == "aws-kms" else "azure.unknown")

    @pytest.mark.parametrize(
        "uri",
        [
            "", "aws-kms:", "aws-kms:alias/x", "aws-kms:alias/x?region=a&region=b",
            "aws-kms:alias/x?secret=env:X&region=a",
            "azure-kv:", "azure-kv:https://x.example/keys/", "azure-kv:http://x.example/keys/a",
            "azure-kv:https://u:p@x.example/keys/a", "azure-kv:https://x.example/keys/a?x=1",
        ],
    )  # fmt: skip
    def test_half_a_uri_names_no_key(self, keys: Keys, uri: str):
        super().test_half_a_uri_names_no_key(keys, uri)

    @pytest.mark.parametrize("algorithm", ["p256", "rsa2048"])
    def test_private_operations_are_refused(self, keys: Keys, place: Place, algorithm: str):
        key: Any = keys.generate(place.uri("one"), algorithm)
        for operation in (
            lambda: key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            lambda: key.private_numbers(),
            lambda: key.decrypt(b"", None),
        ):
            with pytest.raises(Refused) as refused:
                operation()
            assert refused.value.code == "key.token.private"
        with pytest.raises(TypeError):
            pickle.dumps(key)
        assert copy.deepcopy(key) is key

    def test_edwards_and_lattices_are_refused_by_name(self, keys: Keys, place: Place):
        for algorithm in ("ed25519", "mldsa65"):
            with pytest.raises(Misconfigured) as raised:
                keys.generate(place.uri("one"), algorithm)
            assert raised.value.code == "key.algorithm.token"

    def test_other_signatures_than_those_of_certificates_are_refused(self, keys: Keys, place: Place):
        curve, modulus = keys.generate(place.uri("one"), "p256"), keys.generate(place.uri("two"), "rsa2048")
        with pytest.raises(UnsupportedAlgorithm):
            curve.sign(b"x", ec.ECDSA(hashes.SHA512()))
        with pytest.raises(UnsupportedAlgorithm):
            modulus.sign(b"x", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


class TestAws:
    @pytest.fixture(params=["aws-kms"])
    def place(self, request: pytest.FixtureRequest, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        return Place("aws-kms", Path(), None)

    def stubbed(self, keys: AwsKmsKeys, monkeypatch: pytest.MonkeyPatch) -> Stubber:
        client = boto3.client("kms", region_name=REGION)
        monkeypatch.setattr(keys, "_client", lambda region: client)
        return Stubber(client)

    def opened(self, stub: Stubber, keys: Any, local: ec.EllipticCurvePrivateKey) -> Any:
        spki = local.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        stub.add_response("get_public_key", {"PublicKey": spki, "KeyUsage": "SIGN_VERIFY", "KeyId": "the-key"})
        stub.activate()
        return keys.open(f"aws-kms:alias/x?region={REGION}")

    def test_a_long_message_goes_as_its_digest(self, keys: Any, monkeypatch: pytest.MonkeyPatch):
        """As the service documents it: RAW takes 4,096 octets. moto hashes a digest once more, so this is a stub."""
        local, message = ec.generate_private_key(ec.SECP256R1()), bytes(4097)
        stub = self.stubbed(keys, monkeypatch)
        key = self.opened(stub, keys, local)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(message)
        value = digest.finalize()
        signature = local.sign(value, ec.ECDSA(Prehashed(hashes.SHA256())))
        expected = {"KeyId": "the-key", "Message": value, "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
        stub.add_response("sign", {"Signature": signature}, expected)
        assert key.sign(message, ec.ECDSA(hashes.SHA256())) == signature
        stub.assert_no_pending_responses()

    def test_a_signature_by_another_key_is_thrown_away(self, keys: Any, monkeypatch: pytest.MonkeyPatch):
        local, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        stub = self.stubbed(keys, monkeypatch)
        key = self.opened(stub, keys, local)
        stub.add_response("sign", {"Signature": other.sign(b"x", ec.ECDSA(hashes.SHA256()))})
        with pytest.raises(Tampered) as raised:
            key.sign(b"x", ec.ECDSA(hashes.SHA256()))
        assert raised.value.code == "key.signature.wrong"

    @pytest.mark.parametrize(
        ("reason", "family", "code"),
        [
            ("AccessDeniedException", Misconfigured, "aws.credentials"),
            ("ThrottlingException", Unavailable, "aws.later"),
            ("DisabledException", Refused, "aws.refused"),
        ],
    )
    def test_what_aws_says_has_a_family(
        self, keys: Any, monkeypatch: pytest.MonkeyPatch, reason: str, family: Any, code: str
    ):
        stub = self.stubbed(keys, monkeypatch)
        key = self.opened(stub, keys, ec.generate_private_key(ec.SECP256R1()))
        stub.add_client_error("sign", reason)
        with pytest.raises(family) as raised:
            key.sign(b"x", ec.ECDSA(hashes.SHA256()))
        assert raised.value.code == code

    def test_a_name_taken_meanwhile_is_theirs(self, keys: Any, place: Place, monkeypatch: pytest.MonkeyPatch):
        first = keys.generate(place.uri("one"), "p256")
        monkeypatch.setattr(AwsKmsKeys, "_exists", lambda self, client, name: False)
        with pytest.raises(Refused) as refused:
            keys.generate(place.uri("one"), "p256")
        assert refused.value.code == "key.exists"
        assert keys.open(place.uri("one")).public_key() == first.public_key()
        assert aws_kms.__all__ == ["AwsKmsKeys"]

    def test_no_credentials(self, place: Place, monkeypatch: pytest.MonkeyPatch):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        keys = place.keys()
        with pytest.raises(Misconfigured) as raised:
            keys.open(place.uri("one"))
        keys.close()
        assert raised.value.code == "aws.credentials"


class TestAzure:
    @pytest.fixture(params=["azure-kv"])
    def place(self, vault: KeyVault, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vault.trust))
        monkeypatch.setenv("IDENTITY_ENDPOINT", vault.token_url)
        monkeypatch.setenv("IDENTITY_HEADER", "x")
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        yield Place("azure-kv", Path(), vault)
        vault.swap, vault.status = None, None

    def test_only_digests_leave(self, keys: Keys, place: Place, vault: KeyVault):
        key = keys.generate(place.uri("one"), "p256")
        algorithm_of(key.public_key()).sign(key, b"m" * 100_000)
        assert len(vault.signed[-1]["value"]) == 43

    def test_a_signature_by_another_key_is_thrown_away(self, keys: Keys, place: Place, vault: KeyVault):
        key: Any = keys.generate(place.uri("one"), "p256")
        vault.swap = ec.generate_private_key(ec.SECP256R1())
        with pytest.raises(Tampered) as raised:
            key.sign(b"x", ec.ECDSA(hashes.SHA256()))
        assert raised.value.code == "key.signature.wrong"

    @pytest.mark.parametrize(
        ("status", "family", "code"),
        [(403, Misconfigured, "azure.credentials"), (400, Refused, "azure.refused")],
    )
    def test_what_azure_says_has_a_family(
        self, keys: Keys, place: Place, vault: KeyVault, status: int, family: Any, code: str
    ):
        vault.status = status
        with pytest.raises(family) as raised:
            keys.open(place.uri("one"))
        assert raised.value.code == code
