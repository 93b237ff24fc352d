"""Durable files under writers at once, kills and failing system calls: old or new, never half."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from birthmark.adapters.durable import create_durably, read_private_file, write_durably
from birthmark.errors import Misconfigured, StationFault
from support.faultline import KILL, strike

PROGRAM = """
import sys
from pathlib import Path
from birthmark.adapters.durable import create_durably, write_durably
from birthmark.errors import StationFault
act = {"create": create_durably, "write": write_durably}[sys.argv[1]]
try:
    act(Path(sys.argv[2]), b"new" * 1000, mode=0o600)
    print("done")
except StationFault as fault:
    print(fault.code)
"""


def _program(directory: Path) -> Path:
    program = directory / "program.py"
    program.write_text(PROGRAM)
    return program


class TestWriting:
    def test_a_file_has_its_content_and_mode_whatever_the_umask(self, tmp_path: Path):
        before = os.umask(0o777)
        try:
            write_durably(tmp_path / "a", b"one", mode=0o640)
        finally:
            os.umask(before)
        assert (tmp_path / "a").read_bytes() == b"one"
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
        assert os.listdir(tmp_path) == ["a"]

    def test_an_existing_file_is_kept_by_create(self, tmp_path: Path):
        create_durably(tmp_path / "a", b"one", mode=0o600)
        with pytest.raises(FileExistsError):
            create_durably(tmp_path / "a", b"two", mode=0o600)
        assert (tmp_path / "a").read_bytes() == b"one"
        assert os.listdir(tmp_path) == ["a"]

    def test_a_symbolic_link_is_no_way_out(self, tmp_path: Path):
        (tmp_path / "victim").write_bytes(b"victim")
        (tmp_path / ".a.tmp").symlink_to(tmp_path / "victim")
        write_durably(tmp_path / "a", b"one", mode=0o600)
        assert (tmp_path / "victim").read_bytes() == b"victim"
        assert (tmp_path / "a").read_bytes() == b"one"

    def test_what_a_dead_writer_left_does_not_hurt_the_file_it_made(self, tmp_path: Path):
        create_durably(tmp_path / "a", b"one", mode=0o600)
        # Power was cut between giving the name and taking away the temporary one.
        (tmp_path / ".a.tmp").hardlink_to(tmp_path / "a")
        with pytest.raises(FileExistsError):
            create_durably(tmp_path / "a", b"two", mode=0o600)
        assert (tmp_path / "a").read_bytes() == b"one"
        write_durably(tmp_path / "a", b"three", mode=0o600)
        assert os.listdir(tmp_path) == ["a"]

    @pytest.mark.parametrize("act", [create_durably, write_durably])
    def test_many_writers_of_one_name(self, tmp_path: Path, act):
        contents = [bytes([number]) * 200_000 for number in range(16)]

        def one(content: bytes) -> bool:
            try:
                act(tmp_path / "a", content, mode=0o600)
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(one, contents))
        kept = (tmp_path / "a").read_bytes()
        assert kept in contents
        assert os.listdir(tmp_path) == ["a"]
        if act is create_durably:
            assert [content for content, first in zip(contents, won, strict=True) if first] == [kept]
        else:
            assert all(won)


class TestFaults:
    @pytest.mark.parametrize("act", ["create", "write"])
    @pytest.mark.parametrize("call", ["write", "fsync", "rename,link,linkat", "fchmod", "unlink,unlinkat"])
    def test_a_kill_leaves_the_old_or_the_new(self, tmp_path: Path, act: str, call: str):
        path, strikes = tmp_path / "a", 0
        while True:
            path.unlink(missing_ok=True)
            if act == "write":
                path.write_bytes(b"old")
            struck, _ = strike(_program(tmp_path), act, path, call=call, fault=KILL, when=strikes + 1)
            if act == "write" or path.exists():
                assert path.read_bytes() in (b"old" if act == "write" else b"new" * 1000, b"new" * 1000)
            if not struck:
                break
            strikes += 1
        write_durably(path, b"later", mode=0o600)
        assert not (tmp_path / ".a.tmp").exists()

    @pytest.mark.parametrize(("fault", "code"), [("ENOSPC", "storage.full"), ("EIO", "storage.failed")])
    @pytest.mark.parametrize("act", ["create", "write"])
    @pytest.mark.parametrize("call", ["write", "fsync", "rename,link,linkat", "fchmod"])
    def test_an_error_has_its_code_and_leaves_no_half(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, call: str, fault: str, code: str
    ):
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        path = tmp_path / "a"
        if act == "write":
            path.write_bytes(b"old")
        struck, said = strike(_program(tmp_path), act, path, call=call, fault=f"error={fault}", when=1)
        assert struck
        assert said == f"{code}\n"
        assert not (tmp_path / ".a.tmp").exists()
        assert path.exists() == (act == "write")

    def test_a_file_that_grows_over_its_limit(self, tmp_path: Path):
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        command = [sys.executable, _program(tmp_path), "create", tmp_path / "a"]
        ran = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=True)
        assert ran.stdout == "storage.failed\n"
        assert sorted(os.listdir(tmp_path)) == ["program.py"]

    @pytest.mark.parametrize("act", [create_durably, write_durably])
    def test_a_directory_that_is_not_there_or_no_directory(self, tmp_path: Path, act):
        (tmp_path / "file").touch()
        for parent in ("missing", "file"):
            with pytest.raises(StationFault) as raised:
                act(tmp_path / parent / "a", b"", mode=0o600)
            assert raised.value.code == "storage.missing"

    def test_a_read_only_directory(self, tmp_path: Path):
        directory = tmp_path / "closed"
        directory.mkdir(mode=0o555)
        struck, said = strike(
            _program(tmp_path), "create", directory / "a", call="openat", fault="error=EROFS", when=_opens(tmp_path)
        )
        assert struck
        assert said == "storage.read_only\n"


def _opens(directory: Path) -> int:
    """Return which openat of the program is the one that makes the temporary file."""
    trace = directory / "opens"
    command = ["strace", "-f", "-qq", "-o", trace, "-e", "trace=openat", sys.executable, _program(directory)]
    subprocess.run([*command, "create", directory / "probe"], check=True, capture_output=True)
    lines = trace.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if ".probe.tmp" in line)


class TestReading:
    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
    def test_a_file_that_others_can_touch_is_not_read(self, tmp_path: Path, mode: int):
        path = tmp_path / "a"
        path.write_bytes(b"one")
        path.chmod(mode)
        with pytest.raises(Misconfigured) as raised:
            read_private_file(path)
        assert raised.value.code == "key.file.mode"
        path.chmod(0o400)
        assert read_private_file(path) == b"one"

    def test_what_is_no_plain_file_is_not_waited_for(self, tmp_path: Path):
        os.mkfifo(tmp_path / "pipe", 0o600)
        (tmp_path / "directory").mkdir(0o700)
        for name in ("pipe", "directory"):
            with pytest.raises(Misconfigured) as raised:
                read_private_file(tmp_path / name)
            assert raised.value.code == "key.file.malformed"

    @pytest.mark.parametrize("name", ["missing", "x" * 300, "nul\0"])
    def test_a_file_that_is_not_there(self, tmp_path: Path, name: str):
        with pytest.raises(Misconfigured) as raised:
            read_private_file(tmp_path / name)
        assert raised.value.code == "key.file.missing"
