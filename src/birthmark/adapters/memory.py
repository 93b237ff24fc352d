"""How much memory processes needed, as the kernel counted it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["peak_mb", "watched_children"]

_INTERVAL_S = 0.1


def peak_mb(pid: int | None = None) -> float:
    """Return the largest resident set of a running process, by default this one (MB; proc(5), VmHWM); 0 if it is gone.

    Not ``ru_maxrss``: that survives exec(2), so a process tells the peak of the one that started it.
    """
    try:
        lines = Path(f"/proc/{'self' if pid is None else pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


@contextmanager
def watched_children() -> Iterator[Callable[[], float]]:
    """Watch the processes that this one starts; yield what tells their memory (MB), also after they are gone.

    That is the largest sum, over all moments, of the largest resident sets of those that run at one time. A look each
    tenth of a second: what a process took in its last tenth is not seen (proc_pid_task(5), children).
    """
    most, over = 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while True:
            most = max(most, sum(peak_mb(pid) for pid in _children()))
            if over.wait(_INTERVAL_S):
                return

    watcher = threading.Thread(target=look, name="memory of children", daemon=True)
    watcher.start()
    try:
        yield lambda: most
    finally:
        over.set()
        watcher.join()


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (task / "children").read_text().split()}
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended, or a kernel that does not tell
    return found
