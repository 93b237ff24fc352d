"""A replica in a process of its own: draws the devices of a pool and tells what was acknowledged, one line each.

``drain CONNINFO DIRECTORY NAME ORDER-OF-DEVICES…``: an unknown outcome is looked up and tried again with the same
attempt; it begins when a line comes in. ``hold CONNINFO DIRECTORY STALL``: says ``holding`` inside a transaction and
goes on when a line comes in.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from birthmark.errors import Refused, Unavailable
from birthmark.model import events as e
from support.ledger import AT, TestClock
from support.postgres import open_postgres

_pause = threading.Event()


def drain(conninfo: str, directory: str, name: str, *devices: str) -> None:
    ledger = open_postgres(conninfo, Path(directory), TestClock())
    print("ready", flush=True)
    sys.stdin.readline()
    for device in devices:
        attempt = f"{name}-{device}"
        while True:
            try:
                found = ledger.records.attempt(attempt)
                if found is not None:
                    print("drawn", device, found.seq, attempt, flush=True)
                    break
                with ledger.transaction() as tx:
                    (prefix,) = tx.serial_prefixes(1)
                    seq = tx.append(e.Drawn(at=AT, device=device, station="s", attempt=attempt))
                print("drawn", device, seq, attempt, prefix.hex(), flush=True)
                break
            except Unavailable:
                # The server is away; it is asked again a little later.
                _pause.wait(0.02)
            except Refused as refused:
                print("lost", device, refused.code, flush=True)
                break
    ledger.close()


def hold(conninfo: str, directory: str, stall_s: str) -> None:
    ledger = open_postgres(conninfo, Path(directory), TestClock(), stall_s=float(stall_s))
    try:
        with ledger.transaction() as tx:
            tx.append(e.Rejected(at=AT, station="s", code="x.stopped"))
            print("holding", flush=True)
            sys.stdin.readline()
    except Unavailable as problem:
        print(problem.code, flush=True)
    with ledger.transaction() as tx:
        tx.append(e.Rejected(at=AT, station="s", code="x.later"))
    print("done", flush=True)
    ledger.close()


if __name__ == "__main__":
    {"drain": drain, "hold": hold}[sys.argv[1]](*sys.argv[2:])
