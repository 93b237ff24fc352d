"""From the line to AWS IoT by the commands: planned, prepared, told, compared, changed behind our back, mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from birthmark.shell.cli.main import main
from birthmark.shell.throwaway import make_workspace
from support.clouds.aws_iot import POLICY, REGION, ROLE, AwsPlace, aws_place

HELD = {"thing": 3, "bulk": 3, "jitp": 1}


def made_by_the_line(place: AwsPlace, mode: str) -> list[str]:
    """Three devices of the line, the third scrapped, in a workspace that knows the cloud; return its options."""
    root, url = place.directory / "fab", place.aws.url
    make_workspace(root, preset="aws-iot")
    (root / "policy.json").write_text(json.dumps(POLICY))
    more = {"thing": "", "bulk": f"&bucket=lists&role={ROLE}&s3_endpoint={url}", "jitp": f"&role={ROLE}"}[mode]
    uri = f"aws-iot:{REGION}?mode={mode}&policy=devices&policy_document=policy.json&rate=1000&endpoint={url}{more}"
    with (root / "birthmark.toml").open("a") as settings:
        settings.write(f'\n[clouds.aws]\nuri = "{uri}"\n')
    options = ["-C", str(root), "--json"]
    order = ["--product", "device", "--quantity", "3", "--first", "TH-0001", "--key-origin", "device"]
    assert main(["order", "create", "lot", *order, *options]) == 0
    for name in ("TH-0001", "TH-0002", "TH-0003"):
        (place.directory / name).mkdir()
        told = ["--device-serial", name, "--target", f"files:{place.directory / name}?key=born"]
        assert main(["station", "provision", *told, *options]) == 0
    assert main(["device", "scrap", "TH-0003", "--reason", "dropped", *options]) == 0
    return options


@pytest.mark.parametrize("mode", sorted(HELD))
def test_devices_of_the_line_are_told_and_compared(tmp_path: Path, mode: str) -> None:
    with aws_place(tmp_path, f"mode={mode}") as place:
        options = made_by_the_line(place, mode)
        before = place.front.count
        assert main(["register", "plan", "aws", *options]) == 0
        assert place.front.count == before
        for command in (["prepare", "aws"], ["run", "aws"], ["reconcile", "aws"]):
            assert main(["register", *command, *options]) == 0
        registry = place.aws.registry
        assert len(registry.things) == HELD[mode]
        assert sorted(one.status for one in registry.certificates.values()) == ["ACTIVE"] * (HELD[mode] - 1) + [
            "INACTIVE"
        ]
        (scrapped,) = (one for one in registry.certificates.values() if one.status == "INACTIVE")
        scrapped.status = "ACTIVE"
        assert main(["register", "reconcile", "aws", *options]) == 7
        assert main(["register", "reconcile", "aws", "--repair", *options]) in (0, 7)
        assert main(["register", "run", "aws", *options]) == 0
        assert scrapped.status == "INACTIVE"
        assert main(["register", "reconcile", "aws", *options]) == 0
