"""The target ``image``: identities installed with the firmware."""

from birthmark.adapters.targets.image.target import ImageTarget

__all__ = ["ImageTarget"]
