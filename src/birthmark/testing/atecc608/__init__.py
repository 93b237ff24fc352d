"""An ATECC608 secure element that the maker's own C library talks to (docs/testing.md)."""

from birthmark.testing.atecc608.device import Atecc608, emulated_bus, rehearsal_bus
from birthmark.testing.atecc608.faults import Faults
from birthmark.testing.atecc608.memory import OPEN_CONFIG, Memory

__all__ = ["OPEN_CONFIG", "Atecc608", "Faults", "Memory", "emulated_bus", "rehearsal_bus"]
