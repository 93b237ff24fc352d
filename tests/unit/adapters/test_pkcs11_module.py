"""The lock between processes that use one PKCS#11 library: it is given back whatever happens inside."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from birthmark.adapters import pkcs11_module as adapter
from birthmark.adapters.pkcs11_module import Pkcs11Module, pkcs11_module
from birthmark.errors import Unavailable

# Any file does: the lock does not care what is in it.
_HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "module.so").write_bytes(b"not a library")
    return tmp_path / "module.so"


@contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def _is_free(path: Path) -> bool:
    """Ask through a descriptor of its own: a lock that a child still holds counts."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_who_waits_too_long_is_told_that_nothing_was_decided(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_PATIENCE", 0.0)
    module = Pkcs11Module(path)
    with _holder(path), pytest.raises(Unavailable) as caught, module.lock, module.exclusive():
        pytest.fail("two processes were inside")
    assert caught.value.code == "key.token.busy"
    with module.lock, module.exclusive():
        pass


def test_killed_holder_leaves_nothing_locked(path: Path) -> None:
    module = Pkcs11Module(path)
    with _holder(path) as process:
        process.kill()
        with module.lock, module.exclusive(), module.exclusive():
            pass
    assert _is_free(path)


def test_child_forked_inside_does_not_keep_the_lock_that_an_error_ended(path: Path) -> None:
    module = Pkcs11Module(path)
    reading, writing = os.pipe()
    children: list[int] = []

    def fail_inside() -> None:
        with module.lock, module.exclusive():
            children.append(os.fork())
            if children[0] == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            raise ValueError("wrong PIN")

    with pytest.raises(ValueError, match="wrong PIN"):
        fail_inside()
    assert _is_free(path)
    os.close(writing)
    os.close(reading)
    assert os.waitpid(children[0], 0)[1] == 0


def test_one_library_is_one_object_whatever_its_path(path: Path) -> None:
    link = path.with_name("link.so")
    link.symlink_to(path)
    assert (
        pkcs11_module(link) is pkcs11_module(path) is pkcs11_module(path.parent / ".." / path.parent.name / path.name)
    )
