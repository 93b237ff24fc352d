"""The target ``exec``: any vendor's program installs the identity, over lines of JSON (docs/formats/exec-target.md)."""

from birthmark.adapters.targets.exec.target import ExecTarget

__all__ = ["ExecTarget"]
