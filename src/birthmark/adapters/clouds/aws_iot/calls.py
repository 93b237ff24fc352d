"""Calls to AWS IoT: one client, each operation at its own pace, and what AWS says in terms that can be acted on.

The SDK's own repeats are off: whoever tells the cloud repeats, at a pace it knows of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.adapters.told import one_line
from birthmark.errors import Misconfigured, Unavailable

__all__ = ["AwsCalls", "AwsSays", "AwsTurn"]

_LATER = frozenset(
    {
        "ConflictingResourceUpdateException",
        "InternalException",
        "InternalFailureException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_NOT_US = frozenset(
    {
        "AccessDenied",
        "AuthFailure",
        "OptInRequired",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "ForbiddenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnauthorizedException",
        "UnrecognizedClientException",
    }
)
_CONNECT_S, _ANSWER_S = 10, 30
_LONGEST_DETAIL = 300


class AwsSays(Exception):
    """AWS decided against this call: an answer, not a failure, which never leaves this package.

    ``code``: its own; ``text``: its words; ``members``: what else it said.
    """

    def __init__(self, code: str, text: str, members: Mapping[str, Any]) -> None:
        super().__init__(code)
        self.code, self.members = code, members
        self.text = text[:_LONGEST_DETAIL]

    @property
    def detail(self) -> str:
        """Code and words, printable, in one line."""
        return one_line(f"{self.code}: {self.text}", _LONGEST_DETAIL)


class AwsCalls:
    """The clients of one account and region. Threads may use it at once."""

    def __init__(
        self, options: AwsIotOptions, name: str, *, monotonic: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self.name = name
        self._options = options
        self._interval = 1 / options.rate
        self._monotonic, self.sleep = monotonic, sleep
        self._lock = threading.Lock()
        self.made = 0
        """How many calls were made, answered or not."""
        self._next: dict[str, float] = {}
        self._clients: dict[str, Any] = {}

    def turn(self) -> AwsTurn:
        """Return what counts the calls of one piece of work."""
        return AwsTurn(self)

    def monotonic(self) -> float:
        """Seconds on a clock that only grows."""
        return self._monotonic()

    def ask(self, service: str, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Call an operation at its pace.

        Raises ``AwsSays`` for what AWS decided; ``Unavailable("cloud.aws.later")``;
        ``Misconfigured("cloud.aws.credentials")``.
        """
        from botocore import exceptions as said
        from botocore.parsers import ResponseParserError

        try:
            call = getattr(self._client(service), operation)
            self._take_turn(operation)
            found: dict[str, Any] = call(**asked)
        except said.ClientError as problem:
            raise self._answered(problem.response) from None
        except said.ParamValidationError:
            raise AwsSays("ParamValidation", f"the SDK does not take the arguments of {operation}", {}) from None
        except (
            said.NoCredentialsError,
            said.PartialCredentialsError,
            said.CredentialRetrievalError,
            said.ProfileNotFound,
            said.ConfigParseError,
            said.SSOError,
            said.TokenRetrievalError,
        ) as problem:
            raise self._credentials(type(problem).__name__) from None
        except (said.BotoCoreError, ResponseParserError) as problem:
            raise self._later(type(problem).__name__, None) from None
        return found

    def close(self) -> None:
        """Close the connections; closing twice is safe."""
        with self._lock:
            while self._clients:
                self._clients.popitem()[1].close()

    def _client(self, service: str) -> Any:
        with self._lock:  # sessions of the SDK are not for threads, clients are
            if service not in self._clients:
                import boto3
                from botocore.config import Config

                options = self._options
                self._clients[service] = boto3.Session().client(
                    service,
                    region_name=options.region,
                    endpoint_url=options.endpoint if service == "iot" else options.s3_endpoint,
                    config=Config(
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        connect_timeout=_CONNECT_S,
                        read_timeout=_ANSWER_S,
                        max_pool_connections=16,
                    ),
                )
            return self._clients[service]

    def count(self) -> None:
        """Count a call that another client makes."""
        with self._lock:
            self.made += 1

    def _take_turn(self, operation: str) -> None:
        """Wait for this call's place: AWS counts each operation by itself, and saves nothing up for long."""
        with self._lock:
            now = self._monotonic()
            at = max(now, self._next.get(operation, now))
            self._next[operation] = at + self._interval
            self.made += 1
        if at > now:
            self.sleep(at - now)

    def _answered(self, response: Mapping[str, Any]) -> AwsSays | Unavailable | Misconfigured:
        error, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
        code, status = str(error.get("Code", ""))[:100], int(metadata.get("HTTPStatusCode", 0))
        if code in _LATER or status == 429 or status >= 500:
            return self._later(code, metadata.get("HTTPHeaders", {}).get("retry-after"))
        if code in _NOT_US:
            return self._credentials(code)
        members = {key: value for key, value in response.items() if key not in ("Error", "ResponseMetadata")}
        return AwsSays(code, str(error.get("Message", "")), members)

    def _later(self, reason: str, after: object) -> Unavailable:
        seconds = int(after) if isinstance(after, str) and after.isdecimal() and len(after) < 5 else None
        return Unavailable(
            "cloud.aws.later",
            f"AWS IoT cannot answer now ({reason})",
            hint="It is asked again; lower the rate in the URI, or have the quota raised, if it repeats.",
            cloud=self.name,
            reason=reason,
            **({} if seconds is None else {"retry_after": seconds}),
        )

    def _credentials(self, reason: str) -> Misconfigured:
        return Misconfigured(
            "cloud.aws.credentials",
            f"AWS does not let this program use the account ({reason})",
            hint="Give this machine a role or profile with the rights that docs/clouds/aws-iot.md lists.",
            cloud=self.name,
            reason=reason,
        )


class AwsTurn:
    """Counts the calls of one piece of work."""

    def __init__(self, calls: AwsCalls) -> None:
        self._calls = calls
        self.count = 0

    def iot(self, operation: str, **asked: Any) -> dict[str, Any]:
        """Call AWS IoT; arguments that are None are left out. Errors: as ``AwsCalls.ask``."""
        return self._ask("iot", operation, asked)

    def s3(self, operation: str, **asked: Any) -> dict[str, Any]:
        """Call S3."""
        return self._ask("s3", operation, asked)

    def found(self, operation: str, **asked: Any) -> dict[str, Any] | None:
        """Call AWS IoT for something that may not be there; None: it is not."""
        try:
            return self._ask("iot", operation, asked)
        except AwsSays as answer:
            if answer.code == "ResourceNotFoundException":
                return None
            raise

    def follow(self) -> None:
        """Count a request that is sent beside the SDK: a link that AWS gave."""
        self.count += 1
        self._calls.count()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._calls.sleep(seconds)

    def now(self) -> float:
        """Seconds on a clock that only grows."""
        return self._calls.monotonic()

    def _ask(self, service: str, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.count += 1
        return self._calls.ask(service, operation, {key: value for key, value in asked.items() if value is not None})
