"""Matter devices: factory data with the device attestation certificate, for nRF Connect and for ESP."""

from birthmark.adapters.targets.matter.target import MatterTarget

__all__ = ["MatterTarget"]
