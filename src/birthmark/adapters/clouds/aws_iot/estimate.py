"""What telling AWS IoT of so many devices takes. Rates are assumptions until they are held against the account."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from birthmark.adapters.clouds.aws_iot.options import AwsIotOptions
from birthmark.ports import CloudAuthority, Estimate, EstimatedStep, Obstacle

__all__ = ["estimate_for"]

_ASSUMED = "check the rate against the quotas of the account (Service Quotas, AWS IoT Core)"


def estimate_for(
    options: AwsIotOptions,
    devices: int,
    authorities: Sequence[CloudAuthority],
    obstacles: tuple[Obstacle, ...],
) -> Estimate:
    """Return the steps in the order in which they are done."""
    return Estimate(tuple(_steps(options, devices, sum(len(one.certificates) for one in authorities))), obstacles)


def _steps(options: AwsIotOptions, devices: int, cas: int) -> Iterator[EstimatedStep]:
    most = 6 + (4 * cas if options.with_ca else 0)
    yield _step("prepare CAs, policy, thing type and group", most, most / options.rate, "looked at first, then made")
    if options.just_in_time:
        yield _step(
            f"{devices} devices become known when they first connect",
            0,
            0.0,
            f"mode={options.mode}: the CA vouches for them; only blocked ones are told. AWS makes about 4 calls of its "
            f"own for each first connection, which count against the same quotas: spread them ({_ASSUMED})",
        )
        return
    if options.mode == "bulk":
        tasks = ceil(devices / options.batch)
        yield _step(
            f"{tasks} bulk task{'s' if tasks != 1 else ''} of up to {options.batch} devices, one after the other",
            tasks * 12,
            max(devices / options.rate, tasks * 12 / options.rate),
            f"AWS runs one task of an account at a time, at about {options.rate:g} devices a second; {_ASSUMED}",
        )
        return
    each = 4 + (options.policy is not None) + (options.thing_group is not None)
    yield _step(
        f"{devices} devices: certificate, thing{', policy' if options.policy else ''}, tied together",
        each * devices,
        devices / options.rate,
        f"{each} operations for each device, side by side, each at {options.rate:g} calls a second; {_ASSUMED}",
    )


def _step(what: str, calls: int, seconds: float, why: str) -> EstimatedStep:
    return EstimatedStep(what, calls, round(seconds / 60, 2), why)
