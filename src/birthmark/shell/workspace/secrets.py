"""Secrets are named, never written down: a reference says where one is, and this is the only place that looks."""

from __future__ import annotations

import getpass
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from birthmark.adapters.durable import read_private_file
from birthmark.errors import Misconfigured
from birthmark.model.secret import Secret

__all__ = ["SecretsResolver"]

_LIMIT = 64 * 1024
_DESCRIPTOR = re.compile(r"[0-9]{1,6}")


class SecretsResolver:
    """Implements ``ports.SecretsHandler`` for ``env:NAME``, ``file:PATH``, ``fd:N`` and ``prompt:LABEL``.

    Each reference is looked up once: a person is asked once, a descriptor is read once. A value in place of a
    reference is refused without being shown.
    """

    def __init__(self) -> None:
        self._found: dict[str, Secret] = {}

    def __call__(self, reference: str) -> Secret:
        if reference not in self._found:
            scheme, colon, rest = reference.partition(":")
            look_up = _SCHEMES.get(scheme) if colon else None
            if look_up is None:
                raise Misconfigured(
                    "secret.reference",
                    "a secret must be named by a reference, not written down",
                    hint="Use env:NAME, file:PATH, fd:NUMBER or prompt:LABEL.",
                )
            self._found[reference] = Secret(look_up(rest))
        return self._found[reference]

    def resolved(self) -> dict[str, bytes]:
        """Return what was looked up so far, for a worker process; it travels through a pipe and nowhere else."""
        return {reference: secret.reveal() for reference, secret in self._found.items()}


def _from_environment(name: str) -> bytes:
    value = os.environ.get(name)
    if not value:
        raise Misconfigured(
            "secret.missing",
            f"the environment has no {name}",
            hint=f"Set {name}, or change the reference in birthmark.toml.",
            variable=name,
        )
    return os.fsencode(value)


def _from_file(path: str) -> bytes:
    value = read_private_file(Path(path)).rstrip(b"\r\n")
    if not value or len(value) > _LIMIT:
        raise Misconfigured("secret.empty", f"{path} holds no secret", hint="Write the secret into it.", path=path)
    return value


def _from_descriptor(number: str) -> bytes:
    try:
        if not _DESCRIPTOR.fullmatch(number):
            raise ValueError(number)
        with os.fdopen(int(number), "rb") as file:
            value = file.read(_LIMIT).rstrip(b"\r\n")
    except (OSError, ValueError) as problem:
        raise Misconfigured(
            "secret.descriptor",
            f"file descriptor {number[:10]!r} cannot be read",
            hint="Open it for this process, for example with 3<file.",
        ) from problem
    if not value:
        raise Misconfigured("secret.empty", f"fd:{number} holds no secret", hint="Write the secret into it.")
    return value


def _from_person(label: str) -> bytes:
    answer = None
    if sys.stdin.isatty():
        with suppress(EOFError):
            answer = getpass.getpass(f"{label if label.isprintable() and label else 'secret'}: ")
    if answer is None:
        raise Misconfigured(
            "secret.no_tty",
            "nobody is there to be asked for a secret",
            hint="Use env:NAME, file:PATH or fd:NUMBER where no person sits.",
        )
    if not answer:
        raise Misconfigured("secret.empty", "nothing was typed", hint="Run the command again and type the secret.")
    return os.fsencode(answer)


_SCHEMES: dict[str, Callable[[str], bytes]] = {
    "env": _from_environment,
    "file": _from_file,
    "fd": _from_descriptor,
    "prompt": _from_person,
}
