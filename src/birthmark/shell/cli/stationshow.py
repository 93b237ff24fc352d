"""What the commands of ``birthmark station`` show: of each step, of each device, of a run; text or JSON lines."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from birthmark.shell.cli.screen import visible

if TYPE_CHECKING:
    from birthmark.errors import BirthmarkError
    from birthmark.shell.line.yields import HeadResult, Yield
    from birthmark.workflow.line.stationpost import Outcome, Progress

__all__ = [
    "failed_line",
    "no_step",
    "outcome_line",
    "outcome_text",
    "result_line",
    "result_text",
    "step_line",
    "step_text",
    "summary",
]


def _line(document: dict[str, object]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(json.dumps({"ts": now, **document}, sort_keys=True), flush=True)


def step_line(step: Progress) -> None:
    if step.status == "start":
        return
    document: dict[str, object] = {
        "attempt": step.attempt,
        "device_serial": step.device_serial,
        "step": step.step,
        "status": step.status,
        "ms": step.ms,
    }
    _line(document if step.code is None else {**document, "error": step.code})


def no_step(step: Progress) -> None:
    """People watch the devices of a run, not their steps."""


def step_text(step: Progress) -> None:
    if step.status == "ok":
        print(f"  {step.step:<10} {step.ms:>9.1f} ms", flush=True)
    elif step.status == "failed":
        print(f"  {step.step:<10} {step.ms:>9.1f} ms  FAILED  {step.code}", flush=True)


def outcome_line(outcome: Outcome, step: str = "provision", **more: object) -> None:
    seen = outcome.handshake
    _line(
        {
            "attempt": outcome.attempt,
            "device_serial": outcome.device_serial,
            "step": step,
            "status": outcome.outcome,
            "ms": outcome.ms,
            "device_ms": outcome.device_ms,
            "engine_ms": outcome.engine_ms,
            "cert_serial": outcome.cert_serial,
            "cert_sha256": outcome.cert_sha256,
            "evidence": outcome.evidence,
            "tls_version": None if seen is None else seen.tls_version,
            **_cloud_members(outcome),
            **({} if outcome.link_repeats is None else {"link_repeats": outcome.link_repeats}),
            **more,
        }
    )


def _cloud_members(outcome: Outcome) -> dict[str, object]:
    if outcome.admitted is None:
        return {}
    admission = outcome.admitted.admission
    told = {"service": admission.service, "assigned_to": admission.assigned_to, "device_name": admission.device_name}
    return {"cloud": {**told, "key": admission.held_by}}


def outcome_text(outcome: Outcome) -> str:
    word = "PASS" if outcome.outcome == "pass" else "PASS (already had its identity)"
    proof = "the digest of its key fits" if outcome.evidence == "digest" else "the key in it signed our challenge"
    seen = "" if outcome.handshake is None else f", connected with {outcome.handshake.tls_version}"
    if outcome.admitted is not None:
        admission = outcome.admitted.admission
        seen += f", let in by {admission.service} as {admission.device_name} at {admission.assigned_to}"
    noise = f"; {outcome.link_repeats} repeats on a noisy link" if outcome.link_repeats else ""
    return f"{word}  {outcome.device_serial}: certificate {outcome.cert_serial}; {proof}{seen}{noise}"


def result_line(result: HeadResult) -> None:
    if result.outcome is not None:
        outcome_line(result.outcome)
    elif result.error is not None:
        failed_line(result.device_serial, result.error, result.ms)


def failed_line(device_serial: str, error: BirthmarkError, ms: float, step: str = "provision") -> None:
    """A device ends with one line of one form, whichever command it was and whatever went wrong."""
    ended = {"device_serial": device_serial, "step": step, "status": "failed", "ms": ms}
    _line({**ended, "exit_code": error.exit_code, **error.document()})


def result_text(result: HeadResult) -> None:
    if result.outcome is not None:
        print(outcome_text(result.outcome), flush=True)
    elif result.error is not None:
        told = f"FAIL  {result.device_serial}: {result.error.message}  [{result.error.code}]"
        print(visible(told).replace("\n", "\\n"), flush=True)


def summary(total: Yield, *, as_json: bool) -> None:
    from birthmark.shell.line.yields import percentile

    failed = sum(total.codes.values())
    done = total.passed + total.already + failed
    rate = done / total.seconds if total.seconds else 0.0
    shares = {
        f"{whose}_p{share}_ms": percentile(values, share)
        for whose, values in (("engine", total.engine_ms), ("device", total.device_ms))
        for share in (50, 99)
    }
    if as_json:
        _line(
            {
                "step": "run",
                "status": "failed" if failed else "pass",
                "devices": done,
                "passed": total.passed,
                "already": total.already,
                "failed": failed,
                "codes": total.codes,
                "rate": round(rate, 1),
                **shares,
            }
        )
        return
    share = 100 * (done - failed) / done if done else 0.0
    print(f"{done} devices, {total.passed} passed, {total.already} already, {failed} failed: yield {share:.1f} %")
    if total.engine_ms:
        print(
            f"engine {shares['engine_p50_ms']:.1f} ms (p99 {shares['engine_p99_ms']:.1f}), "
            f"device {shares['device_p50_ms']:.1f} ms (p99 {shares['device_p99_ms']:.1f}), {rate:.1f} devices/s"
        )
    for code, count in sorted(total.codes.items()):
        print(f"  {count:>6}  {code}")
    if total.worst is not None:
        print(f"  → {visible(total.worst.hint)}")
