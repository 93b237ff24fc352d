"""One run of a vendor's program: a process of its own, lines of JSON through its pipes, an end at the deadline."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from birthmark import __version__
from birthmark.adapters.targets.exec.messages import (
    EXEC_VERSIONS,
    Act,
    Asked,
    Failed,
    Hello,
    Known,
    Leave,
    Welcome,
)
from birthmark.adapters.targets.identity import mismatch
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Unavailable
from birthmark.ports import Fence

__all__ = ["Conversation"]

_LINE_OCTETS = 1 << 20
_LINES = 10_000
_LOG_OCTETS = 1 << 20
_END_S = 2.0
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What the program gets of the environment: nobody's secrets."""
_KNOWN_TAGS = frozenset(str(kind.__struct_config__.tag) for kind in Known.__args__)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Known)


class _Tagged(msgspec.Struct, frozen=True):
    type: str


_tag_decoder = msgspec.json.Decoder(_Tagged)


class Conversation:
    """A started program. Leaving the context ends it and everything that it started."""

    def __init__(self, command: Sequence[str], *, cwd: Path, log: Path | None, secret: bytes | None) -> None:
        self._name = Path(command[0]).name
        self._secret = secret
        self._buffer = b""
        self._lines = 0
        with _open_log(log) as errors:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    cwd=cwd,
                    env={name: os.environ[name] for name in _KEPT if name in os.environ},
                    start_new_session=True,
                )
            except OSError as problem:
                raise Misconfigured(
                    "target.exec.program",
                    f"{command[0]} cannot be started: {problem.strerror}",
                    hint="Name an executable program by its path: exec:/opt/acme/flash?args=….",
                    program=command[0],
                ) from None
        self._output = self._pipe(self._process.stdout)
        self._input = self._pipe(self._process.stdin)
        os.set_blocking(self._output.fileno(), False)
        os.set_blocking(self._input.fileno(), False)

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(kill=kind is not None)

    def ask(self, asked: Asked, expected: type[Any], fence: Fence | None, *, seconds: float) -> Any:
        """Return the answer of the type ``expected``; whatever the program wants to change asks ``fence`` first.

        ``seconds``: how long it may take at most. Raises what the program says went wrong, ``Unavailable`` of the
        fence or ``target.exec.slow``, ``StationFault``: ``target.exec.protocol``, ``target.exec.ended``.
        """
        until = time.monotonic() + seconds
        self._send(Welcome(station_software=f"birthmark {__version__}", secret=self._secret), until)
        hello = self._next(until)
        if not isinstance(hello, Hello) or hello.version not in EXEC_VERSIONS:
            raise self._broken("it did not say hello with a version that this station speaks")
        self._send(asked, until)
        while True:
            message = self._next(until)
            if isinstance(message, Act):
                if fence is None:
                    raise self._broken("it wanted to change the device while it was only asked")
                self._grant(fence, until)
            elif isinstance(message, Failed):
                raise self._told(message)
            elif isinstance(message, expected):
                return message
            else:
                raise self._broken(f"it answered {asked.do} with something else")

    def close(self, *, kill: bool) -> None:
        """End the program: its input ends, and what still runs of it a moment later is killed."""
        with suppress(OSError):
            self._input.close()
        if not kill:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def _grant(self, fence: Fence, until: float) -> None:
        try:
            fence.hold()
        except BaseException:
            with suppress(BirthmarkError):
                self._send(Leave(granted=False, remaining_s=0.0), time.monotonic() + _END_S)
            raise
        self._send(Leave(granted=True, remaining_s=round(fence.remaining(), 3)), until)

    def _send(self, message: msgspec.Struct, until: float) -> None:
        data = memoryview(_encoder.encode(message) + b"\n")
        while data:
            self._wait(self._input, selectors.EVENT_WRITE, until)
            try:
                data = data[os.write(self._input.fileno(), data) :]
            except BlockingIOError:
                continue
            except OSError:
                # It is gone; what it said before may tell why.
                return

    def _next(self, until: float) -> Any:
        """Return the next message of a known type; others are for newer stations."""
        while True:
            line = self._read_line(until)
            self._lines += 1
            try:
                if self._lines > _LINES:
                    raise msgspec.ValidationError("too many lines")
                if _tag_decoder.decode(line).type in _KNOWN_TAGS:
                    return _decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise self._broken("a line of it is no message") from None

    def _read_line(self, until: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE_OCTETS:
                raise self._broken("a line of it does not end")
            self._wait(self._output, selectors.EVENT_READ, until)
            try:
                data = os.read(self._output.fileno(), 1 << 16)
            except BlockingIOError:
                continue
            if not data:
                raise self._ended()
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line

    def _wait(self, pipe: IO[bytes], event: int, until: float) -> None:
        left = until - time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            if left <= 0 or not selector.select(left):
                raise Unavailable(
                    "target.exec.slow",
                    f"{self._name} did not answer in time and was ended",
                    hint="Look at the link to the device, then run the same command again; it goes on where it was.",
                    program=self._name,
                )

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise RuntimeError("the program was started with pipes")
        return pipe

    def _told(self, failed: Failed) -> BirthmarkError:
        facts = {"program": self._name, "cause": failed.code}
        text = f"{self._name}: {failed.message or failed.code}"
        if failed.who == "device" and failed.code == "key.mismatch":
            return mismatch(self._name, "the key of the device")
        if failed.who == "device":
            return DeviceFault(
                "target.exec.device", text, hint="Rework or scrap this device; take the next one.", **facts
            )
        if failed.who == "request":
            return Refused(
                "target.exec.refused", text, hint="Order and device do not fit: read what the program says.", **facts
            )
        if failed.who == "later":
            return Unavailable("target.exec.later", text, hint="Run the same command again.", **facts)
        return StationFault(
            "target.exec.station", text, hint="Mend the fixture, then run the same command again.", **facts
        )

    def _broken(self, reason: str) -> StationFault:
        return StationFault(
            "target.exec.protocol",
            f"{self._name} does not keep to birthmark-exec/1: {reason}",
            hint="Show docs/formats/exec-target.md to whoever wrote the program; it was ended.",
            program=self._name,
        )

    def _ended(self) -> StationFault:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        code = self._process.returncode
        return StationFault(
            "target.exec.ended",
            f"{self._name} ended before it answered",
            hint="Run it by hand, or add log=FILE to the target to keep what it says on stderr.",
            program=self._name,
            exit_code=code,
        )


class _open_log:  # noqa: N801  a context manager that reads like a function
    """A file for the program's stderr, 0600 and bounded at its start; without one stderr goes nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> int:
        if self._path is None:
            self._descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            return self._descriptor
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o600)
            if os.fstat(self._descriptor).st_size > _LOG_OCTETS:
                os.ftruncate(self._descriptor, 0)
        except OSError as problem:
            raise StationFault(
                "target.exec.log",
                f"the log {self._path} cannot be written: {problem.strerror}",
                hint="Name a file in a directory that is there.",
                path=str(self._path),
            ) from None
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
