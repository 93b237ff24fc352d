"""``export:DIRECTORY``: the file is the truth; what a power cut tore is cut off, what somebody broke is named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from birthmark.adapters.clouds.export import ExportCloud
from birthmark.errors import Misconfigured, StationFault, Tampered
from birthmark.model.secret import Secret
from birthmark.ports import CloudRecord
from support.clouds.fleet import Fleet

FLEET = Fleet()
TOLD = [FLEET.registration(f"unit-{number}", "blocked" if number == 2 else "enabled") for number in range(4)]


def no_secrets(reference: str) -> Secret:
    raise AssertionError(reference)


def open_export(base: Path) -> ExportCloud:
    return ExportCloud("export:registry", secrets=no_secrets, base=base)


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    cloud = open_export(tmp_path)
    cloud.tell(TOLD)
    cloud.close()
    return tmp_path / "registry"


def held(base: Path) -> dict[str, CloudRecord]:
    cloud = open_export(base)
    found = {record.key: record for record in cloud.page("").records}
    cloud.close()
    return found


def lines(registry: Path) -> Iterator[dict[str, Any]]:
    for text in (registry / "devices.jsonl").read_bytes().splitlines():
        yield json.loads(text)


def test_any_program_reads_it(registry: Path) -> None:
    from cryptography import x509

    for told, line in zip(TOLD, lines(registry), strict=True):
        assert (line["device_serial"], line["standing"]) == (told.device_serial, told.standing)
        (pem,) = line["certificates"]
        certificate = x509.load_pem_x509_certificate(pem.encode())
        issuer = x509.load_pem_x509_certificate((registry / "ca" / f"{line['chain'][0]}.pem").read_bytes())
        certificate.verify_directly_issued_by(issuer)


@pytest.mark.parametrize("torn", [b'{"device_ser', b"\0" * 500, b'{"x":1}\n', b"\0\n\0\0\n", b"{" * 5000])
def test_a_power_cut_in_the_middle_of_a_write_costs_what_was_not_acknowledged(registry: Path, torn: bytes) -> None:
    path = registry / "devices.jsonl"
    good = path.read_bytes()
    with path.open("ab") as file:
        file.write(torn)
    assert set(held(registry.parent)) == {told.device_serial for told in TOLD}
    assert path.read_bytes() == good
    assert (registry / "torn").read_bytes() == torn + b"\n"


def test_the_index_may_be_lost_or_broken(registry: Path) -> None:
    before = held(registry.parent)
    for name in list(registry.glob("index.db*")):
        name.unlink()
    assert held(registry.parent) == before
    for path in registry.glob("index.db*"):
        path.unlink()
    (registry / "index.db").write_bytes(b"this is no database at all, and long enough to be looked at" * 100)
    assert held(registry.parent) == before


def test_lines_that_the_index_did_not_see_are_read_from_the_file(registry: Path) -> None:
    """A power cut may lose what the index wrote last; the file has it."""
    index = (registry / "index.db").read_bytes()
    cloud = open_export(registry.parent)
    cloud.tell([FLEET.registration("unit-9")])
    cloud.close()
    for path in registry.glob("index.db*"):
        path.unlink()
    (registry / "index.db").write_bytes(index)
    assert "unit-9" in held(registry.parent)
    cloud = open_export(registry.parent)
    assert [outcome.kind for outcome in cloud.tell(TOLD)] == ["same"] * 4
    cloud.close()


def test_damage_in_the_middle_is_named_and_nothing_is_cut(registry: Path) -> None:
    path = registry / "devices.jsonl"
    data = path.read_bytes().replace(b'"enabled"', b'"allowed"', 1)
    path.write_bytes(data)
    for act in (lambda cloud: cloud.tell(TOLD), lambda cloud: cloud.page("")):
        cloud = open_export(registry.parent)
        with pytest.raises(Tampered, match=r"cloud\.export\.malformed"):
            act(cloud)
        cloud.close()
    assert path.read_bytes() == data


def test_two_programs_may_write_it_at_once(registry: Path) -> None:
    one, two = open_export(registry.parent), open_export(registry.parent)
    for number in range(10, 20):
        (one if number % 2 else two).tell([FLEET.registration(f"unit-{number}", certificates=0, standing="blocked")])
    assert len(one.page("").records) == len(two.page("").records) == 14
    one.close()
    two.close()


def test_a_disk_that_fails_is_named(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = open_export(registry.parent)
    cloud.page("")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StationFault, match=r"storage\.full"):
            cloud.tell([FLEET.registration("unit-7")])
    assert [outcome.kind for outcome in cloud.tell([FLEET.registration("unit-7")])] == ["done"]
    cloud.close()


@pytest.mark.parametrize("uri", ["export:", "export", "export:a?b=c", "export:a\0b", "other:a"])
def test_what_names_no_directory_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"cloud\.export\.uri"):
        ExportCloud(uri, secrets=no_secrets, base=tmp_path)
    assert list(tmp_path.iterdir()) == []
