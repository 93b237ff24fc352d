"""``make demo-line``: four kinds of device at one station, on the screens that an operator sees, recorded as pictures.

An OpenHTF test provisions a gateway with a TPM; the terminal view takes an ESP image, a modem that lies and a good one,
and a secure element. TPM, modem and chip are programs here (swtpm and the test parts of birthmark); all else is real.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.line import Line, open_line
from birthmark.shell.cli.main import main as birthmark
from birthmark.shell.cli.telling import indent, plain_table, say
from birthmark.shell.demo.directory import prepare_directory
from birthmark.shell.lineview.app import LineView
from birthmark.shell.throwaway import make_workspace
from birthmark.testing.atecc608 import Atecc608
from birthmark.testing.modem import ModemSimulator

GATEWAY, SENSOR, IMEI = "GW-0001", "SN-0001", "350457790000010"
SERIAL_INDEX, KEY_HANDLE = "0x0180010A", "0x81010100"
SCREEN = (110, 30)
BENCH = (
    "A gateway with a TPM, under OpenHTF. A sensor that is flashed with a partition. A tracker whose modem first "
    "acknowledges and keeps nothing. A lock with a secure element. TPM, modem and element are programs here; the "
    "station, the records and the proofs are not."
)
HAPPENED = (
    "Each device said who it is, got an identity of its own, and signed a fresh challenge with the key that is in it "
    "now. The word is what the operator saw."
)


@dataclass
class Shown:
    """What happened at one place: rows for the table in the end."""

    rows: list[list[str]] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


def orders(root: Path) -> None:
    """Make the workspace and what is to be made in it."""
    make_workspace(root / "bench")
    settings = root / "bench" / "birthmark.toml"
    text = settings.read_text()
    tables = [table for table in re.split(r"\n(?=\[)", text) if table.startswith("[products.device")]
    attested = "\n".join(tables).replace("[products.device", "[products.attested")
    attested = attested.replace("[products.attested]", '[products.attested]\nresidency = "attested"', 1)
    settings.write_text(f"{text}\n{attested}\n")
    chip = Atecc608.create(root / "chip.json", sync=False).serial
    wanted = (
        ("gateways", "attested", GATEWAY, "device"),
        ("sensors", "device", SENSOR, "injected"),
        ("trackers", "attested", IMEI, "device"),
        ("locks", "device", chip, "device"),
    )
    for name, product, serial, origin in wanted:
        (root / f"{name}.txt").write_text(f"{serial}\n")
        quietly("order", "create", name, "--product", product, "--devices", str(root / f"{name}.txt"),
                "--key-origin", origin, "-C", str(root / "bench"))  # fmt: skip
    quietly("order", "make", "sensors", "--processes", "1", "-C", str(root / "bench"))


def quietly(*command: str) -> None:
    """Run a command of the program that must succeed."""
    with open(os.devnull, "w") as nowhere:
        kept, sys.stdout = sys.stdout, nowhere
        try:
            code = birthmark([*command, "--json"])
        finally:
            sys.stdout = kept
    if code:
        raise SystemExit(f"birthmark {' '.join(command)} ended with {code}")


@contextmanager
def gateway(root: Path) -> Iterator[str]:
    """Run a virtual TPM as its maker and the test of the board left it; yield its target."""
    maker, state = root / "tpm-maker", root / "tpm"
    maker.mkdir()
    state.mkdir()
    (maker / "setup.conf").write_text(
        f"create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {maker}/ca.conf\n"
        f"create_certs_tool_options = {maker}/ca.options\nactive_pcr_banks = sha256\n"
    )
    (maker / "ca.conf").write_text(
        f"statedir = {maker}\nsigningkey = {maker}/key.pem\nissuercert = {maker}/ca.pem\ncertserial = {maker}/serial\n"
    )
    (maker / "ca.options").write_text("--platform-manufacturer Demo\n--platform-version 1.0\n--platform-model Demo\n")
    setup = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--config", str(maker / "setup.conf")]
    subprocess.run([*setup, "--create-ek-cert", "--lock-nvram", "--vmid", "gateway"], check=True, capture_output=True)
    roots = root / "ek-roots.pem"
    roots.write_bytes((maker / "swtpm-localca-rootca-cert.pem").read_bytes() + (maker / "ca.pem").read_bytes())
    port = free_ports()
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear"]
    command += ["--server", f"type=tcp,port={port},bindaddr=127.0.0.1"]
    command += ["--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        tcti = f"swtpm:host=127.0.0.1,port={port}"
        attributes = "ownerread|ownerwrite|authread|no_da"
        environment = {**os.environ, "TPM2TOOLS_TCTI": tcti}
        define = ["tpm2_nvdefine", SERIAL_INDEX, "-C", "o", "-s", str(len(GATEWAY)), "-a", attributes]
        write = ["tpm2_nvwrite", SERIAL_INDEX, "-C", "o", "-i", "-"]
        subprocess.run(define, env=environment, check=True, capture_output=True)
        subprocess.run(write, env=environment, check=True, capture_output=True, input=GATEWAY.encode())
        yield f"tpm2:{KEY_HANDLE}?tcti={tcti.replace('=', '%3D')}&ek-roots={roots}"
    finally:
        process.kill()
        process.wait()


def free_ports() -> int:
    """Return a free port whose neighbour is free too: the TSS looks for the control channel there."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def openhtf_test(line: Line, target: str) -> Any:
    """Run an OpenHTF test with a phase of the factory's own around ours; return its record."""
    import logging

    import openhtf as htf

    from birthmark.integrations.openhtf import ProvisionPlug, provision_phase, verify_phase

    logging.getLogger("openhtf").setLevel(logging.CRITICAL)

    @htf.measures(htf.Measurement("supply_mv").in_range(4750, 5250))  # type: ignore[misc]
    def power_up(test: Any) -> None:
        test.measurements.supply_mv = 5012

    plug = ProvisionPlug.at(line, target)
    test = htf.Test(power_up, provision_phase(plug), verify_phase(plug))
    records: list[Any] = []
    test.add_output_callbacks(records.append)
    test.execute(test_start=lambda: GATEWAY)
    return records[0]


def at_the_screen(line: Line, target: str, serial: str, picture: Path) -> tuple[str, str]:
    """Let somebody scan a serial at the operator's view; keep the picture, return the word and its reason."""

    async def shift() -> tuple[str, str]:
        view = LineView(line, target)
        async with view.run_test(size=SCREEN) as pilot:
            for letter in serial:
                await pilot.press({"-": "minus"}.get(letter, letter))
            await pilot.press("enter")
            while not view.shift.units:
                await pilot.pause(0.05)
            await pilot.pause()
            picture.write_text(plain(view.export_screenshot(title=f"birthmark line --target {target[:60]}")))
            unit = view.shift.units[0]
            await pilot.press("ctrl+q")
        return unit.word, unit.code or unit.told[0]

    return asyncio.run(shift())


def plain(svg: str) -> str:
    """Return a picture that asks nobody for fonts."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "monospace")


def work(root: Path, console: Console) -> Shown:
    """Bring every device to the station."""
    shown = Shown()
    with ExitStack() as stack:
        tpm = stack.enter_context(gateway(root))
        modem = stack.enter_context(ModemSimulator(imei=IMEI))
        chip = Atecc608(root / "chip.json", sync=False)
        line = stack.enter_context(open_line(root / "bench"))
        with console.status("OpenHTF at the gateway"):
            record = openhtf_test(line, tpm)
        shown.rows.append([GATEWAY, "TPM 2.0", "OpenHTF", record.outcome.name, "attested, then signed our challenge"])
        (root / "anchors.txt").write_text(modem.anchor_line() + "\n")
        (root / SENSOR).mkdir()
        (root / SENSOR / "device-id").write_text(f"{SENSOR}\n")
        tracker = f"nrf:{modem.port}?anchors={root}/anchors.txt"
        lock = f"atecc:0?bus=emulator:{root}/chip.json&templates={root}/templates&lock=slot"
        (root / "templates").mkdir()
        places: list[tuple[str, str, str, str, Callable[[], None]]] = [
            ("esp", f"esp:{root}/{{device_serial}}?layout=secure-cert", SENSOR, "ESP32 partition", lambda: None),
            ("modem-lies", tracker, IMEI, "modem that stores nothing", lambda: lie(modem, True)),
            ("modem", tracker, IMEI, "nRF91 modem", lambda: lie(modem, False)),
            ("chip", lock, chip.serial, "ATECC608", lambda: None),
        ]
        for name, target, serial, what, prepare in places:
            prepare()
            picture = root / "pictures" / f"{name}.svg"
            with console.status(what):
                word, reason = at_the_screen(line, target, serial, picture)
            shown.rows.append([serial, what, "operator's view", word, reason])
            shown.pictures.append(picture)
    return shown


def lie(modem: ModemSimulator, lies: bool) -> None:
    """Let the modem acknowledge and keep nothing, or be honest again."""
    modem.faults.stores_nothing = lies


def main() -> int:
    """Run the demo; 1 if it did not end as it should."""
    root = Path("demo-line")
    console = Console(highlight=False)
    began = time.monotonic()
    for tool in ("swtpm", "swtpm_setup", "tpm2_nvdefine"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: run `make system`")
    console.print("\n[bold]birthmark[/]: one station, every place a device keeps its key\n")
    prepare_directory(root)
    root = root.absolute()
    (root / "pictures").mkdir()
    say(console, "What is on the bench", BENCH)
    with console.status("a root, an issuing CA, four orders"):
        orders(root)
    shown = work(root, console)
    say(console, "What happened", HAPPENED)
    plain_table(console, ["device", "what it is", "line runs", "word", "reason"], shown.rows)
    with console.status("checking everything again"):
        report = verify_workspace(root / "bench")
    words = [row[3] for row in shown.rows]
    say(console, "Checked again", f"{report.size:,} entries of the log, every certificate and receipt: "
        f"{report.errors} findings.")  # fmt: skip
    say(console, "Pictures", "What the operator saw:")
    for picture in shown.pictures:
        indent(console, str(picture.relative_to(Path.cwd())))
    console.print()
    good = words == ["PASS", "PASS", "FAIL", "PASS", "PASS"] and not report.errors
    console.print(f"{time.monotonic() - began:.1f} s. Next: birthmark line --target 'files:/mnt/{{device_serial}}'\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
