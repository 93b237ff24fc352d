"""What the service says of itself: one line of JSON a request, and counters in the text format of Prometheus."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

__all__ = ["Metrics", "RequestLog"]

_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_encoder = msgspec.json.Encoder(order="sorted")


class _Answered(msgspec.Struct, tag_field="event", tag="request", omit_defaults=True):
    """The line of one request."""

    ts: datetime
    method: str
    route: str
    status: int
    ms: float
    caller: str | None = None
    code: str | None = None


class RequestLog:
    """Lines of JSON, written in blocks. Only names, codes and numbers go in: never a body, a header or a query."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._lines: list[_Answered | dict[str, object]] = []

    def add(self, event: str, **members: str | int | float | None) -> None:
        """Collect one line."""
        known = {name: value for name, value in members.items() if value is not None}
        self._lines.append({"ts": datetime.now(UTC), "event": event, **known})

    def request(self, method: str, route: str, status: int, ms: float, caller: str | None, code: str | None) -> None:
        """Collect the line of one request."""
        self._lines.append(_Answered(datetime.now(UTC), method, route, status, ms, caller, code))

    def flush(self) -> None:
        """Write what is collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(_encoder.encode_lines(lines))


class Metrics:
    """Counts requests by route, status and duration. ``gauges``: name → (help, how to read it)."""

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._gauges = gauges
        self._counts: dict[tuple[str, int], int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._seconds: dict[str, float] = {}
        self._refusals: dict[str, int] = {}
        self._started = time.time()

    def count(self, route: str, status: int, seconds: float, code: str | None) -> None:
        """Count one request; ``route`` is the pattern, never the path."""
        self._counts[route, status] = self._counts.get((route, status), 0) + 1
        buckets = self._buckets.setdefault(route, [0] * (len(_BUCKETS_S) + 1))
        buckets[bisect_left(_BUCKETS_S, seconds)] += 1
        self._seconds[route] = self._seconds.get(route, 0.0) + seconds
        if code is not None:
            self._refusals[code] = self._refusals.get(code, 0) + 1

    def text(self) -> bytes:
        """Return all of it, text format 0.0.4."""
        lines = ["# HELP birthmark_requests_total Requests answered.", "# TYPE birthmark_requests_total counter"]
        for (route, status), count in sorted(self._counts.items()):
            lines.append(f'birthmark_requests_total{{route="{route}",status="{status}"}} {count}')
        lines += ["# HELP birthmark_errors_total Errors told, by code.", "# TYPE birthmark_errors_total counter"]
        lines += [f'birthmark_errors_total{{code="{code}"}} {count}' for code, count in sorted(self._refusals.items())]
        name = "birthmark_request_seconds"
        lines += [f"# HELP {name} Time from the first handler to the answer.", f"# TYPE {name} histogram"]
        for route, buckets in sorted(self._buckets.items()):
            total = 0
            for limit, count in zip((*_BUCKETS_S, "+Inf"), buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{route="{route}",le="{limit}"}} {total}')
            lines.append(f'{name}_sum{{route="{route}"}} {self._seconds[route]:.6f}')
            lines.append(f'{name}_count{{route="{route}"}} {total}')
        for gauge, (text, read) in self._gauges.items():
            lines += [f"# HELP {gauge} {text}", f"# TYPE {gauge} gauge", f"{gauge} {read():g}"]
        lines += [
            "# HELP process_start_time_seconds When this process began.",
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self._started:.3f}",
        ]
        return ("\n".join(lines) + "\n").encode()
