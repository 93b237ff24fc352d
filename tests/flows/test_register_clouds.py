"""Several clouds at once, one that is not there, one whose run is interrupted; devices that come home from sites."""

from __future__ import annotations

import base64
import hmac
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509

from birthmark.adapters.clouds.azure_dps.hubs import Hubs
from birthmark.shell.bench.register import bench_register
from birthmark.shell.bench.verified import make_verified
from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.testing.dps import EmulatedDps, FaultPlan
from support.dpsdevices import VERSION, call
from support.dpsservice import ARM
from support.fences import PowerCut
from support.sitepair import Pair, provision, report, take


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    make_workspace(place / "fab")
    with open_workspace(place / "fab") as workspace:
        make_verified(workspace, 60)
    return place / "fab"


@pytest.fixture
def fab(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "fab"))


def add_cloud(fab: Path, name: str, uri: str) -> None:
    with (fab / "birthmark.toml").open("a") as file:
        file.write(f'\n[clouds.{name}]\nuri = "{uri}"\n')


def emulated(fab: Path, dps: EmulatedDps, **options: str) -> str:
    secret = fab / "secrets" / "dps-key"
    secret.touch(mode=0o600)
    secret.write_text(dps.key)
    (fab / "dps-root.pem").write_text(dps.root_pem)
    chosen = {"key": f"file:{secret}", "trust": "dps-root.pem", **options}
    if options.get("mode") != "individual":
        token = fab / "secrets" / "dps-token"
        token.touch(mode=0o600)
        token.write_text(dps.management_token)
        chosen |= {"arm": ARM, "arm-host": f"{dps.host}:{dps.https_port}", "arm-token": f"file:{token}"}
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in chosen.items())
    return f"azure-dps:{dps.host}:{dps.https_port}?{query}"


def ask(capsys: pytest.CaptureFixture[str], fab: Path, *command: str) -> tuple[int, list[dict[str, Any]]]:
    capsys.readouterr()
    code = main([*command, "-C", str(fab), "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_cloud_that_is_not_there_does_not_stop_the_others(fab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmulatedDps(mqtt_port=0) as dps:
        add_cloud(fab, "here", emulated(fab, dps, mode="individual"))
        add_cloud(fab, "files", "export:registry")
        with EmulatedDps(mqtt_port=0) as gone:
            add_cloud(fab, "gone", emulated(fab, gone, mode="individual"))
            (fab / "secrets" / "dps-key").write_text(dps.key)
            (fab / "dps-root.pem").write_text(dps.root_pem)
        code, (runs, problem) = ask(capsys, fab, "register", "run", "--patience", "0.01")
        assert code == 6
        assert problem["error"] == "cloud.unreachable"
        found = {one["name"]: (one["done"], one["left"], one["error"]) for one in runs["clouds"]}
        assert found == {"here": (60, 0, None), "files": (60, 0, None), "gone": (0, 60, "cloud.unreachable")}
        assert ask(capsys, fab, "register", "reconcile", "here")[0] == 0


def test_groups_need_to_be_prepared_first_and_then_cost_nothing(fab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with EmulatedDps(mqtt_port=0) as dps:
        add_cloud(fab, "dps", emulated(fab, dps))
        code, documents = ask(capsys, fab, "register", "run")
        assert (code, documents[-1]["error"]) == (3, "register.prepare")
        assert ask(capsys, fab, "register", "prepare", "dps")[0] == 0
        code, documents = ask(capsys, fab, "register", "run")
        (cloud,) = documents[0]["clouds"]
        assert (code, cloud["covered"], cloud["left"]) == (0, 60, 0)
        assert cloud["calls"] < 10
        assert main(["device", "scrap", "th-0000007", "--reason", "dropped", "-C", str(fab), "--json"]) == 0
        (cloud,) = ask(capsys, fab, "register", "run")[1][0]["clouds"]
        assert cloud["done"] == 1
        code, lines = ask(capsys, fab, "register", "reconcile", "dps")
        assert (code, lines[-1]["held"], lines[-1]["alike"]) == (0, 1, 1)


def test_interrupted_a_run_settles_what_it_asked_and_goes_on_later(
    fab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with EmulatedDps(mqtt_port=0, faults=FaultPlan(latency_s=0.3)) as dps:
        add_cloud(fab, "dps", emulated(fab, dps, mode="individual", lanes="1"))
        command = [Path(sys.executable).parent / "birthmark", "register", "run", "-C", str(fab), "--json"]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
        path, end = fab / "register" / "dps.db", time.monotonic() + 60

        def states() -> dict[int, int]:
            with closing(sqlite3.connect(path, timeout=30)) as book:
                return dict(book.execute("SELECT state, count(*) FROM registration GROUP BY state").fetchall())

        while time.monotonic() < end:
            try:
                if path.exists() and states().get(2):
                    break
            except sqlite3.OperationalError:
                pass  # it is being made
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        out, errors = run.communicate(timeout=60)
        assert run.returncode == 130, (out, errors)
        found = states()
        assert 1 not in found, "nothing is left as asked"
        assert 0 < found[2] < 60
        dps.faults.set(FaultPlan())
        (cloud,) = ask(capsys, fab, "register", "run")[1][0]["clouds"]
        assert (cloud["done"], cloud["repeated"], cloud["left"]) == (60 - found[2], 0, 0)


def test_two_runs_of_one_cloud_do_not_meet(fab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_cloud(fab, "files", "export:registry")
    with open_workspace(fab, publish=False) as workspace, workspace.lock("register-files"):
        for command in (("run",), ("reconcile", "files"), ("parked", "files")):
            code, documents = ask(capsys, fab, "register", *command)
            assert (code, documents[-1]["error"]) == (6, "workspace.busy")


def test_the_bench_keeps_its_promises(tmp_path: Path) -> None:
    """Few devices make a bad ratio, since a killed round costs as much as in a long run; the rest always holds."""
    result: dict[str, Any] = bench_register(400, parent=tmp_path, reconcile=True)
    assert (result["reconcile_alike"], result["reconcile_differences"]) == (400, 0)
    assert result["repeated_calls"] <= 4
    assert result["back_offs"] == 0, "never faster than the limits"
    assert 0 < result["ratio"] < 1.2
    files: dict[str, Any] = bench_register(400, parent=tmp_path, cloud="export")
    assert files["repeated_calls"] <= 1


def registry(pair: Pair) -> dict[str, dict[str, Any]]:
    lines = (pair.hq / "registry" / "devices.jsonl").read_text().splitlines()
    return {line["device_serial"]: line for line in map(json.loads, lines)}


@pytest.mark.parametrize("mode", ["pool", "factory_ca"])
def test_devices_of_a_site_without_a_network_are_told_when_it_comes_home(
    tmp_path: Path, mode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Pair.make(tmp_path)
    add_cloud(pair.hq, "files", "export:registry")
    serials = [f"PL-{number:04d}" for number in range(4)]
    site = pair.add_site("fab-1", mode)
    pair.order("lot", site, serials)
    pair.send("lot", site)
    provision(site, *serials[:2])
    assert ask(capsys, pair.hq, "register", "run")[1][0]["clouds"][0]["done"] == 0, "nobody knows yet"
    first = report(site, tmp_path / "1.report")
    take(pair, first)
    assert ask(capsys, pair.hq, "register", "run")[1][0]["clouds"][0]["done"] == 2
    found = registry(pair)
    assert {serial: one["standing"] for serial, one in found.items()} == dict.fromkeys(serials[:2], "enabled")
    for one in found.values():
        leaf = x509.load_pem_x509_certificate(one["certificates"][0].encode())
        issuer = (pair.hq / "registry" / "ca" / f"{one['chain'][0]}.pem").read_bytes()
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer))
    provision(site, serials[2])
    take(pair, report(site, tmp_path / "2.report"))
    assert main(["device", "scrap", serials[0], "--reason", "lost", "-C", str(pair.hq), "--json"]) == 0
    assert ask(capsys, pair.hq, "register", "run")[1][0]["clouds"][0]["done"] == 2
    assert {serial: one["standing"] for serial, one in registry(pair).items()} == {
        serials[0]: "blocked",
        serials[1]: "enabled",
        serials[2]: "enabled",
    }
    assert ask(capsys, pair.hq, "register", "reconcile", "files")[0] == 0
    exported = {line["device_serial"]: line for line in ask(capsys, pair.hq, "export")[1] if "change" in line}
    assert {one["site"] for one in exported.values() if one["change"] == "verified"} == {"fab-1"}
    assert {serial: exported[serial]["change"] for serial in serials[:3]} == {
        serials[0]: "scrapped",
        serials[1]: "verified",
        serials[2]: "verified",
    }
    assert exported[serials[1]]["certificate"] == registry(pair)[serials[1]]["certificates"][0]
    pair.replay()
    code, documents = ask(capsys, site.root, "register", "run")
    assert (code, documents[-1]["error"]) == (2, "settings.cloud")
    add_cloud(site.root, "files", "export:registry")
    code, documents = ask(capsys, site.root, "register", "run")
    assert (code, documents[-1]["error"]) == (2, "register.site")


HUB, OTHER_HUB = "a.azure-devices.net", "b.azure-devices.net"


def power_cut(*arguments: object) -> None:
    raise PowerCut


def test_blocked_devices_are_shut_out_of_hubs_parked_where_no_hub_is_named_and_compared(
    fab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmulatedDps(mqtt_port=0, hubs=[HUB, OTHER_HUB], assigning_s=0) as dps:
        key = keep(fab, "hub-a", dps.hubs[HUB].key)
        add_cloud(fab, "dps", emulated(fab, dps) + f"&hub-host={dps.host}:{dps.https_port}")
        add_hubs(fab, f'"{HUB}" = "file:{key}"')
        plan = ask(capsys, fab, "register", "plan", "dps")[1]
        assert "each blocked device disabled in its hub as well: 3 calls as a rule, 5 at most" in json.dumps(plan)
        assert f"hub {HUB}: lets us in" in json.dumps(ask(capsys, fab, "register", "prepare", "dps")[1])
        for name in ("th-0000001", "th-0000002"):
            dps.hubs[HUB].put({"deviceId": name, "authentication": {"type": "certificateAuthority"}})
        assign_by_key(dps, "th-0000003", OTHER_HUB)
        for name in ("th-0000001", "th-0000003"):
            assert main(["device", "scrap", name, "--reason", "stolen", "-C", str(fab), "--json"]) == 0
        with monkeypatch.context() as patch:
            patch.setattr(Hubs, "block", power_cut)
            with pytest.raises(PowerCut):
                main(["register", "run", "-C", str(fab), "--json"])
        assert dps.enrollments.get("th-0000001")["provisioningStatus"] == "disabled"
        assert dps.hubs[HUB].get("th-0000001")["status"] == "enabled"
        (cloud,) = ask(capsys, fab, "register", "run")[1][0]["clouds"]
        assert (cloud["done"], cloud["parked"]) == (1, 1)
        assert cloud["repeated"] >= 2
        assert [one["status"] for one in dps.hubs[HUB].list()] == ["disabled", "enabled"]
        code, lines = ask(capsys, fab, "register", "parked", "dps")
        text = json.dumps(lines)
        assert '"cloud.hub.unknown"' in text
        assert f"it was assigned to {OTHER_HUB}: name that hub in hubs of this cloud" in text
        assert "parked NAME --retry" in text
        dps.hubs[HUB].put({**dps.hubs[HUB].get("th-0000001"), "status": "enabled"})
        code, lines = ask(capsys, fab, "register", "reconcile", "dps", "--repair")
        text = json.dumps(lines)
        assert f"it is enabled in {HUB}, not blocked" in text
        assert f"it is enabled in {OTHER_HUB} perhaps, which hubs does not name, not blocked" in text
        add_hubs(fab, f'"{OTHER_HUB}" = "file:{keep(fab, "hub-b", dps.hubs[OTHER_HUB].key)}"')
        (cloud,) = ask(capsys, fab, "register", "run")[1][0]["clouds"]
        assert (cloud["done"], cloud["left"]) == (2, 0)
        assert dps.hubs[HUB].get("th-0000001")["status"] == "disabled"
        assert dps.hubs[OTHER_HUB].get("th-0000003")["status"] == "disabled"
        code, lines = ask(capsys, fab, "register", "reconcile", "dps")
        assert (code, lines[-1]["alike"]) == (0, 2)


def test_hubs_of_a_cloud_that_has_none_are_refused(fab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_cloud(fab, "files", "export:registry")
    add_hubs(fab, f'"{HUB}" = "env:KEY"')
    code, documents = ask(capsys, fab, "register", "run")
    assert (code != 0, "settings.hubs" in json.dumps(documents)) == (True, True)
    assert not (fab / "registry").exists()


def keep(fab: Path, name: str, value: str) -> Path:
    place = fab / "secrets" / name
    place.touch(mode=0o600)
    place.write_text(value)
    return place


def add_hubs(fab: Path, line: str) -> None:
    """Name a hub of the cloud that was added last."""
    file = fab / "birthmark.toml"
    text, last = file.read_text().rstrip(), "[clouds.dps.hubs]"
    with file.open("w") as written:
        cloud = text.rpartition("[clouds.")[2].partition("]")[0]
        table = "" if last in text else f"\n[clouds.{cloud}.hubs]"
        written.write(f"{text}\n{table}\n{line}\n")


def assign_by_key(dps: EmulatedDps, name: str, hub: str) -> None:
    """A device registers by a key that somebody gave it, and is assigned to a hub that this workspace does not name."""
    key = os.urandom(32)
    keys = {slot: base64.b64encode(key).decode() for slot in ("primaryKey", "secondaryKey")}
    attestation = {"type": "symmetricKey", "symmetricKey": keys}
    dps.enrollments.put({"registrationId": name, "attestation": attestation, "iotHubs": [hub]})
    audience, ends = quote(f"{dps.id_scope}/registrations/{name}", safe=""), int(time.time()) + 600
    signature = base64.b64encode(hmac.digest(key, f"{audience}\n{ends}".encode(), "sha256")).decode()
    token = f"SharedAccessSignature sr={audience}&sig={quote(signature, safe='')}&se={ends}&skn=registration"
    path = f"/{dps.id_scope}/registrations/{name}/register{VERSION}"
    status, body, _ = call(dps, "PUT", path, {"registrationId": name}, Authorization=token)
    assert (status, body["registrationState"]["assignedHub"]) == (200, hub)
    dps.enrollments.delete(name)
