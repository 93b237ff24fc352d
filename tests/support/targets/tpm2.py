"""Devices whose key lives in a TPM: swtpm."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from urllib.parse import quote

import pytest

from birthmark.adapters.targets.tpm2 import Tpm2Target
from birthmark.adapters.targets.tpm2.cells import TpmCells
from birthmark.adapters.targets.tpm2.keys import persistent_key
from birthmark.adapters.targets.tpm2.link import open_tpm
from birthmark.adapters.targets.tpm2.stream import parse_address
from birthmark.model.secret import Secret
from support.fences import OPEN
from support.swtpm import Swtpm, board_state, ek_roots, start_tpm
from support.targets.device import SERIAL, Device
from support.tpmproxy import LIES, TpmProxy

__all__ = ["CERTIFICATE_INDEX", "DEVICES", "HANDLE", "tpm_holds", "tpm_target"]

HANDLE = 0x81010100
CERTIFICATE_INDEX = 0x01800100


def tpm_target(tcti: str, roots: Path | None = None, more: str = "") -> Tpm2Target:
    named = "" if roots is None else f"&ek-roots={quote(str(roots))}"
    uri = f"tpm2:{HANDLE:#x}?tcti={quote(tcti)}{named}{more}"
    return Tpm2Target(uri, secrets=lambda _: Secret(b""), base=Path())


def tpm_holds(tcti: str) -> dict[str, bytes]:
    """Return everything that outlives a power cut: the Name of each key, the content of each NV index."""
    with open_tpm(parse_address(tcti), lambda: 10.0) as link:
        cells = TpmCells(link)
        held = {f"{index:#x}": cells.read(index) or b"" for index in link.handles("nv")}
        for handle in link.handles("persistent"):
            key = persistent_key(link, handle)
            assert key is not None
            held[f"{handle:#x}"] = key.name
    return held


@cache
def _with_rsa_key() -> Path:
    """Return the state of a board whose RSA key already waits: swtpm takes half a second for each."""
    tpm = Swtpm(board_state(SERIAL).with_name("board-rsa"), board_state(SERIAL))
    tpm.start()
    tpm_target(tpm.tcti).make_key("rsa2048", SERIAL, OPEN)
    tpm.cut()
    return tpm.directory


def tpm_device(algorithm: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    rsa = algorithm == "rsa2048"
    tpm = start_tpm(root / "tpm", monkeypatch, _with_rsa_key() if rsa else board_state(SERIAL))
    roots = ek_roots(root)
    proxy = TpmProxy(tpm.port)

    def tells(lie: str) -> None:
        proxy.lie = LIES[lie](CERTIFICATE_INDEX)

    lies = ["stores nothing"] if rsa else list(LIES)
    return Device(
        open=lambda: tpm_target(proxy.tcti, roots, "&ek=rsa2048" if rsa else ""),
        snapshot=lambda: tpm_holds(tpm.tcti),
        makes_key=True,
        identity=SERIAL,
        algorithm=algorithm,
        attests=True,
        lies={lie: partial(tells, lie) for lie in lies},
    )


DEVICES: dict[str, Callable[[Path, pytest.MonkeyPatch], Device]] = {
    f"tpm2-{algorithm}": partial(tpm_device, algorithm) for algorithm in ("p256", "rsa2048")
}
