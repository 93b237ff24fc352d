"""Floors: what OpenSSL alone does, in as many processes as the product runs."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

__all__ = ["keygen_and_sign", "naive_builder", "run_floor"]

Loop = Callable[[int], Callable[[], None]]
"""Prepares a loop of that many rounds and returns it."""


def run_floor(loop: Loop, count: int, processes: int) -> float:
    """Return rounds per second of ``loop`` over ``processes`` processes; start-up is not counted."""
    context = multiprocessing.get_context("spawn")
    share = max(1, count // processes)
    pipes, workers = [], []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_serve, args=(theirs, loop, share), daemon=True)
        worker.start()
        theirs.close()
        pipes.append(ours)
        workers.append(worker)
    for pipe in pipes:
        pipe.recv()
    started = time.perf_counter()
    for pipe in pipes:
        pipe.send(None)
    for pipe in pipes:
        pipe.recv()
    elapsed = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return share * processes / elapsed


def _serve(pipe: Connection, loop: Loop, count: int) -> None:
    ready = loop(count)
    pipe.send(None)
    pipe.recv()
    ready()
    pipe.send(None)


def keygen_and_sign(count: int) -> Callable[[], None]:
    """Make one P-256 key and one P-256 signature over a TBS-sized message, ``count`` times."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    curve, scheme, message = ec.SECP256R1(), ec.ECDSA(SHA256()), os.urandom(350)
    generate, sign = ec.generate_private_key, ec.generate_private_key(curve).sign

    def loop() -> None:
        for _ in range(count):
            generate(curve)
            sign(message, scheme)

    return loop


def naive_builder(count: int) -> Callable[[], None]:
    """Make a key and a client certificate with ``CertificateBuilder``, ``count`` times; nothing is stored."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    curve, ca = ec.SECP256R1(), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuing CA")])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    until = now + datetime.timedelta(days=3650)

    def loop() -> None:
        for number in range(count):
            key = ec.generate_private_key(curve)
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"dev-{number:010}")])
            builder = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number(), now, until)
            certificate = (
                builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
                .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)
                .sign(ca, SHA256())
            )
            certificate.public_bytes(Encoding.DER)
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    return loop
