"""ESP chips: the partitions that hold an identity, and the fuses that lock it."""

from birthmark.adapters.targets.esp.target import EspTarget

__all__ = ["EspTarget"]
