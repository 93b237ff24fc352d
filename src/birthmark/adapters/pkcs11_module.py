"""A PKCS#11 library in this process: loaded once, used by one thread at a time, started again when it must be.

The binding (python-pkcs11) starts a library without thread locking, so every call is made under ``Pkcs11Module.lock``.
The same lock keeps what a library leaves in OpenSSL's error queue away from the TLS of the thread (``opensslqueue``).
Starting, logging in and looking for objects in several processes at once fails in SoftHSM2 (it rewrites the token while
others read it), so these steps also hold a lock between processes. Signing needs none.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from birthmark.adapters.opensslqueue import QuietLock
from birthmark.errors import BirthmarkError, Misconfigured, StationFault, Unavailable

__all__ = ["LOST", "Pkcs11Module", "binding", "named_error", "pkcs11_module"]

LOST = frozenset(
    {
        "DeviceError",
        "DeviceRemoved",
        "FunctionFailed",
        "GeneralError",
        "KeyHandleInvalid",
        "ObjectHandleInvalid",
        "OperationActive",
        "PKCS11Error",  # the binding has no class of its own for CKR_CRYPTOKI_NOT_INITIALIZED
        "SessionClosed",
        "SessionHandleInvalid",
        "SlotIDInvalid",
        "TokenNotPresent",
        "UserAlreadyLoggedIn",
        "UserNotLoggedIn",
    }
)
"""Names of the binding's errors after which a new start of the library and a new login may help."""

_NAMED: dict[str, tuple[type[BirthmarkError], str, str, str]] = {
    "PinIncorrect": (
        Misconfigured,
        "key.pin.wrong",
        "the token refuses the PIN",
        "Mend the secret that pin-source names before you try again: most tokens lock after a few wrong PINs.",
    ),
    "PinLocked": (
        StationFault,
        "key.pin.locked",
        "the token has locked its user PIN",
        "Let the security officer of the token unlock it and set a new PIN.",
    ),
    "PinExpired": (StationFault, "key.pin.expired", "the PIN of the token has expired", "Set a new PIN."),
    "UserPinNotInitialized": (
        StationFault,
        "key.pin.unset",
        "the token has no user PIN",
        "Let the security officer of the token set the user PIN.",
    ),
    "NoSuchToken": (
        StationFault,
        "key.token.missing",
        "no token has this label",
        "Plug the token in, or mend the token= part of the URI.",
    ),
    "MultipleTokensReturned": (
        Misconfigured,
        "key.token.ambiguous",
        "more than one token has this label",
        "Give each token a label of its own.",
    ),
    "MechanismInvalid": (
        Misconfigured,
        "key.algorithm.token",
        "the token does not know this algorithm",
        "Choose an algorithm that the token has, or another token.",
    ),
    "TokenWriteProtected": (
        StationFault,
        "key.token.read_only",
        "the token does not let itself be written",
        "Lift the write protection of the token.",
    ),
    "DeviceMemory": (
        StationFault,
        "key.token.full",
        "the token has no room left",
        "Remove objects that are no longer needed, or take another token.",
    ),
}
_NAMED["PinInvalid"] = _NAMED["PinLenRange"] = _NAMED["PinIncorrect"]
_NAMED["SessionReadOnly"] = _NAMED["TokenWriteProtected"]

_PATIENCE = 60.0
_PAUSE = 0.002


def binding() -> Any:
    """Return the module ``pkcs11``; ``Misconfigured("extra.missing")`` if it is not installed."""
    try:
        import pkcs11
    except ImportError as problem:
        raise Misconfigured(
            "extra.missing",
            "python-pkcs11 is not installed",
            hint="Run: pip install 'birthmark[pkcs11]'",
            extra="pkcs11",
        ) from problem
    return pkcs11


def named_error(problem: Exception, token: str) -> BirthmarkError:
    """Return the error of ours for one of the binding's; ``key.token.failed`` for what has no name."""
    family, code, message, hint = _NAMED.get(
        type(problem).__name__,
        (StationFault, "key.token.failed", "the token failed", "Check the token and its driver."),
    )
    return family(code, f"{message}: {token}", hint=hint, token=token, reason=type(problem).__name__)


class Pkcs11Module:
    """One library. ``generation`` grows with every start: handles and sessions of an older one are void.

    ``logins``: label of a token → what this process holds open there. ``refused_pins``: (serial of a token, SHA-256 of
    a PIN it refused): the same wrong PIN is not tried again, since tries are counted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = QuietLock()
        self.generation = 0
        self.logins: dict[str, Any] = {}
        self.refused_pins: set[tuple[bytes, bytes]] = set()
        self._library: Any = None
        self._stale = False
        self._depth = 0

    def library(self) -> Any:
        """Return the started library. Call it under ``lock`` and within ``exclusive``."""
        if self._stale:
            self.restart()
        if self._library is None or not self._library.initialized:
            pkcs11 = binding()
            if not self.path.is_file():
                raise Misconfigured(
                    "key.module.missing",
                    f"there is no PKCS#11 module at {self.path}",
                    hint="Install the driver of the token, or mend module-path in the URI.",
                    path=str(self.path),
                )
            try:
                self._library = pkcs11.lib(str(self.path))
            except pkcs11.PKCS11Error as problem:
                raise _unusable(self.path) from problem
            self.generation += 1
        return self._library

    def token(self, label: str) -> Any:
        """Return the token with this label, also one that was made after the library started. As ``library``."""
        before = self.generation
        library = self.library()
        try:
            return library.get_token(token_label=label)
        except binding().NoSuchToken:
            if self.generation != before:
                raise
        # A library sees only the tokens that were there when it was started.
        self.restart()
        return self.library().get_token(token_label=label)

    def restart(self) -> None:
        """Stop the library and start it again; every session and handle of this process is void after it."""
        self._stale = False
        if self._library is not None:
            with self.exclusive():
                self._stop()
                try:
                    self._library.initialize()
                except binding().PKCS11Error as problem:
                    raise _unusable(self.path) from problem
        self.generation += 1

    def stop(self) -> None:
        """Stop the library if nobody is logged in; the next use starts it again and sees new tokens."""
        with self.lock:
            if self._library is not None and not self.logins:
                self._stop()

    def forked(self) -> None:
        """In a new child: the parent's sessions are not ours, and a lock may be held by a thread that is not here."""
        self.lock = QuietLock()
        self._depth = 0
        self._stale = self._library is not None
        self.generation += 1

    def _stop(self) -> None:
        with suppress(binding().PKCS11Error):
            self._library.finalize()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock between all processes that use this library. Call it under ``lock``; it nests.

        The lock is on the library's own file, which every process finds whatever its user, workspace and environment.
        ``Unavailable("key.token.busy")`` after a minute.
        """
        self._depth += 1
        try:
            if self._depth > 1 or not self.path.is_file():
                yield
                return
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as problem:
                raise _unusable(self.path) from problem
            try:
                self._wait_for(descriptor)
                try:
                    yield
                finally:
                    # A child forked meanwhile shares the descriptor: closing ours alone would leave the lock held.
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)
        finally:
            self._depth -= 1

    def _wait_for(self, descriptor: int) -> None:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                if time.monotonic() > give_up:
                    raise Unavailable(
                        "key.token.busy",
                        f"another process keeps {self.path} to itself",
                        hint="Find the process that hangs while it logs in to a token, then try again.",
                        path=str(self.path),
                    ) from problem
                time.sleep(_PAUSE)
            except OSError as problem:  # a file system without locks
                raise _unusable(self.path) from problem
            else:
                return


def _unusable(path: Path) -> StationFault:
    return StationFault(
        "key.module.failed",
        f"the PKCS#11 module {path} does not start",
        hint="Check the driver of the token and its configuration.",
        path=str(path),
    )


_MODULES: dict[Path, Pkcs11Module] = {}


def pkcs11_module(path: Path) -> Pkcs11Module:
    """Return the one object that stands for this library in this process."""
    resolved = path.resolve()
    return _MODULES.setdefault(resolved, Pkcs11Module(resolved))


def _after_fork() -> None:
    for module in _MODULES.values():
        module.forked()


os.register_at_fork(after_in_child=_after_fork)
