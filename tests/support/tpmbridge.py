"""A TPM for several users at once: what a resource manager does, as far as the tests need it.

The TSS starts it (TCTI ``cmd:python tpmbridge.py HOST PORT``) and speaks to it over standard input and output. Every
command goes over a connection of its own, since swtpm serves one at a time, and whatever contexts this user made and
did not flush are flushed when it leaves. It swaps nothing: there is room for three objects at once.
"""

from __future__ import annotations

import os
import socket
import sys
import time

__all__ = ["main"]

_MAKES_HANDLE = {0x131, 0x157, 0x161, 0x167, 0x176, 0x191, 0x15B, 0x186}
_FLUSH, _CONTEXT_SAVE = 0x165, 0x162
_HEADER = 10


def main() -> None:
    """Pass commands on until the user closes its end."""
    mine: set[bytes] = set()
    while (command := _read()) is not None:
        response = _ask(command)
        code = int.from_bytes(command[6:10], "big")
        if response[6:10] == bytes(4):
            if code in _MAKES_HANDLE:
                mine.add(response[10:14])
            if code == _FLUSH:
                mine.discard(command[10:14])
        os.write(1, response)
    for handle in mine:
        _ask(bytes.fromhex("80010000000e00000165") + handle)


def _ask(command: bytes) -> bytes:
    while True:
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as link:
                link.sendall(command)
                response = b""
                while len(response) < _HEADER or len(response) < int.from_bytes(response[2:6], "big"):
                    if not (more := link.recv(4096)):
                        raise ConnectionResetError
                    response += more
                return response
        except ConnectionResetError:
            time.sleep(0.001)


def _read() -> bytes | None:
    data, wanted = b"", _HEADER
    while len(data) < wanted:
        if not (more := os.read(0, wanted - len(data))):
            return None
        data += more
        wanted = max(_HEADER, int.from_bytes(data[2:6], "big")) if len(data) >= _HEADER else _HEADER
    return data


if __name__ == "__main__":
    main()
