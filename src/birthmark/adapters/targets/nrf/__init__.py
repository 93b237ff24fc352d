"""The target ``nrf``: the credential store of a cellular modem, over AT commands."""

from birthmark.adapters.targets.nrf.target import NrfTarget

__all__ = ["NrfTarget"]
