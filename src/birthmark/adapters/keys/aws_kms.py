"""``aws-kms:alias/NAME?region=REGION`` or ``aws-kms:KEY-ARN``: a private key in AWS KMS, by ``boto3``.

Credentials come from the default chain of the SDK and never stand in a URI. A message of up to 4,096 octets is sent as
it is (MessageType RAW), a longer one as its digest; both are the same signature.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.serialization import load_der_public_key

from birthmark.adapters.awserrors import aws_failure
from birthmark.adapters.cloud_key import cloud_key
from birthmark.adapters.extras import require_extra
from birthmark.errors import Misconfigured, Refused
from birthmark.pki.algorithms import algorithm_named, algorithm_of
from birthmark.ports import SecretsHandler

__all__ = ["AwsKmsKeys"]

_SPECS = {"p256": "ECC_NIST_P256", "p384": "ECC_NIST_P384", "rsa2048": "RSA_2048", "rsa3072": "RSA_3072"}
_EC, _RSA = {"sha256": "ECDSA_SHA_256", "sha384": "ECDSA_SHA_384"}, {"sha256": "RSASSA_PKCS1_V1_5_SHA_256"}
_LONGEST_RAW = 4096
_DELETION_DAYS = 7


class AwsKmsKeys:
    """Implements ``ports.Keys``. One client a region; AWS decides by its own policies who may do what."""

    def __init__(self, secrets: SecretsHandler, base: Path) -> None:
        require_extra("aws", "boto3")
        self._clients: dict[str, Any] = {}

    def open(self, uri: str) -> Any:
        name, region = _parse(uri)
        client = self._client(region)
        with aws_failure(name):
            found = client.get_public_key(KeyId=name)
        if found["KeyUsage"] != "SIGN_VERIFY":
            raise _not_for_signing(name)
        public_key = load_der_public_key(found["PublicKey"])
        algorithm = algorithm_of(public_key)
        names = _RSA if algorithm.name.startswith("rsa") else _EC
        key_id = found["KeyId"]  # an alias may be moved to another key: the one that was opened is used

        def sign(message: bytes | None, digest: bytes, hash_name: str) -> bytes:
            raw = message is not None and len(message) <= _LONGEST_RAW
            with aws_failure(name):
                answer = client.sign(
                    KeyId=key_id,
                    Message=message if raw else digest,
                    MessageType="RAW" if raw else "DIGEST",
                    SigningAlgorithm=names[hash_name],
                )
            return bytes(answer["Signature"])

        return cloud_key(public_key, sign, f"aws-kms:{name}")

    def generate(self, uri: str, algorithm: str) -> Any:
        """Make a key and give it the alias of the URI; power cut in between: a key without a name, which costs money
        until it is deleted, and signs nothing."""
        name, region = _parse(uri)
        algorithm_named(algorithm)
        if algorithm not in _SPECS:
            raise Misconfigured(
                "key.algorithm.token",
                f"AWS KMS has no keys of kind {algorithm}",
                hint=f"Use one of {', '.join(_SPECS)}.",
                algorithm=algorithm,
            )
        if not name.startswith("alias/"):
            raise Misconfigured(
                "key.uri",
                "a key to be made in AWS KMS needs an alias",
                hint="Write aws-kms:alias/NAME?region=REGION.",
            )
        client = self._client(region)
        if self._exists(client, name):
            raise _exists(name)
        with aws_failure(name):
            made = client.create_key(KeySpec=_SPECS[algorithm], KeyUsage="SIGN_VERIFY", Description="birthmark CA key")
        key_id = made["KeyMetadata"]["KeyId"]
        try:
            with aws_failure(name):
                client.create_alias(AliasName=name, TargetKeyId=key_id)
        except Refused as refusal:
            # Somebody else took the name meanwhile: theirs counts.
            with aws_failure(name):
                client.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=_DELETION_DAYS)
            if refusal.facts.get("reason") != "AlreadyExistsException":
                raise
            raise _exists(name) from refusal
        return self.open(uri)

    def close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()

    def _exists(self, client: Any, name: str) -> bool:
        try:
            with aws_failure(name):
                client.describe_key(KeyId=name)
        except Misconfigured as problem:
            if problem.code == "aws.unknown":
                return False
            raise
        return True

    def _client(self, region: str) -> Any:
        if region not in self._clients:
            import boto3

            self._clients[region] = boto3.Session().client("kms", region_name=region)
        return self._clients[region]


def _parse(uri: str) -> tuple[str, str]:
    """Return key (alias, id or ARN) and region."""
    scheme, _, rest = uri.partition(":")
    name, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    parts = name.split(":")
    arn_region = parts[3] if len(parts) == 6 and parts[0] == "arn" else ""
    region = options.get("region", arn_region)
    if scheme != "aws-kms" or not name or not region or set(options) > {"region"} or len(pairs) != len(options):
        raise Misconfigured(
            "key.uri",
            "this is not the URI of a key in AWS KMS",
            hint="Write aws-kms:alias/NAME?region=REGION or aws-kms:arn:aws:kms:REGION:ACCOUNT:key/ID.",
        )
    return name, region


def _exists(name: str) -> Refused:
    return Refused(
        "key.exists",
        f"there is already a key {name}",
        hint="A key is never overwritten: name another alias, or delete that key on purpose.",
        key=name,
    )


def _not_for_signing(name: str) -> Misconfigured:
    return Misconfigured(
        "key.cloud.usage",
        f"the key {name} is not for signing",
        hint="Make a key with the usage SIGN_VERIFY.",
        key=name,
    )
