"""AWS IoT as the laws of ``ports.Cloud`` see it: boto3 against the emulated service (moto with what it lacks)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import boto3
from botocore.loaders import JSONFileLoader
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.adapters.clouds.aws_iot import AwsIotCloud
from birthmark.model.secret import Secret
from birthmark.ports.cloud import CloudAuthority, Registration
from birthmark.testing.aws import EmulatedAws, FaultPlan
from birthmark.testing.aws.certificates import add_certificate
from birthmark.testing.aws.front import Front
from birthmark.testing.aws.refusal import Refusal
from support.clouds.fleet import Fleet, _certificate, _der
from support.clouds.world import CloudWorld

__all__ = ["CLOUDS", "POLICY", "REGION", "ROLE", "AwsFleet", "AwsPlace", "aws_place"]

REGION = "eu-west-1"
ROLE = "arn:aws:iam::123456789012:role/provisioning"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}",
        }
    ],
}
MARK = "birthmark-standing"
_described = cache(JSONFileLoader().load_file)
"""The descriptions of AWS are large: a process of tests reads each once."""


class AwsFleet(Fleet):
    """Devices and CAs, as many of one subject as are asked for."""

    def crowd(self, count: int) -> list[CloudAuthority]:
        """Return that many CAs of one subject."""
        _, key = self.issuing()
        made = [
            _certificate("Fleet crowd", key.public_key(), "Fleet Root", self._root_key, ca=True) for _ in range(count)
        ]
        return [CloudAuthority(f"crowd-{number}", (_der(one),), ()) for number, one in enumerate(made)]


class CountedFront(Front):
    """Counts and names what reaches the service; lets nobody in, or loses one answer, when it is told to."""

    count = 0
    shut = False
    names: tuple[str, ...] = ()
    lose: str | None = None

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        with self.lock:
            self.count += 1
        return super().__call__(environ, start)

    def _iot(self, *asked: Any) -> Any:
        answer = super()._iot(*asked)
        if self.names and self.names[-1] == self.lose:
            self.lose = None
            raise ConnectionAbortedError("the answer is lost, as asked for")
        return answer

    def _throttle(self, name: str) -> None:
        self.names += (name,)
        if self.shut:
            raise Refusal("UnauthorizedException", "You are not authorized to perform this operation.")
        super()._throttle(name)


@dataclass
class AwsPlace:
    """A running emulator and what opens adapters for it."""

    aws: EmulatedAws
    front: CountedFront
    fleet: AwsFleet
    directory: Path
    query: str

    def open(self, query: str | None = None, **more: Any) -> AwsIotCloud:
        ends = f"endpoint={self.aws.url}&rate=100000"
        text = self.query if query is None else query
        if "mode=bulk" in text:
            ends += f"&s3_endpoint={self.aws.url}"
        asked = {"sleep": _short_sleep, **more}
        return AwsIotCloud(f"aws-iot:{REGION}?{text}&{ends}", secrets=_no_secret, base=self.directory, **asked)

    def client(self, service: str = "iot") -> Any:
        return boto3.client(service, region_name=REGION, endpoint_url=self.aws.url)


def _no_secret(reference: str) -> Secret:
    raise AssertionError(f"{reference}: credentials come from the SDK's chain")


def _short_sleep(seconds: float) -> None:
    time.sleep(min(seconds, 0.02))


@contextmanager
def aws_place(directory: Path, query: str) -> Iterator[AwsPlace]:
    """Start an emulator; the environment holds credentials as a machine's would."""
    (directory / "policy.json").write_text(json.dumps(POLICY))
    environment = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}
    account = f"{os.getpid():012d}"
    with (
        patch.dict(os.environ, environment),
        patch.object(JSONFileLoader, "load_file", lambda _, path: _described(path)),
        EmulatedAws(region=REGION, account=account) as aws,
    ):
        front = aws._front
        front.__class__ = CountedFront
        assert isinstance(front, CountedFront)
        place = AwsPlace(aws, front, AwsFleet(), directory, query)
        place.client("s3").create_bucket(Bucket="lists", CreateBucketConfiguration={"LocationConstraint": REGION})
        yield place


def _snapshot(place: AwsPlace) -> object:
    registry = place.aws.registry
    return (
        {key: (one.status, one.certificate_pem) for key, one in registry.certificates.items()},
        {
            key: (one.status, one.auto, one.mode, one.registration_config)
            for key, one in registry.ca_certificates.items()
        },
        {one.thing_name: (dict(one.attributes), one.version) for one in registry.things.values()},
        sorted(registry.principal_things),
        sorted(registry.principal_policies),
        {key: (one.document, len(one.versions)) for key, one in registry.policies.items()},
        sorted(registry.thing_types),
        {key: sorted(one.things) for key, one in registry.thing_groups.items()},
    )


def _add(place: AwsPlace, one: Registration) -> None:
    registry, waiting = place.aws.registry, "mode=jit" in place.query
    kind = "lamp" if "thing_type=lamp" in place.query else ""
    registry.create_thing(one.device_serial, kind, {"attributes": {MARK: "blocked"} if waiting else {}})
    for der in one.certificates:
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
        made = add_certificate(registry, pem, "INACTIVE" if waiting else "ACTIVE", None, "DEFAULT")
        registry.attach_thing_principal(one.device_serial, made.arn)


def _change(place: AwsPlace, serial: str) -> None:
    """Turn the standing of one certificate of a device, and tie another one to it."""
    registry = place.aws.registry
    arn = next(arn for arn, name in registry.principal_things if name == serial)
    held = next(one for one in registry.certificates.values() if one.arn == arn)
    held.status = "INACTIVE" if held.status == "ACTIVE" else "ACTIVE"
    pem = x509.load_der_x509_certificate(place.fleet.certificate(serial)).public_bytes(Encoding.PEM).decode()
    registry.attach_thing_principal(serial, add_certificate(registry, pem, "ACTIVE", None, "DEFAULT").arn)


def _remove(place: AwsPlace, serial: str) -> None:
    registry = place.aws.registry
    for arn, name in [one for one in registry.principal_things if one[1] == serial]:
        registry.detach_thing_principal(name, arn)
        for policy in registry.list_attached_policies(arn):
            registry.detach_policy(policy.name, arn)
        known_as = arn.rpartition("/")[2]
        registry.certificates.pop(known_as)
    registry.delete_thing(serial)


def _world(query: str, *, knows_cas: bool = True) -> Callable[[Path], AbstractContextManager[CloudWorld]]:
    @contextmanager
    def make(directory: Path) -> Iterator[CloudWorld]:
        with aws_place(directory, query) as place:
            fleet = place.fleet
            standing = "blocked" if "mode=jit" in query else "enabled"

            def heal() -> None:
                place.aws.faults.set(FaultPlan())
                place.front.shut = False

            def gone() -> None:
                place.aws._server.shutdown()
                place.aws._server.server_close()

            yield CloudWorld(
                fleet=fleet,
                open=place.open,
                calls=lambda: place.front.count,
                snapshot=lambda: _snapshot(place),
                change=lambda serial: _change(place, serial),
                add=lambda one: _add(place, one),
                remove=lambda serial: _remove(place, serial),
                impossible=fleet.registration("unit.with/a.name"),
                secrets=[SECRET.encode()],
                heal=heal,
                refused=fleet.registration("Unit-Strange", standing, ca="never-told") if knows_cas else None,
                too_much=fleet.crowd(11) if knows_cas else None,
                knows_cas=knows_cas,
                faults={
                    "throttled": lambda: place.aws.faults.set(FaultPlan(throttled=1.0)),
                    "lost": lambda: place.aws.faults.set(FaultPlan(lost=1.0)),
                    "shut": lambda: setattr(place.front, "shut", True),
                    "gone": gone,
                },
                says_when=False,
            )

    return make


_POLICY = "policy=devices&policy_document=policy.json"
CLOUDS = {
    "aws-iot-thing": _world(f"mode=thing&{_POLICY}&thing_type=lamp&thing_group=lamps"),
    "aws-iot-bulk": _world(f"mode=bulk&{_POLICY}&bucket=lists&role={ROLE}&batch=12"),
    "aws-iot-jitp": _world(f"mode=jitp&{_POLICY}&role={ROLE}"),
    "aws-iot-no-ca": _world(f"mode=no-ca&{_POLICY}", knows_cas=False),
}
