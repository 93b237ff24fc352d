"""A token's module and Python's TLS in one thread: what SoftHSM2 leaves in OpenSSL's error queue breaks nothing."""

from __future__ import annotations

import ctypes
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pkcs11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.adapters import opensslqueue
from birthmark.adapters.durable import write_durably
from birthmark.adapters.opensslqueue import QuietLock
from birthmark.adapters.pkcs11_module import pkcs11_module
from birthmark.adapters.pkcs11_token import Pkcs11Token
from birthmark.errors import BirthmarkError
from birthmark.model.secret import Secret
from support.softhsm import MODULE, PIN, SoftHsm, fresh_hsm


class Connection:
    """A TLS connection between two ends in this thread, over octets in memory."""

    def __init__(self, directory: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name, now = x509.Name([]), datetime.now(UTC)
        made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("here")]), critical=True)
        pem = made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        both = directory / "server.pem"
        write_durably(both, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem, mode=0o600)
        serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serves.load_cert_chain(both)
        asks = ssl.create_default_context(cafile=str(both))
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = asks.wrap_bio(back, there, server_hostname="here")
        self.server = serves.wrap_bio(there, back, server_side=True)
        for end in (self.client, self.server, self.client, self.server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        with pytest.raises(ssl.SSLWantReadError):
            self.client.read()

    def works(self) -> None:
        """Read when nothing is there yet, then what comes."""
        with pytest.raises(ssl.SSLWantReadError):
            self.client.read()
        self.server.write(b"word")
        assert self.client.read() == b"word"


@pytest.fixture
def hsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    with fresh_hsm(tmp_path / "hsm", monkeypatch) as made:
        yield made


def _opened() -> None:
    Pkcs11Token(MODULE, "ca", Secret(PIN.encode())).close()


def _refused() -> None:
    with pytest.raises(BirthmarkError):
        Pkcs11Token(MODULE, "ca", Secret(b"another")).close()


def _signed() -> None:
    token = Pkcs11Token(MODULE, "ca", Secret(PIN.encode()))
    key = token.generate("key", None, "p256")
    module = pkcs11_module(MODULE)
    with module.lock:
        module.restart()  # the next signature finds its key again
    key.sign(b"x", ec.ECDSA(hashes.SHA256()))
    token.close()


def test_softhsm_leaves_errors_that_break_the_connections_of_the_thread(hsm: SoftHsm, tmp_path: Path) -> None:
    del hsm
    connection = Connection(tmp_path)
    library = pkcs11.lib(str(MODULE))
    library.initialize()
    try:
        with pytest.raises(ssl.SSLError, match="no such engine"):
            connection.client.read()
    finally:
        library.finalize()


@pytest.mark.parametrize("act", [_opened, _refused, _signed])
def test_tls_goes_on_in_the_thread_that_used_a_token(hsm: SoftHsm, tmp_path: Path, act: Callable[[], None]) -> None:
    del hsm
    connection = Connection(tmp_path)
    act()
    connection.works()


def test_errors_that_lay_there_before_stay_and_what_came_on_top_goes() -> None:
    import _ssl

    openssl = ctypes.PyDLL(_ssl.__file__)
    openssl.ERR_get_error.restype = ctypes.c_ulong

    def leave(reason: int) -> None:
        openssl.ERR_new()
        openssl.ERR_set_error(20, reason, None)

    openssl.ERR_clear_error()
    lock = QuietLock()

    def fails() -> None:
        with lock:
            leave(103)
            raise RuntimeError

    leave(101)
    with lock:
        leave(102)
        with pytest.raises(RuntimeError):
            fails()
    left = [openssl.ERR_get_error() & 0x7FFFFF, openssl.ERR_get_error()]
    assert left == [101, 0]


def test_python_that_keeps_its_openssl_to_itself_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_there(path: object) -> object:
        raise OSError(path)

    monkeypatch.setattr(ctypes, "PyDLL", nothing_there)
    marks = opensslqueue._marks()
    assert [mark() for mark in marks] == [0, 0]
