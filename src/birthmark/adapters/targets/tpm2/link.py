"""A conversation with one TPM: opened for one call, bounded in time, and without a context left behind.

The commands are those of TPM 2.0 part 3, put into octets by the TSS (``tpm2-pytss``); the octets go over a stream of
ours, since the TSS waits for ever for an answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from birthmark.adapters.extras import require_extra
from birthmark.adapters.targets.tpm2.stream import LARGEST, Address, TpmStream
from birthmark.errors import BirthmarkError, DeviceFault, Unavailable

__all__ = ["TpmLink", "binding", "named_failure", "open_tpm"]

_HANDLES = {"nv": 0x01000000, "persistent": 0x81000000, "transient": 0x80000000, "session": 0x02000000}
"""Kind of handle → its first value (TPM 2.0 part 2, section 7.2)."""

_MOST_HANDLES = 254
_LAST_HANDLE = 0xFFFFFFFF
_BUFFER_FLOOR = 512
_SMALLEST = 64
_FLUSH_CONTEXT = bytes.fromhex("80010000000e00000165")  # part 3, section 28.4: the handle follows

_NAMED: dict[str, tuple[type[BirthmarkError], str, str, str]] = {
    "NV_SPACE": (
        DeviceFault,
        "target.tpm.full",
        "the TPM has no room left",
        "Remove NV indexes that nobody needs, or install chain=issuing.",
    ),
    "AUTH_FAIL": (
        DeviceFault,
        "target.tpm.owned",
        "the TPM asks for a password of its owner or of its endorsement hierarchy",
        "Clear the TPM from the firmware of the board; it is provisioned before anybody owns it.",
    ),
    "LOCKOUT": (
        DeviceFault,
        "target.tpm.lockout",
        "the TPM is in lockout after wrong passwords",
        "Clear the TPM from the firmware of the board.",
    ),
    "INITIALIZE": (
        Unavailable,
        "target.tpm.not_started",
        "nobody started the TPM after power-up",
        "Let the firmware of the device start it (TPM2_Startup), then run the same command again.",
    ),
    "RETRY": (
        Unavailable,
        "target.tpm.busy",
        "the TPM takes no command now",
        "Run the same command again: it goes on where it stopped.",
    ),
}
for _busy in ("NV_RATE", "NV_UNAVAILABLE", "TESTING", "YIELDED"):
    _NAMED[_busy] = _NAMED["RETRY"]
_NAMED["NV_SIZE"] = _NAMED["NV_SPACE"]
_NAMED["BAD_AUTH"] = _NAMED["AUTH_FAIL"]
_NAMED["AUTH_UNAVAILABLE"] = _NAMED["AUTH_FAIL"]


def binding() -> Any:
    """Return the module ``tpm2_pytss``; ``Misconfigured("extra.missing")`` if it is not installed."""
    require_extra("tpm", "tpm2_pytss")
    # The TSS writes every refusal of a TPM to standard error; ours are named.
    os.environ.setdefault("TSS2_LOG", "all+none")
    import tpm2_pytss

    return tpm2_pytss


@contextmanager
def open_tpm(address: Address, remaining: Callable[[], float]) -> Iterator[TpmLink]:
    """Give a link to the TPM. ``remaining``: seconds that are left for everything done over it.

    Raises what ``TpmStream`` raises, and for what the TPM refuses ``DeviceFault("target.tpm.*")``, or ``Unavailable``:
    ``target.tpm.not_started``, ``target.tpm.busy``.
    """
    pytss = binding()
    stream = TpmStream(address, remaining)
    try:
        with pytss.ESAPI(_tcti()(stream)) as esys:
            link = TpmLink(esys, stream)
            if not address.managed:
                link.flush_all()
            try:
                yield link
            finally:
                with suppress(BirthmarkError, pytss.TSS2_Exception):
                    link.flush_mine()
    except pytss.TSS2_Exception as problem:
        raise stream.failure or named_failure(problem) from problem
    finally:
        stream.close()


class TpmLink:
    """What the commands of the target have in common. ``esys``: the ESAPI of ``tpm2-pytss``."""

    def __init__(self, esys: Any, stream: TpmStream) -> None:
        self.esys = esys
        self._stream = stream
        self._mine: list[Any] = []
        self._buffer: int | None = None
        self._index: int | None = None

    def handles(self, kind: str) -> list[int]:
        """Return the handles of a kind that are in use."""
        caps = binding().TPM2_CAP
        found: list[int] = []
        more, start = True, _HANDLES[kind]
        while more and len(found) <= 8 * _MOST_HANDLES:
            more, data = self.esys.get_capability(caps.HANDLES, start, _MOST_HANDLES)
            some = [int(handle) for handle in data.data.handles]
            if not some or not start <= some[-1] < _LAST_HANDLE:
                break
            found += some
            start = some[-1] + 1
        return found

    def keep(self, handle: Any) -> Any:
        """Remember a transient object, so that it is flushed when the link is closed."""
        self._mine.append(handle)
        return handle

    def flush(self, handle: Any) -> None:
        """Flush a transient object now: a TPM without a resource manager has room for three."""
        self._mine.remove(handle)
        self.esys.flush_context(handle)

    def flush_mine(self) -> None:
        """Flush every transient object of this link."""
        while self._mine:
            self.esys.flush_context(self._mine.pop())

    def flush_all(self) -> None:
        """Flush what somebody before us left in the TPM, a station that was killed for one."""
        for kind in ("transient", "session"):
            for handle in self.handles(kind):
                self._stream.send(_FLUSH_CONTEXT + handle.to_bytes(4, "big"))
                self._stream.receive()

    def buffer_size(self) -> int:
        """Return how many octets of NV one command moves; the response has to fit into what the stream takes."""
        if self._buffer is None:
            self._buffer = min(max(self._property("BUFFER_MAX", _BUFFER_FLOOR), _SMALLEST), LARGEST // 2)
        return self._buffer

    def largest_index(self) -> int:
        """Return how many octets one NV index holds at most."""
        if self._index is None:
            self._index = self._property("INDEX_MAX", _BUFFER_FLOOR)
        return self._index

    def _property(self, name: str, default: int) -> int:
        pytss = binding()
        wanted = int(getattr(pytss.TPM2_PT_NV, name))
        _, data = self.esys.get_capability(pytss.TPM2_CAP.TPM_PROPERTIES, wanted, 1)
        said = [int(one.value) for one in data.data.tpmProperties if int(one.property) == wanted]
        return said[0] if said else default


def named_failure(problem: Any) -> BirthmarkError:
    """Return the error of ours for a return code of the TPM or of the TSS."""
    codes = binding().TPM2_RC
    for name, (family, code, message, hint) in _NAMED.items():
        if problem.error == getattr(codes, name):
            return family(code, f"{message} (0x{problem.rc:x})", hint=hint, rc=f"0x{problem.rc:x}")
    return DeviceFault(
        "target.tpm.failed",
        f"the TPM refused a command (0x{problem.rc:x})",
        hint="Look the return code up with tpm2_rc_decode; take the device off the line if it comes again.",
        rc=f"0x{problem.rc:x}",
    )


@cache
def _tcti() -> Any:
    """Return the class that lets the TSS speak over a stream of ours."""
    pytss = binding()

    class StreamTcti(pytss.PyTCTI):  # type: ignore[misc,name-defined]
        def __init__(self, stream: TpmStream) -> None:
            super().__init__(max_size=LARGEST)
            self._stream = stream

        def do_transmit(self, command: bytes) -> None:
            self._stream.send(command)

        def do_receive(self, timeout: int) -> bytes:
            del timeout  # the stream knows how long it may take
            return self._stream.receive()

    return StreamTcti
