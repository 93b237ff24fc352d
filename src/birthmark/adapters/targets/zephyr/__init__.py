"""The target ``zephyr``: the TLS credentials of a Zephyr device, over its shell."""

from birthmark.adapters.targets.zephyr.target import ZephyrTarget

__all__ = ["ZephyrTarget"]
