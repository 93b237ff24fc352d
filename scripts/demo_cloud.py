"""``make demo-cloud``: the demo's devices become known to a cloud before their boxes are closed, and it lets them in.

The line of ``birthmark demo`` comes first. The cloud is the emulated Device Provisioning Service of birthmark; the
program that connects as each device is Microsoft's own client, in its environment below ``.tools/azure``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from rich.console import Console

from birthmark.adapters.audit.verify import verify_workspace
from birthmark.shell.cli.main import main as birthmark
from birthmark.shell.cli.telling import plain_table, say
from birthmark.testing.aws import EmulatedAws
from birthmark.testing.dps import EmulatedDps

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "tests" / "support" / "azuredevices.py"
SDK = ROOT / ".tools" / "azure" / "bin" / "python"
DEMO = Path("demo-cloud")
FAB = DEMO / "factory"
ARM = "/subscriptions/s1/resourceGroups/rg/providers/Microsoft.Devices/provisioningServices/dps1"
STOLEN = "th-000003"
CHANGED = 50
HELD = (
    "The devices on the line passed, but no cloud knows them. By the group of its CA a cloud lets in a million devices "
    "with two calls; a second service wants every device by itself."
)
PLAN = "What it takes, said before anything is sent."
PREPARE = (
    "The cloud asks for proof that the CA's key is ours: one certificate with its code as the name, through a profile "
    "of its own, on record before it is signed."
)
CONNECT = "Microsoft's client connects as each device with a file system, over MQTT, with the key and the chain on it."
STOLEN_SAYS = f"{STOLEN} is scrapped. The next run blocks it, though its CA is still trusted."
OTHER = "The same devices elsewhere: the CA proves itself, each device becomes a thing with a certificate and a policy."
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]}
BEHIND = (
    f"Somebody changes {CHANGED} records at the cloud: 20 deleted, 20 disabled, 10 names made up with a copied "
    "certificate. Nothing of that is in the ledger."
)


class Cloud:
    """An emulated service, the settings that name it, and somebody at its console."""

    def __init__(self, name: str, dps: EmulatedDps, **options: str) -> None:
        self.name, self.dps = name, dps
        secrets = (FAB / "secrets").absolute()
        self.root = secrets / f"{name}-root.pem"
        self.root.write_text(dps.root_pem)
        chosen = {
            "scope": dps.id_scope,
            "trust": str(self.root),
            "key": self._secret(secrets / f"{name}.key", dps.key),
            **options,
        }
        if options.get("ca") == "reference":
            token = self._secret(secrets / f"{name}.token", dps.management_token)
            chosen |= {"arm": ARM, "arm-host": f"{dps.host}:{dps.https_port}", "arm-token": token}
        text = "&".join(f"{option}={quote(value)}" for option, value in chosen.items())
        with (FAB / "birthmark.toml").open("a") as settings:
            settings.write(f'\n[clouds.{name}]\nuri = "azure-dps:{dps.host}:{dps.https_port}?{text}"\n')

    @staticmethod
    def _secret(path: Path, value: str) -> str:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(value)
        return f"file:{path}"

    def connect(self, devices: list[str]) -> dict[str, str]:
        """Let Microsoft's client register each device; return what it was told."""
        told = [f"{one}={DEMO}/devices/{one}/device.crt={DEMO}/devices/{one}/device.key" for one in devices]
        words = [str(SDK), str(CLIENT), self.dps.host, self.dps.id_scope, str(self.root), *told]
        ran = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
        lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"name"')]
        return {one["name"]: one.get("status") or str(one["error"]) for one in lines}


def run(console: Console, *words: str, expect: int = 0) -> None:
    """Run a command as a person would, on this screen."""
    console.print(f"[dim]$[/] [bold]birthmark {' '.join(words)}[/]")
    code = birthmark([*words, "-C", str(FAB)])
    console.print()
    if code != expect:
        raise SystemExit(f"birthmark {' '.join(words)} ended with {code}, not {expect}")


def count(answers: dict[str, str], status: str) -> str:
    """Return how many devices were told so."""
    return str(sum(answer == status for answer in answers.values()))


def meet_the_cloud(console: Console, cloud: Cloud, devices: list[str]) -> bool:
    """Tell a cloud by groups, let devices connect, and block one of them."""
    say(console, "The plan", PLAN)
    run(console, "register", "plan", cloud.name)
    say(console, "Our CA, known and proven", PREPARE)
    run(console, "register", "prepare", cloud.name)
    run(console, "register", "run", cloud.name)
    say(console, f"{len(devices)} devices switch on", CONNECT)
    first = cloud.connect(devices)
    say(console, "One is stolen", STOLEN_SAYS)
    run(console, "device", "scrap", STOLEN, "--reason", "stolen from the dock")
    run(console, "register", "run", cloud.name)
    again = cloud.connect([STOLEN])
    plain_table(
        console,
        ["what Microsoft's client was told", "devices"],
        [["assigned to a hub", count(first, "assigned")], [f"{STOLEN}, afterwards: {again[STOLEN][:60]}", "1"]],
    )
    return count(first, "assigned") == str(len(devices)) and again[STOLEN] != "assigned"


def behind_our_back(console: Console, cloud: Cloud) -> None:
    """Every device by itself; somebody changes records; they are found and mended."""
    run(console, "register", "prepare", cloud.name)
    run(console, "register", "run", cloud.name)
    say(console, "Behind our back", BEHIND)
    records = cloud.dps.enrollments
    held = list(records.list())
    for one in held[:20]:
        records.delete(one["registrationId"])
    for one in held[20:40]:
        records.put({**one, "provisioningStatus": "disabled"})
    copied = {"certificate": (DEMO / "devices" / "th-000001" / "device.crt").read_text().partition("-----END")[0]}
    copied["certificate"] += "-----END CERTIFICATE-----\n"
    attestation = {"type": "x509", "x509": {"clientCertificates": {"primary": copied}}}
    for number in range(10):
        records.put({"registrationId": f"made-up-{number}", "attestation": attestation})
    run(console, "register", "reconcile", cloud.name, "--repair", expect=7)
    run(console, "register", "run", cloud.name)
    for number in range(10):
        records.delete(f"made-up-{number}")
    run(console, "register", "reconcile", cloud.name)


def another_cloud(console: Console, aws: EmulatedAws) -> None:
    """Tell AWS IoT of the same devices."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "emulated", "AWS_SECRET_ACCESS_KEY": "emulated"}
    (FAB / "policy.json").write_text(json.dumps(POLICY))
    options = f"mode=thing&policy=devices&policy_document=policy.json&endpoint={aws.url}&rate=100"
    with (FAB / "birthmark.toml").open("a") as settings:
        settings.write(f'\n[clouds.aws]\nuri = "aws-iot:{aws.region}?{options}"\n')
    say(console, "AWS IoT as well", OTHER)
    for act in ("prepare", "run", "reconcile"):
        run(console, "register", act, "aws")


def main() -> int:
    """Run the demo; 1 if it did not end as it should."""
    console = Console(highlight=False)
    began = time.monotonic()
    if not SDK.exists():
        raise SystemExit("Microsoft's client is missing: run `make tools`")
    if birthmark(["demo", "--directory", str(DEMO)]):
        return 1
    devices = sorted(path.name for path in (DEMO / "devices").glob("th-*"))[:CHANGED]
    with ExitStack() as stack:
        # Microsoft's client knows one port alone: demos that run side by side take an address each.
        clouds = [
            stack.enter_context(EmulatedDps(host=host, hosts=[host], assigning_s=0.2))
            for host in (f"127.77.{os.getpid() % 250}.{number}" for number in (1, 2))
        ]
        say(console, "No cloud knows them", HELD)
        by_group = Cloud("azure", clouds[0], mode="groups", ca="reference")
        let_in = meet_the_cloud(console, by_group, devices)
        behind_our_back(console, Cloud("singly", clouds[1], mode="individual"))
        another_cloud(console, stack.enter_context(EmulatedAws()))
    with console.status("checking everything again"):
        report = verify_workspace(FAB)
    say(console, "Checked again", f"{report.size:,} entries of the log, what the clouds were told among them: "
        f"{report.errors} findings.")  # fmt: skip
    console.print(f"{time.monotonic() - began:.1f} s. Next: birthmark register plan azure --devices 1000000 -C {FAB}\n")
    return 0 if let_in and not report.errors else 1


if __name__ == "__main__":
    sys.exit(main())
