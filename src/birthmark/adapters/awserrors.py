"""What AWS says, in the families of ours. Messages of the SDK are not repeated: some hold parts of requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from birthmark.errors import Misconfigured, Refused, Unavailable

__all__ = ["aws_failure"]

_LATER = frozenset(
    {
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "LimitExceededException",
        "RequestInProgressException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_NOT_US = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "UnrecognizedClientException",
    }
)
_ADDRESS = frozenset({"InvalidArnException", "NotFoundException", "ResourceNotFoundException"})


@contextmanager
def aws_failure(what: str) -> Iterator[None]:
    """Turn what boto3 raises into our errors; ``what`` names the key or service. Other exceptions pass.

    Raises ``Unavailable("aws.later")``, ``Misconfigured``: ``aws.credentials``, ``aws.unknown``;
    ``Refused("aws.refused")``. The fact ``reason`` is AWS's own code.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as problem:
        raise _named(str(problem.response.get("Error", {}).get("Code", "")), _status(problem), what) from None
    except (NoCredentialsError, PartialCredentialsError) as problem:
        raise _credentials(type(problem).__name__, what) from None
    except BotoCoreError as problem:
        raise _later(type(problem).__name__, what) from None


def _status(problem: object) -> int:
    response = getattr(problem, "response", {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _named(reason: str, status: int, what: str) -> Unavailable | Misconfigured | Refused:
    if reason in _LATER or status >= 500:
        return _later(reason, what)
    if reason in _NOT_US:
        return _credentials(reason, what)
    if reason in _ADDRESS:
        return Misconfigured(
            "aws.unknown",
            f"AWS knows nothing of {what}",
            hint="Check name, account and region in the URI.",
            name=what,
            reason=reason,
        )
    return Refused(
        "aws.refused",
        f"AWS refuses the request for {what} ({reason})",
        hint="Look the code up in the AWS documentation of this service, then mend profile, template or key.",
        name=what,
        reason=reason,
    )


def _later(reason: str, what: str) -> Unavailable:
    return Unavailable(
        "aws.later",
        f"AWS cannot answer for {what} now ({reason})",
        hint="Run the same command again; check network and quotas if it repeats.",
        name=what,
        reason=reason,
    )


def _credentials(reason: str, what: str) -> Misconfigured:
    return Misconfigured(
        "aws.credentials",
        f"AWS does not let this program use {what} ({reason})",
        hint="Give this machine a role or profile that may; birthmark uses the SDK's default chain of credentials.",
        name=what,
        reason=reason,
    )
