"""A read-write session to the token of a device: opened for one call, closed after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from birthmark.adapters.pkcs11_key import TokenKey, token_key
from birthmark.adapters.pkcs11_module import binding, named_error, pkcs11_module
from birthmark.adapters.pkcs11_objects import generate_pair, public_key_beside
from birthmark.adapters.pkcs11_token import Pkcs11Token
from birthmark.adapters.pkcs11_uri import Pkcs11Uri
from birthmark.model.secret import Secret

__all__ = ["TokenLink", "open_token"]


_TPM2 = "TPM2.0 Cryptoki"
"""What libtpm2-pkcs11 calls itself. Version 1.9 says of the public half of a key that only signs that it encrypts and
does not verify, and makes no key for who says otherwise."""


@contextmanager
def open_token(uri: Pkcs11Uri, pin: Secret) -> Iterator[TokenLink]:
    """Log in and give the session. One thread of a process works with the library at a time.

    Raises what ``Pkcs11Token`` raises: ``key.module.*``, ``key.token.*``, ``key.pin.*``, ``extra.missing``.
    """
    module = pkcs11_module(uri.module)
    with module.lock:
        token = Pkcs11Token(uri.module, uri.token, pin)
        try:
            with module.exclusive():
                library = module.library()
                session = library.get_token(token_label=uri.token).open(rw=True)
            with session:
                yield TokenLink(session, uri.token, says_usage=library.library_description.strip() != _TPM2)
        except binding().PKCS11Error as problem:
            raise named_error(problem, uri.token) from problem
        finally:
            token.close()


class TokenLink:
    """A session and what is done with keys in it."""

    def __init__(self, session: Any, token: str, *, says_usage: bool = True) -> None:
        self.session = session
        self.token = token
        self._says_usage = says_usage

    def generate(self, algorithm: str, *, label: str, key_id: bytes) -> Any:
        """Make a key pair in the token; return its private key object. Nothing is said yet of its attributes."""
        made = generate_pair(self.session, label, key_id, algorithm, extractable=False, says_usage=self._says_usage)
        return made[1]

    def signer(self, key: Any) -> TokenKey:
        """Return a private key of ``cryptography`` that signs with a private key object of this session."""
        mechanisms = binding().Mechanism

        def sign(data: bytes, mechanism: str) -> bytes:
            return bytes(key.sign(data, mechanism=mechanisms[mechanism]))

        return token_key(public_key_beside(self.session, key, self.token), sign, self.token)
