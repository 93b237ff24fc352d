"""``birthmark station``: give devices their identity on the line, one or many at once. Never asks, never prompts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from birthmark.errors import BirthmarkError, Misconfigured
from birthmark.shell.cli.options import JsonOption, WorkspaceOption
from birthmark.shell.cli.screen import visible

if TYPE_CHECKING:
    from birthmark.shell.lineyield import HeadResult, Yield
    from birthmark.workflow.line.stationpost import Outcome, Progress

__all__ = ["register"]

TargetOption = Annotated[
    str, typer.Option(help="Where the identity goes, for example files:out/{device_serial}; see docs/targets.md.")
]
StationOption = Annotated[str | None, typer.Option(help="Name of this station; default: the only one there is.")]
HandshakeOption = Annotated[
    bool, typer.Option("--handshake", help="Prove it with a real mutual-TLS connection as well.")
]
AttemptOption = Annotated[str | None, typer.Option(help="Your own id of this attempt; default: made and kept.")]
IdentityOption = Annotated[
    str | None, typer.Option(help="What the device calls itself, if neither its serial nor its vendor's id.")
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(min=0.001, max=86_400, help="Seconds for each device; default: deadline_s of the station's settings."),
]
LinesOption = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, one a step.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this noun."""
    station = typer.Typer(help="The line: install identities and prove them.", no_args_is_help=True)
    station.command("add")(add)
    station.command("provision")(provision)
    station.command("run")(run)
    station.command("bind")(bind)
    station.command("adopt")(adopt)
    app.add_typer(station, name="station")


def add(
    name: Annotated[str, typer.Argument(help="Name of the station at its site.")],
    site: Annotated[str, typer.Option(help="The site it belongs to.")],
    csr: Annotated[Path, typer.Option(help="CSR of its TLS key, made by `birthmark site station`.")],
    vkey: Annotated[str, typer.Option(help="Verifier key of its receipts, as that command printed it.")],
    days: Annotated[int, typer.Option(min=1, max=7000, help="How many days its TLS certificate is valid.")] = 730,
    output: Annotated[Path | None, typer.Option(help="Put the site's new grant there as well.")] = None,
    workspace: WorkspaceOption = Path(),
    as_json: JsonOption = False,
) -> None:
    """At the authority: add a station to a site, or give a known one a certificate for a new TLS key."""
    from birthmark.adapters.received import read_received
    from birthmark.shell.cli.site import show_grant
    from birthmark.shell.siteadmin import grant_station
    from birthmark.shell.wiring import open_workspace

    with open_workspace(workspace) as opened:
        written = grant_station(opened, site, name, vkey=vkey, csr=read_received(csr), days=days)
    show_grant(written, output, [f"Station {site}/{name} is on record."], as_json)


def provision(
    target: TargetOption,
    device_serial: Annotated[str | None, typer.Option(help="The scanned serial of the device.")] = None,
    identify: Annotated[bool, typer.Option("--identify", help="Scan nothing: ask the device for its serial.")] = False,
    attempt_id: AttemptOption = None,
    station: StationOption = None,
    handshake: HandshakeOption = False,
    deadline: DeadlineOption = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Try the whole production path on a stand-in; nothing real is touched.")
    ] = False,
    rehearse_on: Annotated[
        str | None, typer.Option(help="Rehearse on this throw-away device, where the target makes no stand-in itself.")
    ] = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> int:
    """Give one device its identity, read it back and prove it. The same command again is always safe."""
    from birthmark.shell.heads import open_heads
    from birthmark.shell.lineyield import not_to_be_shipped
    from birthmark.shell.wiring import open_workspace

    _require_one_way(device_serial, identify)
    show = _step_line if as_json else _step_text
    if rehearse or rehearse_on is not None:
        _rehearse(device_serial, target, rehearse_on, deadline, handshake, workspace, show, as_json=as_json)
        return 0
    began = time.monotonic()
    try:
        with (
            not_to_be_shipped(),
            open_workspace(workspace) as opened,
            open_heads(opened, station, deadline_s=deadline) as heads,
        ):
            asked = device_serial or heads.identify(target)
            outcome = heads.provision(asked, target, attempt=attempt_id, handshake=handshake, progress=show)
    except BirthmarkError as problem:
        if not as_json:
            raise
        _failed_line(device_serial or "", problem, round((time.monotonic() - began) * 1000, 3))
        return problem.exit_code
    if as_json:
        _outcome_line(outcome)
    else:
        print(_outcome_text(outcome), flush=True)
    return 0


def bind(
    device_serial: Annotated[str, typer.Option(help="The scanned serial of the device.")],
    target: TargetOption,
    identity: IdentityOption = None,
    attempt_id: AttemptOption = None,
    station: StationOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> None:
    """Bind the identity that a vendor preloaded to a device: read, challenged, recorded; nothing is written to it."""
    _take_over("preloaded", device_serial, target, identity, attempt_id, station, workspace, as_json=as_json)


def adopt(
    device_serial: Annotated[str, typer.Option(help="The scanned serial of the device.")],
    target: TargetOption,
    identity: IdentityOption = None,
    attempt_id: AttemptOption = None,
    station: StationOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> None:
    """Adopt the identity that a device got elsewhere: its certificate is read, its key challenged, both recorded."""
    _take_over("adopted", device_serial, target, identity, attempt_id, station, workspace, as_json=as_json)


def _take_over(
    origin: Literal["preloaded", "adopted"],
    device_serial: str,
    target: str,
    identity: str | None,
    attempt_id: str | None,
    station: str | None,
    workspace: Path,
    *,
    as_json: bool,
) -> None:
    from birthmark.shell.heads import open_heads
    from birthmark.shell.wiring import open_workspace

    show = _step_line if as_json else _step_text
    with open_workspace(workspace) as opened, open_heads(opened, station) as heads:
        outcome = heads.take_over(origin, device_serial, target, identity=identity, attempt=attempt_id, progress=show)
    if as_json:
        _outcome_line(outcome, "bind" if origin == "preloaded" else "adopt")
    else:
        print(_outcome_text(outcome), flush=True)


def _require_one_way(device_serial: str | None, identify: bool) -> None:
    if (device_serial is None) != identify:
        raise Misconfigured(
            "station.device",
            "the device is named twice" if identify else "no device is named",
            hint="Give --device-serial with the scanned serial, or --identify to ask the device for it.",
        )


def _rehearse(
    device_serial: str | None,
    target: str,
    stand_in: str | None,
    deadline: float | None,
    handshake: bool,
    workspace: Path,
    show: Callable[[Progress], None],
    *,
    as_json: bool,
) -> None:
    from birthmark.shell.rehearsal import RehearsalRequest, rehearse

    if device_serial is None:
        raise Misconfigured(
            "rehearsal.device",
            "a rehearsal does not open the real device, so it cannot ask it for its serial",
            hint="Name the device with --device-serial.",
        )
    told = rehearse(
        workspace,
        RehearsalRequest(device_serial, target, stand_in, deadline_s=deadline, handshake=handshake),
        progress=show,
    )
    if as_json:
        _outcome_line(told.outcome, rehearsed=told.document())
        return
    for line in told.lines():
        print(line, flush=True)


def run(
    devices: Annotated[str, typer.Option(help="File with one device serial a line, or - for stdin.")],
    target: TargetOption,
    heads: Annotated[int, typer.Option(min=1, max=64, help="How many devices at once.")] = 1,
    station: StationOption = None,
    handshake: HandshakeOption = False,
    deadline: DeadlineOption = None,
    workspace: WorkspaceOption = Path(),
    as_json: LinesOption = False,
) -> int:
    """Work through many devices with several heads.

    A bad or slow device does not stop the others; the worst error decides the exit code. A fault of the station or a
    finding of tampering stops the line.
    """
    from birthmark.shell.heads import open_heads
    from birthmark.shell.lineyield import not_to_be_shipped
    from birthmark.shell.wiring import open_workspace

    _require_placeholder(target)
    waiting = _lines(devices)
    with (
        not_to_be_shipped(),
        open_workspace(workspace) as opened,
        open_heads(opened, station, deadline_s=deadline) as shared,
    ):
        total = shared.run(
            waiting,
            target,
            heads=heads,
            handshake=handshake,
            progress=_step_line if as_json else _no_step,
            result=_result_line if as_json else _result_text,
        )
    _summary(total, as_json=as_json)
    return 0 if total.worst is None else total.worst.exit_code


def _require_placeholder(target: str) -> None:
    if "{device_serial}" not in target:
        raise Misconfigured(
            "station.target.one",
            "all devices would go to the same target",
            hint="Put {device_serial} into the target.",
            target=target[:200],
        )


def _lines(devices: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if devices == "-" else Path(devices).read_bytes()
    except OSError as problem:
        raise Misconfigured(
            "station.devices.file",
            f"cannot read {devices}: {problem.strerror}",
            hint="Give a text file with one device serial a line.",
            path=devices,
        ) from problem
    return [line for line in data.decode("utf-8", "backslashreplace").splitlines() if line]


def _line(document: dict[str, object]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(json.dumps({"ts": now, **document}, sort_keys=True), flush=True)


def _step_line(step: Progress) -> None:
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


def _no_step(step: Progress) -> None:
    """People watch the devices of a run, not their steps."""


def _step_text(step: Progress) -> None:
    if step.status == "ok":
        print(f"  {step.step:<10} {step.ms:>9.1f} ms", flush=True)
    elif step.status == "failed":
        print(f"  {step.step:<10} {step.ms:>9.1f} ms  FAILED  {step.code}", flush=True)


def _outcome_line(outcome: Outcome, step: str = "provision", **more: object) -> None:
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
            **({} if outcome.link_repeats is None else {"link_repeats": outcome.link_repeats}),
            **more,
        }
    )


def _outcome_text(outcome: Outcome) -> str:
    word = "PASS" if outcome.outcome == "pass" else "PASS (already had its identity)"
    proof = "the digest of its key fits" if outcome.evidence == "digest" else "the key in it signed our challenge"
    seen = "" if outcome.handshake is None else f", connected with {outcome.handshake.tls_version}"
    noise = f"; {outcome.link_repeats} repeats on a noisy link" if outcome.link_repeats else ""
    return f"{word}  {outcome.device_serial}: certificate {outcome.cert_serial}; {proof}{seen}{noise}"


def _result_line(result: HeadResult) -> None:
    if result.outcome is not None:
        _outcome_line(result.outcome)
    elif result.error is not None:
        _failed_line(result.device_serial, result.error, result.ms)


def _failed_line(device_serial: str, error: BirthmarkError, ms: float) -> None:
    """A device ends with one line of one form, whichever command it was and whatever went wrong."""
    ended = {"device_serial": device_serial, "step": "provision", "status": "failed", "ms": ms}
    _line({**ended, "exit_code": error.exit_code, **error.document()})


def _result_text(result: HeadResult) -> None:
    if result.outcome is not None:
        print(_outcome_text(result.outcome), flush=True)
    elif result.error is not None:
        told = f"FAIL  {result.device_serial}: {result.error.message}  [{result.error.code}]"
        print(visible(told).replace("\n", "\\n"), flush=True)


def _summary(total: Yield, *, as_json: bool) -> None:
    from birthmark.shell.lineyield import percentile

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
