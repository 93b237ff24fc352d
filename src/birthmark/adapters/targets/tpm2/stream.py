"""The octets to and from a TPM, over a character device or a socket, none of which waits for ever.

A response (TPM 2.0 part 1, section 18) starts with a tag of two octets and its length in four, big-endian. swtpm takes
the same octets on its data port that the kernel takes on ``/dev/tpmrm0``.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, StationFault, Unavailable

__all__ = ["LARGEST", "Address", "TpmStream", "parse_address"]

LARGEST = 4096
"""Octets of the longest command or response that is taken."""

_HEADER = 10
_DEVICE = re.compile(r"device:(/[!-~]+)")
_PORT = re.compile(r"swtpm:host=([0-9A-Za-z.:-]{1,253}),port=([0-9]{1,5})")
_PATH = re.compile(r"swtpm:path=(/[!-~]+)")
_MANAGED = re.compile(r"/dev/tpmrm[0-9]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TPM is. ``port`` is None for a path. ``managed``: the kernel keeps the contexts of its users apart."""

    text: str
    place: str
    port: int | None
    is_device: bool

    @property
    def managed(self) -> bool:
        return self.is_device and _MANAGED.fullmatch(self.place) is not None


def parse_address(text: str) -> Address:
    """Read ``device:PATH``, ``swtpm:host=H,port=P`` or ``swtpm:path=P``; ``Misconfigured("target.tpm.tcti")``."""
    if found := _DEVICE.fullmatch(text):
        return Address(text, found[1], None, is_device=True)
    if found := _PATH.fullmatch(text):
        return Address(text, found[1], None, is_device=False)
    if (found := _PORT.fullmatch(text)) and 0 < int(found[2]) < 1 << 16:
        return Address(text, found[1], int(found[2]), is_device=False)
    raise Misconfigured(
        "target.tpm.tcti",
        f"the TPM {text[:120]!a} cannot be reached that way",
        hint="Use tcti=device:/dev/tpmrm0, tcti=swtpm:host=H,port=P or tcti=swtpm:path=/run/tpm.sock.",
        tcti=ascii(text[:120]),
    )


class _Channel(Protocol):
    def send(self, data: bytes, wait: float) -> int: ...

    def receive(self, octets: int, wait: float) -> bytes: ...

    def close(self) -> None: ...


class TpmStream:
    """One command, one response. ``remaining``: seconds that are left for all of it.

    After the first failure, which ``failure`` keeps, nothing more is sent: what the TPM does then is not known.
    Raises ``Unavailable``: ``target.tpm.unreachable``, ``target.tpm.silent``; ``DeviceFault("target.tpm.malformed")``
    for a response that is none.
    """

    def __init__(self, address: Address, remaining: Callable[[], float]) -> None:
        self.failure: BirthmarkError | None = None
        self._address = address
        self._remaining = remaining
        try:
            self._channel: _Channel = (
                _DeviceChannel(address.place) if address.is_device else _SocketChannel(address, remaining())
            )
        except PermissionError:
            raise StationFault(
                "target.tpm.forbidden",
                f"the station may not open the TPM {address.text}",
                hint="Let the user of the station join the group that owns the device (tss on Debian).",
                tcti=address.text,
            ) from None
        except OSError as problem:
            raise self._failed(problem) from problem

    def send(self, command: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        try:
            while command:
                command = command[self._channel.send(command, self._wait()) :]
        except BirthmarkError as problem:
            self.failure = problem
            raise
        except OSError as problem:
            raise self._failed(problem) from problem

    def receive(self) -> bytes:
        if self.failure is not None:
            raise self.failure
        data = b""
        try:
            while (wanted := _missing(data)) > 0:
                more = self._channel.receive(wanted, self._wait())
                if not more:
                    raise ConnectionResetError("the TPM closed the connection")
                data += more
            if wanted < 0:
                raise DeviceFault(
                    "target.tpm.malformed",
                    f"what came from the TPM {self._address.text} is no response of a TPM",
                    hint="Check that a TPM 2.0 answers there; take the device off the line if it is one.",
                    tcti=self._address.text,
                )
        except BirthmarkError as problem:
            self.failure = problem
            raise
        except OSError as problem:
            raise self._failed(problem) from problem
        return data

    def close(self) -> None:
        self._channel.close()

    def _wait(self) -> float:
        left = self._remaining()
        if left <= 0:
            raise TimeoutError
        return left

    def _failed(self, problem: OSError) -> BirthmarkError:
        if isinstance(problem, TimeoutError):
            self.failure = Unavailable(
                "target.tpm.silent",
                f"the TPM {self._address.text} did not answer in time",
                hint="Power the device off and on, then run the same command again: it goes on where it stopped.",
                tcti=self._address.text,
            )
        else:
            self.failure = self._unreachable(problem)
        return self.failure

    def _unreachable(self, problem: OSError) -> Unavailable:
        return Unavailable(
            "target.tpm.unreachable",
            f"there is no connection to the TPM {self._address.text}",
            hint="Check that the device is on and that its TPM is forwarded there; then run the same command again.",
            tcti=self._address.text,
            reason=os.strerror(problem.errno) if problem.errno else type(problem).__name__,
        )


def _missing(data: bytes) -> int:
    """Return how many octets the response still lacks; a negative number if it is not one."""
    if len(data) < _HEADER:
        return _HEADER - len(data)
    size = int.from_bytes(data[2:6], "big")
    return size - len(data) if _HEADER <= size <= LARGEST else -1


class _SocketChannel:
    def __init__(self, address: Address, wait: float) -> None:
        wait = max(wait, 0.001)
        if address.port is not None:
            self._socket = socket.create_connection((address.place, address.port), timeout=wait)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(wait)
        try:
            self._socket.connect(address.place)
        except OSError:
            self._socket.close()
            raise

    def send(self, data: bytes, wait: float) -> int:
        self._socket.settimeout(wait)
        return self._socket.send(data)

    def receive(self, octets: int, wait: float) -> bytes:
        self._socket.settimeout(wait)
        return self._socket.recv(octets)

    def close(self) -> None:
        self._socket.close()


class _DeviceChannel:
    """A character device. The kernel hands a response over in reads of any size since Linux 5.2."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)

    def send(self, data: bytes, wait: float) -> int:
        # The kernel takes a command in one write or not at all.
        self._ready(select.POLLOUT, wait)
        return os.write(self._descriptor, data)

    def receive(self, octets: int, wait: float) -> bytes:
        end = time.monotonic() + wait
        while True:
            self._ready(select.POLLIN, max(0.0, end - time.monotonic()))
            try:
                return os.read(self._descriptor, octets)
            except BlockingIOError:
                continue

    def close(self) -> None:
        os.close(self._descriptor)

    def _ready(self, event: int, wait: float) -> None:
        poll = select.poll()
        poll.register(self._descriptor, event)
        if not poll.poll(wait * 1000):
            raise TimeoutError
