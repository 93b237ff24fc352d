"""The laws of ``ports.LogStore``, for every place a log is published to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from birthmark.adapters.logstore import FileLogStore
from birthmark.errors import StationFault
from birthmark.ports import LogStore

KINDS: dict[str, Callable[[Path], LogStore]] = {"files": lambda directory: FileLogStore(directory / "log")}
TILE, PARTIAL, DEEP = "tile/0/000", "tile/0/001.p/7", "tile/entries/x001/067"


@pytest.fixture(params=list(KINDS))
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], LogStore]:
    return lambda: KINDS[request.param](tmp_path)


class TestLogStore:
    def test_what_was_written_is_read(self, opening: Callable[[], LogStore]):
        store = opening()
        for path in (TILE, PARTIAL, DEEP):
            store.write(path, path.encode())
        store.publish(b"checkpoint 1")
        again = opening()
        assert [again.read(path) for path in (TILE, PARTIAL, DEEP)] == [TILE.encode(), PARTIAL.encode(), DEEP.encode()]
        assert again.read("checkpoint") == b"checkpoint 1"

    def test_what_is_not_there_is_none(self, opening: Callable[[], LogStore]):
        store = opening()
        assert store.read("checkpoint") is None
        store.write(TILE, b"x")
        assert store.read(DEEP) is None
        assert store.read(TILE + "/5") is None

    def test_writing_again_is_the_same(self, opening: Callable[[], LogStore]):
        store = opening()
        for _ in range(2):
            store.write(PARTIAL, b"hashes")
            store.publish(b"checkpoint")
        assert store.read(PARTIAL) == b"hashes"

    def test_a_checkpoint_is_shown_only_by_publish(self, opening: Callable[[], LogStore]):
        store = opening()
        store.write(PARTIAL, b"x")
        store.publish(b"checkpoint 1")
        store.write(TILE, b"x")
        assert opening().read("checkpoint") == b"checkpoint 1"
        store.publish(b"checkpoint 2")
        assert opening().read("checkpoint") == b"checkpoint 2"

    def test_a_full_tile_takes_the_place_of_its_parts_when_it_is_shown(self, opening: Callable[[], LogStore]):
        store = opening()
        for width in (3, 9):
            store.write(f"{TILE}.p/{width}", b"part")
        store.publish(b"checkpoint 1")
        store.write(TILE, b"full")
        assert store.read(f"{TILE}.p/9") == b"part"
        store.publish(b"checkpoint 2")
        assert store.read(f"{TILE}.p/9") is None
        assert store.read(TILE) == b"full"


class TestFiles:
    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Every file and directory in the order in which it was made durable."""
        synced: list[str] = []
        fsync = os.fsync

        def watch(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", watch)
        return synced

    def test_everything_is_durable_before_the_checkpoint(self, tmp_path: Path, synced: list[str]):
        log = tmp_path / "log"
        store = FileLogStore(log)
        store.write(PARTIAL, b"x")
        store.write(DEEP, b"y")
        assert synced == []
        store.publish(b"checkpoint")
        needed = {
            log / PARTIAL, log / "tile/0/001.p", log / "tile/0", log / "tile", log, tmp_path,
            log / DEEP, log / "tile/entries/x001", log / "tile/entries",
        }  # fmt: skip
        first_checkpoint = next(at for at, path in enumerate(synced) if "checkpoint" in path)
        assert {Path(path) for path in synced[:first_checkpoint]} == needed
        assert synced[-1] == str(log)
        synced.clear()
        store.write(DEEP, b"y")
        store.publish(b"checkpoint")
        assert len(synced) == 4

    @pytest.mark.parametrize(
        ("number", "code"),
        [(errno.ENOSPC, "storage.full"), (errno.EIO, "storage.failed"), (errno.EROFS, "storage.read_only")],
    )
    def test_a_disk_that_fails_shows_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
    ):
        store = FileLogStore(tmp_path)
        store.publish(b"checkpoint 1")
        store.write(TILE, b"x")

        def fail(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StationFault, check=lambda fault: fault.code == code):
                store.publish(b"checkpoint 2")
        assert store.read("checkpoint") == b"checkpoint 1"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "tile"]

    def test_a_path_that_cannot_be_read_or_written_is_named(self, tmp_path: Path):
        store = FileLogStore(tmp_path)
        (tmp_path / "checkpoint").mkdir()
        with pytest.raises(StationFault, match=r"storage\.failed"):
            store.read("checkpoint")
        (tmp_path / "tile").write_bytes(b"a file")
        with pytest.raises(StationFault, match=r"storage\."):
            store.write(TILE, b"x")
