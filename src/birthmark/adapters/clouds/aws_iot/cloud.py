"""``aws-iot:REGION?mode=…``: an account of AWS IoT as a cloud that is told of devices (docs/clouds/aws-iot.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from birthmark.adapters.clouds.aws_iot.bulk import BULK_CALLS, BulkTask
from birthmark.adapters.clouds.aws_iot.calls import AwsCalls, AwsSays, AwsTurn
from birthmark.adapters.clouds.aws_iot.certificates import NotThisDevice
from birthmark.adapters.clouds.aws_iot.device import AwsIotDevices
from birthmark.adapters.clouds.aws_iot.estimate import estimate_for
from birthmark.adapters.clouds.aws_iot.facts import expected_record, require_possible
from birthmark.adapters.clouds.aws_iot.groundwork import Groundwork
from birthmark.adapters.clouds.aws_iot.justintime import JustInTime
from birthmark.adapters.clouds.aws_iot.options import parse_aws_iot_uri
from birthmark.adapters.clouds.aws_iot.pages import page_of_things
from birthmark.adapters.clouds.aws_iot.things import tell_thing, things_calls
from birthmark.adapters.extras import require_extra
from birthmark.errors import Misconfigured, Refused
from birthmark.ports import (
    CloudAuthority,
    CloudLimits,
    CloudPage,
    CloudRecord,
    Estimate,
    Outcome,
    ProvePossession,
    Registration,
    SecretsHandler,
)

__all__ = ["AwsIotCloud"]

_BATCH, _LANES = 10, 4
_ONE = Registration("0", "enabled", (b"",), ())


class AwsIotCloud:
    """Implements ``ports.Cloud``, its class ``ports.Admits``. Credentials come from the default chain of the SDK and
    never stand in a URI.

    Each operation of AWS keeps the rate of the URI by itself, as AWS counts them. ``limits.calls_a_minute`` is of all
    operations together: as many devices a second as the rate allows of each operation.
    """

    def __init__(
        self,
        uri: str,
        *,
        secrets: SecretsHandler,
        base: Path,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._options = options = parse_aws_iot_uri(uri, base)
        for package in ("boto3", "httpx"):
            require_extra("aws", package)
        self._calls = AwsCalls(options, self.name, monotonic=monotonic, sleep=sleep)
        self._ground = Groundwork(options, base)
        self._just_in_time = JustInTime(options) if options.just_in_time else None

    @classmethod
    def door(cls, uri: str, *, base: str) -> AwsIotDevices:
        """``Admits``: where the devices of this account connect; ``Misconfigured("cloud.aws.endpoint")``."""
        options = parse_aws_iot_uri(uri, Path(base))
        if options.device_endpoint is None:
            raise Misconfigured(
                "cloud.aws.endpoint",
                "the uri of this account does not say where its devices connect",
                hint="Add device_endpoint=… to the uri: `aws iot describe-endpoint --endpoint-type iot:Data-ATS`.",
            )
        host, _, port = options.device_endpoint.partition(":")
        trust = "" if options.device_trust is None else str(options.device_trust)
        return AwsIotDevices(host=host, port=int(port or 8883), trust=trust, topic=options.device_topic)

    @property
    def name(self) -> str:
        return f"aws-iot:{self._options.region}"

    @property
    def calls(self) -> int:
        """Implements ``ports.CountsCalls``: all operations together, each of which keeps a pace of its own."""
        return self._calls.made

    @property
    def limits(self) -> CloudLimits:
        bulk = self._options.mode == "bulk"
        per_device = things_calls(_ONE)
        return CloudLimits(
            batch=self._options.batch if bulk else _BATCH,
            calls_a_minute=60 * self._options.rate * per_device,
            lanes=1 if bulk else _LANES,
        )

    def expected(self, registration: Registration) -> CloudRecord | None:
        record = expected_record(self._options, registration)
        self._ground.require_subject(registration)
        return record

    def estimate(self, devices: int, authorities: Sequence[CloudAuthority]) -> Estimate:
        return estimate_for(self._options, devices, authorities, self._ground.obstacles(authorities))

    def prepare(self, authorities: Sequence[CloudAuthority], prove: ProvePossession) -> Sequence[str]:
        turn = self._calls.turn()
        try:
            return self._ground.prepare(turn, authorities, prove)
        except AwsSays as answer:
            raise _call_refused(self.name, answer) from None
        except NotThisDevice as answer:
            raise Refused(
                "cloud.call.refused",
                f"{self.name}: {answer.detail}",
                hint="Look at the account in the AWS console.",
                cloud=self.name,
            ) from None

    def calls_of(self, registrations: Sequence[Registration]) -> int:
        if self._just_in_time is not None:
            one_by_one = [self._just_in_time.calls(one) for one in registrations]
            return sum(one_by_one) + (self._just_in_time.first_calls if registrations else 0)
        most = sum(map(things_calls, registrations))
        return most + (BULK_CALLS + len(registrations) if self._options.mode == "bulk" and most else 0)

    def tell(self, registrations: Sequence[Registration]) -> Sequence[Outcome]:
        turn = self._calls.turn()
        outcomes: dict[str, Outcome] = {}
        possible = []
        for one in registrations:
            try:
                require_possible(one)
                self._ground.require_subject(one)
                possible.append(one)
            except Refused as problem:
                outcomes[one.device_serial] = Outcome(one.device_serial, "refused", problem.code, problem.message)
        if self._options.mode == "bulk":
            by_bulk = BulkTask(self._options, self._ground.template).tell(turn, possible)
            outcomes |= by_bulk
            possible = [one for one in possible if one.device_serial not in by_bulk]
        for one in possible:
            outcomes[one.device_serial] = self._one(turn, one)
        return [outcomes[one.device_serial] for one in registrations]

    def _one(self, turn: AwsTurn, registration: Registration) -> Outcome:
        serial = registration.device_serial
        try:
            if self._just_in_time is not None:
                changed = self._just_in_time.tell(turn, registration)
            else:
                changed = tell_thing(self._options, turn, registration)
                if not registration.certificates and not changed:
                    return Outcome(serial, "covered")
        except AwsSays as answer:
            return Outcome(serial, "refused", "cloud.aws.refused", answer.detail)
        except NotThisDevice as answer:
            return Outcome(serial, "refused", answer.code, answer.detail)
        return Outcome(serial, "covered" if changed is None else "done" if changed else "same")

    def page(self, after: str) -> CloudPage:
        try:
            return page_of_things(self._options, self._calls.turn(), after)
        except AwsSays as answer:
            raise _call_refused(self.name, answer) from None

    def close(self) -> None:
        self._calls.close()


def _call_refused(name: str, answer: AwsSays) -> Refused:
    return Refused(
        "cloud.call.refused",
        f"AWS IoT refuses the call: {answer.detail}",
        hint="Look the code up in the API reference of AWS IoT, then mend the account or the URI.",
        cloud=name,
        reason=answer.code,
    )
