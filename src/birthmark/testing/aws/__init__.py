"""A local AWS IoT for tests (docs/testing-aws.md)."""

from birthmark.testing.aws.server import EmulatedAws
from birthmark.testing.dps.faults import FaultPlan

__all__ = ["EmulatedAws", "FaultPlan"]
