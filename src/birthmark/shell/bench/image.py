"""``bench image``: images a second from one base, beside copying the base as often."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.durable import sync_directory
from birthmark.adapters.memory import peak_mb
from birthmark.adapters.targets.image import ImageTarget
from birthmark.adapters.targets.image.assembly import open_delta
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.workflow.line.fence import DeadlineFence

__all__ = ["bench_image"]

_BASE_OCTETS = 16 << 20
_REGION_OCTETS = 16 << 10
_OFFSET = 8 << 20
_COPIES = 48
_WHOLE = 16
_WARM = 2

Round = Callable[[int], None]


def bench_image(count: int, heads: int, *, parent: Path) -> dict[str, object]:
    """Write ``count`` deltas with ``heads`` threads, each for another device, durably; all else at the same number.

    The floor is the base copied inside the kernel (copy_file_range), synced and renamed as every file of ours is,
    measured before and after; the better one counts. ``copied_rate`` leaves the syncs out. ``whole_rate`` writes whole
    images. One image in each form is compared octet for octet.
    """
    place = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        return _measured(place, count, heads)
    finally:
        shutil.rmtree(place)


def _measured(place: Path, count: int, heads: int) -> dict[str, object]:
    base = place / "base.bin"
    firmware = bytearray(os.urandom(_BASE_OCTETS))
    firmware[_OFFSET : _OFFSET + _REGION_OCTETS] = b"\xff" * _REGION_OCTETS
    base.write_bytes(firmware)
    for name in ("out", "whole", "copies"):
        (place / name).mkdir()
    credentials = _credentials(count + _WARM)
    rates: dict[str, list[float]] = {"synced": [], "copied": []}
    times: list[float] = []

    def copies() -> None:
        for name, synced in (("synced", True), ("copied", False)):
            rates[name].append(_rate(heads, min(_COPIES, max(heads, count // 4)), partial(_copy, place, synced=synced)))

    def delta(number: int) -> None:
        began = time.perf_counter()
        _install(place, "out", "delta", credentials[number])
        times.append((time.perf_counter() - began) * 1000)

    for number in range(count, count + _WARM):
        delta(number)
    times.clear()
    copies()
    rate = _rate(heads, count, delta)
    whole = _rate(heads, min(count, _WHOLE), lambda number: _install(place, "whole", "full", credentials[number]))
    copies()
    _compare(place, credentials[0].device_serial)
    floor, copied = max(rates["synced"]), max(rates["copied"])
    ordered = sorted(times)
    written = sum((place / "out" / f"{one.device_serial}.img").stat().st_size for one in credentials[:count])
    return {
        "bench": "image",
        "heads": heads,
        "count": count,
        "base_octets": _BASE_OCTETS,
        "region_octets": _REGION_OCTETS,
        "octets_per_image": round(written / count),
        "rate": round(rate, 1),
        "floor": round(floor, 1),
        "ratio": round(rate / floor, 2),
        "copied_rate": round(copied, 1),
        "copied_ratio": round(rate / copied, 2),
        "whole_rate": round(whole, 1),
        "p50_ms": round(ordered[len(ordered) // 2], 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 2),
        "peak_mb": round(peak_mb()),
    }


def _rate(heads: int, count: int, work: Round) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(heads) as pool:
        for _ in pool.map(work, range(count)):
            pass
    return count / (time.perf_counter() - began)


def _install(place: Path, directory: str, write: str, credential: Credential) -> None:
    uri = f"image:{directory}/{credential.device_serial}.img?base=base.bin&format=bin&store=bases&write={write}"
    target = ImageTarget(f"{uri}&offset={_OFFSET}&size={_REGION_OCTETS}", secrets=lambda _: Secret(b""), base=place)
    target.install(credential, DeadlineFence("bench", seconds=600, monotonic=time.monotonic))


def _copy(place: Path, _: int, *, synced: bool) -> None:
    """Copy the base to a file of this thread, as a script would that renames what is complete."""
    path = place / "copies" / f"{threading.get_ident()}.img"
    temporary = path.with_suffix(".tmp")
    source = os.open(place / "base.bin", os.O_RDONLY)
    copy = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        left = _BASE_OCTETS
        while left:
            left -= os.copy_file_range(source, copy, left)
        if synced:
            os.fsync(copy)
    finally:
        os.close(source)
        os.close(copy)
    os.replace(temporary, path)
    if synced:
        sync_directory(path.parent)


def _compare(place: Path, device_serial: str) -> None:
    """Stop if the assembled delta is not the whole image, octet for octet."""
    open_delta(place / "out" / f"{device_serial}.img", base=None, store=place / "bases").to_file(place / "assembled")
    whole = (place / "whole" / f"{device_serial}.img").read_bytes()
    if (place / "assembled").read_bytes() != whole or len(whole) != _BASE_OCTETS:
        raise RuntimeError("the assembled image is not the whole image")


def _credentials(count: int) -> list[Credential]:
    """Return that many identities of a throw-away CA; making them is not measured."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench CA")])

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> bytes:
        until = now + timedelta(days=3650)
        builder = x509.CertificateBuilder().issuer_name(ca).subject_name(name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(until)
        return builder.sign(ca_key, SHA256()).public_bytes(Encoding.DER)

    chain, made = (certificate(ca, ca_key),), []
    for number in range(count):
        key = ec.generate_private_key(ec.SECP256R1())
        device_serial = f"bench-{number:08d}"
        leaf = certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_serial)]), key)
        pkcs8 = Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        made.append(Credential(device_serial, leaf, chain, pkcs8, 1, 2))
    return made
