"""A PKCS#11 token: one login of this process, shared by all who use it and kept open; lost sessions come back.

Lost means: unplugged, sessions closed underneath, library stopped, process forked. A signature or a reading is then
done once more after a new start and login; a writing is not, since nobody knows how far it came.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from birthmark.adapters.pkcs11_key import Signer, TokenKey, token_key
from birthmark.adapters.pkcs11_module import LOST, Pkcs11Module, binding, named_error, pkcs11_module
from birthmark.adapters.pkcs11_objects import (
    KeyAttributes,
    ObjectKind,
    TokenObject,
    certificate_template,
    find_objects,
    generate_pair,
    key_attributes,
    one_private_key,
    public_key_beside,
    token_object,
)
from birthmark.errors import Misconfigured, Refused, StationFault, Tampered
from birthmark.model.secret import Secret

__all__ = ["KeyAttributes", "Pkcs11Token", "TokenObject"]

Result = TypeVar("Result")

_ID_OCTETS = 8
_KINDS: tuple[ObjectKind, ...] = ("private", "public", "certificate")
_WRONG_PIN = frozenset({"PinIncorrect", "PinInvalid", "PinLenRange"})


class _Login:
    """The session of this process at one token. All methods want the lock of the module."""

    def __init__(self, module: Pkcs11Module, label: str, pin: Secret) -> None:
        self.users = 0
        self._module = module
        self._label = label
        self._pin = pin
        self._session: Any = None
        self._generation = -1

    def session(self) -> Any:
        """Return the logged-in session, a new one if the library was started anew."""
        if self._generation != self._module.generation:
            with self._module.exclusive():
                self._session = self._log_in()
                self._generation = self._module.generation
        return self._session

    def knows(self, pin: Secret) -> bool:
        return hmac.compare_digest(self._pin.reveal(), pin.reveal())

    def end(self) -> None:
        if self._session is not None and self._generation == self._module.generation:
            with suppress(binding().PKCS11Error):
                self._session.close()
        self._session, self._generation = None, -1

    def _log_in(self) -> Any:
        token = self._module.token(self._label)
        tried = (bytes(token.serial), hashlib.sha256(self._pin.reveal()).digest())
        if tried in self._module.refused_pins or not _is_text(self._pin):
            raise named_error(binding().PinIncorrect(), self._label)
        try:
            return token.open(user_pin=self._pin.reveal().decode())
        except binding().PKCS11Error as problem:
            if type(problem).__name__ in _WRONG_PIN:
                self._module.refused_pins.add(tried)
            raise


class Pkcs11Token:
    """One token, open and logged in. Any number of these may name the same token; each is closed by itself.

    ``label``: CKA_LABEL of the token. Errors of opening: ``key.module.missing``, ``key.token.missing``,
    ``key.pin.wrong``, ``key.pin.locked``, ``key.token.busy``, ``extra.missing``. A PIN that was refused is not tried
    again in this process.
    """

    def __init__(self, module: Path, label: str, pin: Secret) -> None:
        self.label = label
        self._module = pkcs11_module(module)
        self._open = False
        with self._module.lock:
            self._login = self._module.logins.get(label) or _Login(self._module, label, pin)
            if not self._login.knows(pin):
                raise named_error(binding().PinIncorrect(), label)
            self._module.logins[label] = self._login
            self._login.users += 1
            self._open = True
            try:
                self._run(lambda session: None)
            except BaseException:
                self.close()
                raise

    def private_key(self, label: str | None, key_id: bytes | None = None) -> TokenKey:
        """Return a key as ``cryptography`` knows them: ``key.object.missing``, ``key.object.ambiguous``."""

        def find(session: Any) -> tuple[int, Any, Any, TokenObject]:
            with self._module.exclusive():
                private = one_private_key(session, label, key_id, self.label)
                public = public_key_beside(session, private, self.label)
                return self._module.generation, private, public, token_object(private, "private")

        generation, private, public, listed = self._run(find)
        signer = self._signer(generation, private, public, listed)
        return token_key(public, signer, f"{self.label}/{listed.label}")

    def generate(self, label: str, key_id: bytes | None, algorithm: str, *, extractable: bool = False) -> TokenKey:
        """Make a key in the token: stored, private, sensitive, not extractable unless asked; then check that it is.

        ``key_id`` None: eight random octets. ``Refused("key.exists")`` if a key, private or public, has that label.
        """
        key_id = os.urandom(_ID_OCTETS) if key_id is None else key_id

        def make(session: Any) -> None:
            pair = generate_pair(session, label, key_id, algorithm, extractable=extractable)
            found = key_attributes(pair[1])
            good = found.private and found.sensitive and (extractable or found.born_inside)
            if good and found.extractable == extractable:
                return
            for one in pair:
                one.destroy()
            raise StationFault(
                "key.attributes",
                f"the token {self.label} made a key that does not stay inside; it was destroyed",
                hint="Check the policy of the token.",
                token=self.label,
                object=label,
            )

        with self._module.lock, self._module.exclusive():
            if self._list(("private", "public"), label, None):
                raise Refused(
                    "key.exists",
                    f"the token {self.label} already holds a key {label!r}",
                    hint="A key is never overwritten: choose another label, or destroy that key on purpose.",
                    token=self.label,
                    object=label,
                )
            self._write(make)
            return self.private_key(label, key_id)

    def attributes(self, label: str | None, key_id: bytes | None = None) -> KeyAttributes:
        """Return what the token says about a private key."""
        return self._run(lambda session: key_attributes(one_private_key(session, label, key_id, self.label)))

    def find(
        self, label: str | None = None, key_id: bytes | None = None, *, kinds: Iterable[ObjectKind] = _KINDS
    ) -> list[TokenObject]:
        """List the objects that have this label and id; None stands for any."""
        with self._module.lock, self._module.exclusive():
            return self._list(kinds, label, key_id)

    def destroy(self, label: str, key_id: bytes | None = None, *, kinds: Iterable[ObjectKind] = _KINDS) -> int:
        """Remove the objects of one label (and id) for good and return how many there were."""
        wanted = tuple(kinds)

        def remove(session: Any) -> int:
            found = [one for kind in wanted for one in find_objects(session, kind, label, key_id)]
            for one in found:
                one.destroy()
            return len(found)

        with self._module.lock, self._module.exclusive():
            return self._write(remove) if self._list(wanted, label, key_id) else 0

    def store_certificate(self, label: str, key_id: bytes, der: bytes, *, replace: bool = False) -> None:
        """Store a certificate. It may be there already; another one of that label and id is
        ``Refused("key.certificate.exists")`` unless ``replace``, which stores the new one before it removes the old.
        """
        template = certificate_template(label, key_id, der)
        value = binding().Attribute.VALUE

        def put(session: Any) -> None:
            found = find_objects(session, "certificate", label, key_id)
            others = [one for one in found if one[value] != der]
            if others and not replace:
                raise Refused(
                    "key.certificate.exists",
                    f"the token {self.label} already holds another certificate {label!r}",
                    hint="Replace it on purpose, or choose another label.",
                    token=self.label,
                    object=label,
                )
            if len(others) == len(found):
                session.create_object(template)
            for one in others:
                one.destroy()

        with self._module.lock, self._module.exclusive():
            self._write(put)

    def read_certificate(self, label: str, key_id: bytes | None = None) -> bytes | None:
        """Return the DER of a certificate, None if there is none; two are ``key.object.ambiguous``."""
        value = binding().Attribute.VALUE

        def read(session: Any) -> list[bytes]:
            with self._module.exclusive():
                return [bytes(one[value]) for one in find_objects(session, "certificate", label, key_id)]

        found = self._run(read)
        if len(found) > 1:
            raise Misconfigured(
                "key.object.ambiguous",
                f"the token {self.label} holds {len(found)} certificates {label!r}",
                hint="Name the one that is meant by its id, or remove the others.",
                token=self.label,
                object=label,
            )
        return found[0] if found else None

    def close(self) -> None:
        """Give the token up; the last user logs out. Closing twice is safe."""
        with self._module.lock:
            if not self._open:
                return
            self._open = False
            self._login.users -= 1
            if self._login.users == 0:
                self._login.end()
                del self._module.logins[self.label]
                self._module.stop()

    def _signer(self, generation: int, private: Any, public: Any, listed: TokenObject) -> Signer:
        """Return the function that signs with one key, and finds it again after a new start."""
        pkcs11 = binding()
        handle = private

        def signer(data: bytes, mechanism: str) -> bytes:
            def work(session: Any) -> bytes:
                nonlocal handle, generation
                if generation != self._module.generation:
                    handle, generation = self._find_again(session, public, listed), self._module.generation
                return bytes(handle.sign(data, mechanism=pkcs11.Mechanism[mechanism]))

            return self._run(work, look=False)

        return signer

    def _find_again(self, session: Any, public: Any, listed: TokenObject) -> Any:
        with self._module.exclusive():
            private = one_private_key(session, listed.label, listed.key_id, self.label)
            if public_key_beside(session, private, self.label) == public:
                return private
        raise Tampered(
            "key.object.changed",
            f"another key stands at {listed.label!r} in the token {self.label} since it was lost",
            hint="Stop, and find out who changed the token.",
            token=self.label,
            object=listed.label,
        )

    def _list(self, kinds: Iterable[ObjectKind], label: str | None, key_id: bytes | None) -> list[TokenObject]:
        wanted = tuple(kinds)
        return self._run(
            lambda session: [
                token_object(one, kind) for kind in wanted for one in find_objects(session, kind, label, key_id)
            ]
        )

    def _run(self, work: Callable[[Any], Result], *, look: bool = True) -> Result:
        """Do what may be done twice; once more if the session was lost.

        ``look``: see first that the session is alive. The binding complains to stderr when a search breaks off.
        """
        with self._module.lock:
            try:
                session = self._session()
                if look:
                    _see_alive(session)
                return work(session)
            except binding().PKCS11Error as problem:
                if type(problem).__name__ not in LOST:
                    raise named_error(problem, self.label) from problem
            with self._naming_errors():
                self._module.restart()
                return work(self._session())

    def _write(self, work: Callable[[Any], Result]) -> Result:
        """Do what must not be done twice, in a read-write session of its own."""
        self._run(lambda session: None)
        with self._naming_errors():
            session = self._session().token.open(rw=True)
            try:
                return work(session)
            finally:
                with suppress(binding().PKCS11Error):
                    session.close()

    def _session(self) -> Any:
        if not self._open:
            raise RuntimeError(f"the token {self.label} was closed")
        return self._login.session()

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except binding().PKCS11Error as problem:
            if type(problem).__name__ not in LOST:
                raise named_error(problem, self.label) from problem
            raise StationFault(
                "key.session.lost",
                f"the session with the token {self.label} was lost and did not come back",
                hint="Check that the token is plugged in and its driver works, then run the same command again.",
                token=self.label,
                reason=type(problem).__name__,
            ) from problem


def _see_alive(session: Any) -> None:
    """Let the token do the least it can; an error of the binding if the session is lost."""
    pkcs11 = binding()
    with suppress(pkcs11.RandomNoRNG, pkcs11.FunctionNotSupported):
        session.generate_random(8)


def _is_text(pin: Secret) -> bool:
    """Say whether a PIN is UTF-8, as PKCS#11 wants it. The error of ``decode`` would carry the PIN."""
    try:
        pin.reveal().decode()
    except UnicodeDecodeError:
        return False
    return True
