"""The targets ``serial`` and ``ssh``: a Linux device over its shell."""

from birthmark.adapters.targets.shell.target import SerialTarget, SshTarget

__all__ = ["SerialTarget", "SshTarget"]
