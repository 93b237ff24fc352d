"""TLS as the service speaks it: a client certificate is asked for, and *any* is let in.

The service judges a certificate after the handshake and answers 401002 in the protocol; ``ssl`` of the standard
library can only cut the connection, so this is pyOpenSSL on memory buffers. The key behind the certificate is proven
by the handshake either way. Sessions are not resumed: each connection shows its certificate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from birthmark.testing.dps.certs import ServerIdentity

__all__ = ["TlsStream", "accepting", "server_context"]

_CHUNK = 16_384
_HANDSHAKE_S = 10.0
_MAX_CHAIN = 10


def server_context(identity: ServerIdentity) -> SSL.Context:
    """Return a context for TLS 1.2 and 1.3 that asks for a client certificate and judges none."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.key)
    context.add_extra_chain_cert(identity.root)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_verify_depth(_MAX_CHAIN)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
    return context


class TlsStream:
    """One connection. A broken or closed one is ``ConnectionError`` from every method."""

    def __init__(self, context: SSL.Context, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._tls = SSL.Connection(context, None)
        self._tls.set_accept_state()
        self.chain: tuple[bytes, ...] = ()

    @property
    def server_name(self) -> str | None:
        """The name that the client asked for (SNI), after the handshake."""
        name = self._tls.get_servername()
        return name.decode("latin-1") if name is not None else None

    @property
    def protocol(self) -> bytes:
        """What was agreed upon by ALPN, after the handshake; empty without it."""
        return self._tls.get_alpn_proto_negotiated()

    async def open(self) -> None:
        """Do the handshake within its time; ``chain`` then holds what the client sent, its own first (DER)."""
        async with asyncio.timeout(_HANDSHAKE_S):
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except SSL.WantReadError:
                    await self._flush()
                    await self._fill()
                except SSL.Error:
                    await self._flush()
                    raise ConnectionAbortedError("no TLS") from None
            await self._flush()
        own = self._tls.get_peer_certificate(as_cryptography=True)
        sent = self._tls.get_peer_cert_chain(as_cryptography=True) or []
        ordered = [own, *(one for one in sent if one != own)] if own is not None else []
        self.chain = tuple(one.public_bytes(Encoding.DER) for one in ordered[:_MAX_CHAIN])

    async def read(self) -> bytes:
        """Return some octets; empty at the end."""
        while True:
            try:
                return self._tls.recv(_CHUNK)
            except SSL.WantReadError:
                await self._flush()
                try:
                    await self._fill()
                except ConnectionError:
                    return b""
            except SSL.ZeroReturnError:
                return b""
            except SSL.Error:
                raise ConnectionAbortedError("broken TLS") from None

    async def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        try:
            for start in range(0, len(data), _CHUNK):
                self._tls.sendall(data[start : start + _CHUNK])
                await self._flush()
        except SSL.Error:
            raise ConnectionAbortedError("broken TLS") from None

    def close(self) -> None:
        """Say goodbye and close."""
        try:
            self._tls.shutdown()
            self._writer.write(self._tls.bio_read(_CHUNK))
        except SSL.Error:
            pass
        self._writer.close()

    def cut(self) -> None:
        """Drop the connection as a broken network would."""
        self._writer.transport.abort()

    async def _fill(self) -> None:
        data = await self._reader.read(_CHUNK)
        if not data:
            raise ConnectionResetError("the client left")
        self._tls.bio_write(data)

    async def _flush(self) -> None:
        while True:
            try:
                self._writer.write(self._tls.bio_read(_CHUNK))
            except SSL.WantReadError:
                break
        await self._writer.drain()


def accepting(
    context: SSL.Context, serve: Callable[[TlsStream], Awaitable[None]], under_way: set[asyncio.Task[None]], most: int
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    """Return what ``asyncio.start_server`` calls for each connection: the handshake, then ``serve``.

    ``under_way`` holds the tasks; with ``most`` of them another connection is cut.
    """

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = TlsStream(context, reader, writer)
        try:
            await stream.open()
            await serve(stream)
        except (OSError, TimeoutError, ValueError):  # ValueError: a certificate or text nobody can read
            pass
        finally:
            stream.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(under_way) >= most:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(run(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    return accept
