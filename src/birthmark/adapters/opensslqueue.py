"""OpenSSL's error queue of a thread, kept as it was while somebody else's library works in that thread.

OpenSSL keeps errors by the thread (``ERR_get_error(3)``), and Python's ``ssl`` takes whatever lies there for the cause
of its own next failure: a TLS socket that merely has nothing to read yet is then reported as broken. Libraries that
share libcrypto with ``ssl`` leave errors behind although their calls succeed. SoftHSM2 leaves four by being started.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import TracebackType

__all__ = ["QuietLock"]

Call = Callable[[], int]


def _nothing() -> int:
    return 0


def _marks() -> tuple[Call, Call]:
    """Return ``ERR_set_mark(3)`` and ``ERR_pop_to_mark(3)`` of the libcrypto that ``ssl`` itself is linked with.

    Looked up by way of ``_ssl``: a symbol is found in what that library depends on, so it is never the libcrypto of
    another package. Where ``ssl`` keeps its OpenSSL to itself (linked in, not visible), nobody shares its queue, and
    nothing is to be done.
    """
    try:
        import _ssl

        # PyDLL holds the GIL: both calls take less time (90 ns) than giving it away.
        library = ctypes.PyDLL(getattr(_ssl, "__file__", None))
        names = library.ERR_set_mark, library.ERR_pop_to_mark
    except (ImportError, OSError, AttributeError):
        return _nothing, _nothing
    for name in names:
        name.argtypes, name.restype = (), ctypes.c_int
    return names


_SET_MARK, _POP_TO_MARK = _marks()


class QuietLock:
    """A lock of one thread (it nests). Who gives it back finds OpenSSL's errors of his thread as they were before.

    Errors that lay there before stay; what came on top of them is thrown away, after a failure too.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()
        _SET_MARK()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Without a mark (the queue was empty) this empties the queue, which is how it was.
        _POP_TO_MARK()
        self._lock.release()
