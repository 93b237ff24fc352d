"""The target ``atecc``: a key that never leaves an ATECC608, and its certificate beside it (docs/targets/atecc.md)."""

from birthmark.adapters.targets.atecc.target import AteccTarget

__all__ = ["AteccTarget"]
