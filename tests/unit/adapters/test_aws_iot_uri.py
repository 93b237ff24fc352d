"""The URI of an AWS IoT account: every option that would be passed over is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from birthmark.adapters.clouds.aws_iot.options import parse_aws_iot_uri
from birthmark.errors import Misconfigured

ROLE = "arn:aws:iam::123456789012:role/provisioning"
BULK = f"mode=bulk&policy=p&bucket=lists&role={ROLE}"


@pytest.mark.parametrize(
    "uri",
    [
        "aws-iot:",
        "aws-iot:Europe",
        "aws:eu-west-1",
        "aws-iot:eu-west-1",
        "aws-iot:eu-west-1?mode=fleet",
        "aws-iot:eu-west-1?mode=thing",
        "aws-iot:eu-west-1?mode=jitr&mode=jitr",
        "aws-iot:eu-west-1?mode=jitr&rate=",
        "aws-iot:eu-west-1?mode=jitr&rate=0",
        "aws-iot:eu-west-1?mode=jitr&rate=1e9",
        "aws-iot:eu-west-1?mode=jitr&Rate=5",
        "aws-iot:eu-west-1?mode=certificate&policy=p",
        "aws-iot:eu-west-1?mode=no-ca&ca=default",
        "aws-iot:eu-west-1?mode=jitr&template=x.json",
        "aws-iot:eu-west-1?mode=thing&policy=p&bucket=lists",
        "aws-iot:eu-west-1?mode=certificate&policy_document=p.json",
        "aws-iot:eu-west-1?mode=bulk&policy=p",
        f"aws-iot:eu-west-1?{BULK}&template=by-name",
        f"aws-iot:eu-west-1?{BULK}&batch=10001",
        f"aws-iot:eu-west-1?mode=jitp&role={ROLE}",
        f"aws-iot:eu-west-1?mode=jitp&role={ROLE}&template=x.json&policy=p",
        "aws-iot:eu-west-1?mode=jitp&policy=p&role=provisioning",
        "aws-iot:eu-west-1?mode=jitr&endpoint=http://iot.example",
        "aws-iot:eu-west-1?mode=jitr&endpoint=http://127.0.0.1.example",
        "aws-iot:eu-west-1?mode=jitr&endpoint=https://user:secret@iot.example",
        "aws-iot:eu-west-1?mode=jitr&endpoint=https://iot.example/path",
        "aws-iot:eu-west-1?mode=jitr&endpoint=http://127.0.0.1:99999",
        "aws-iot:eu-west-1?mode=jitr&blocked=deleted",
        "aws-iot:eu-west-1?mode=jitr&fleet=f",
        f"aws-iot:eu-west-1?mode=jitr&fleet_template=f.json&role={ROLE}",
        "aws-iot:eu-west-1?mode=jitr&fleet=f&fleet_template=f.json",
    ],
)
def test_a_uri_that_does_not_say_what_is_meant(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as raised:
        parse_aws_iot_uri(uri, tmp_path)
    assert raised.value.code == "cloud.aws.uri"
    assert "secret" not in str(raised.value.document())


def test_what_a_uri_says(tmp_path: Path) -> None:
    said = parse_aws_iot_uri(
        f"aws-iot:us-gov-west-1?{BULK}&template=./own.json&rate=2.5&endpoint=http://127.0.0.1:8080&blocked=revoked",
        tmp_path,
    )
    assert (said.region, said.mode, said.rate, said.batch) == ("us-gov-west-1", "bulk", 2.5, 1000)
    assert (said.template, said.template_name, said.blocked) == (tmp_path / "own.json", None, "REVOKED")
    named = parse_aws_iot_uri(f"aws-iot:eu-west-1?mode=jitp&template=by-name&role={ROLE}", tmp_path)
    assert (named.template, named.template_name, named.just_in_time) == (None, "by-name", True)
    assert not parse_aws_iot_uri("aws-iot:eu-west-1?mode=no-ca", tmp_path).with_ca
