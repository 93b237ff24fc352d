"""Durable files: the old one or the new one, never a wider mode, and each failure with its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from birthmark.adapters.durable import (
    create_durably,
    destroy_durably,
    naming_os_errors,
    read_private_file,
    sync_directory,
    write_durably,
)
from birthmark.errors import Misconfigured, StationFault

WRITERS = {"write": write_durably, "create": create_durably}

# A limit on the size of files is the nearest to a full disk that needs no privileges: EFBIG in the middle of a write.
LIMITED = """
import resource, signal, sys
from pathlib import Path
from birthmark.adapters.durable import create_durably, write_durably
from birthmark.errors import BirthmarkError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    {"write": write_durably, "create": create_durably}[sys.argv[2]](Path(sys.argv[1]), b"n" * 8192, mode=0o600)
except BirthmarkError as problem:
    print(problem.code)
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400])
def test_mode_does_not_depend_on_the_umask(tmp_path: Path, writer: str, mode: int) -> None:
    before = os.umask(0o777)
    try:
        WRITERS[writer](tmp_path / "file", b"new", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o7777 == mode
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_write_replaces_and_create_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old", mode=0o644)
    write_durably(path, b"new", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (b"new", 0o600)
    with pytest.raises(FileExistsError):
        create_durably(path, b"other", mode=0o600)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_owner_is_set_before_the_file_has_its_name(tmp_path: Path) -> None:
    owner = (os.getuid(), os.getgid())
    write_durably(tmp_path / "file", b"new", mode=0o600, owner=owner)
    found = (tmp_path / "file").stat()
    assert (found.st_uid, found.st_gid) == owner


@pytest.mark.parametrize("writer", WRITERS)
def test_rest_of_a_power_cut_is_replaced(tmp_path: Path, writer: str) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half")
    (tmp_path / ".file.tmp").chmod(0o666)
    WRITERS[writer](tmp_path / "file", b"new", mode=0o600)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o600
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("writer", WRITERS)
def test_link_laid_out_as_the_temporary_file_is_not_followed(tmp_path: Path, writer: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".file.tmp").symlink_to(victim)
    WRITERS[writer](tmp_path / "file", b"new", mode=0o600)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "file").is_symlink()


def test_link_at_the_name_is_replaced_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "file").symlink_to(victim)
    write_durably(tmp_path / "file", b"new", mode=0o600)
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("writer", WRITERS)
def test_file_that_does_not_fit_leaves_nothing(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "file"
    if writer == "write":
        path.write_bytes(b"old")
    before = names(tmp_path)
    command = [sys.executable, "-c", LIMITED, str(path), writer]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "storage.failed"
    assert names(tmp_path) == before
    if writer == "write":
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("writer", WRITERS)
def test_missing_directory_and_file_in_place_of_one_are_named(tmp_path: Path, writer: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    for parent in ("nowhere", "file"):
        with pytest.raises(StationFault) as caught:
            WRITERS[writer](tmp_path / parent / "key", b"new", mode=0o600)
        assert caught.value.code == "storage.missing"
        assert caught.value.facts["path"] == str(tmp_path / parent / "key")


@pytest.mark.parametrize(
    ("number", "code"),
    [(28, "storage.full"), (122, "storage.full"), (30, "storage.read_only"), (13, "storage.read_only"),
     (1, "storage.read_only"), (2, "storage.missing"), (20, "storage.missing"), (5, "storage.failed")],
)  # fmt: skip
def test_each_error_of_the_system_has_its_code(tmp_path: Path, number: int, code: str) -> None:
    with pytest.raises(StationFault) as caught, naming_os_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == code


def test_sync_of_a_directory_that_went_away_is_named(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    with pytest.raises(StationFault) as caught:
        sync_directory(tmp_path / "nowhere")
    assert caught.value.code == "storage.missing"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_private_file_that_others_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"private")
    path.chmod(mode)
    with pytest.raises(Misconfigured) as caught:
        read_private_file(path)
    assert caught.value.code == "key.file.mode"
    path.chmod(0o600)
    assert read_private_file(path) == b"private"


def test_directory_in_place_of_a_private_file_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(Misconfigured) as caught:
        read_private_file(tmp_path)
    assert caught.value.code == "key.file.malformed"


def test_a_destroyed_file_holds_zeros_before_its_name_is_gone(tmp_path: Path) -> None:
    path, other = tmp_path / "key", tmp_path / "second name"
    path.write_bytes(b"secret" * 1000)
    os.link(path, other)
    assert destroy_durably(path)
    assert names(tmp_path) == ["second name"]
    assert other.read_bytes() == bytes(6000)
    assert not destroy_durably(path)


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_is_no_plain_file_is_not_destroyed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "victim").write_bytes(b"victim")
    path = tmp_path / "key"
    makers = {"link": lambda: path.symlink_to("victim"), "directory": path.mkdir, "pipe": lambda: os.mkfifo(path)}
    makers[kind]()
    with pytest.raises(StationFault):
        destroy_durably(path)
    assert (tmp_path / "victim").read_bytes() == b"victim"
    assert "key" in names(tmp_path)
