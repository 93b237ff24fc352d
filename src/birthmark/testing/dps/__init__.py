"""A local Azure Device Provisioning Service for tests (docs/testing-dps.md)."""

from birthmark.testing.dps.faults import FaultPlan
from birthmark.testing.dps.limits import DpsLimits
from birthmark.testing.dps.server import EmulatedDps
from birthmark.testing.dps.sphere import EmulatedCatalog

__all__ = ["DpsLimits", "EmulatedCatalog", "EmulatedDps", "FaultPlan"]
