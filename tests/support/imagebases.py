"""Firmware images without an identity, made by the tools that make such images."""

from __future__ import annotations

import subprocess
from pathlib import Path

from intelhex import IntelHex
from littlefs import LittleFS

__all__ = ["FIRMWARE", "make_base", "run"]

FIRMWARE = bytes(range(256)) * 128


def run(*command: str | Path, data: bytes = b"") -> bytes:
    """Run a program that has to succeed; return what it printed."""
    done = subprocess.run([str(one) for one in command], input=data, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def make_base(path: Path, kind: str) -> None:
    """Write a small base image of this format."""
    if kind in ("bin", "squashfs"):
        path.write_bytes(FIRMWARE + b"\xff" * 0x4000 + b"end of firmware" * 100)
    elif kind == "ubi":
        path.write_bytes(FIRMWARE + b"\xff" * 0x40000 + b"end of firmware" * 100)
    elif kind == "hex":
        image = IntelHex()
        image.puts(0x0800_0000, FIRMWARE)
        image.start_addr = {"EIP": 0x0800_0101}
        image.write_hex_file(str(path))
    elif kind == "littlefs":
        system = LittleFS(block_size=4096, block_count=16)
        with system.open("/boot.cfg", "wb") as file:
            file.write(b"speed=9600\n" * 1000)
        path.write_bytes(FIRMWARE + bytes(system.context.buffer) + b"\xff" * 4096)
    elif kind == "fat":
        path.write_bytes(bytes(1 << 20))
        run("/usr/sbin/mkfs.vfat", "--invariant", path)
        run("mcopy", "-i", path, "-", "::/config.txt", data=b"arm_64bit=1\n")
    else:
        path.write_bytes(bytes(2 << 20))
        run("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-b", "1024", path)
        run("/usr/sbin/debugfs", "-w", "-R", "mkdir /etc", path)
