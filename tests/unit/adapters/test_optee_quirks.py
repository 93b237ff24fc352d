"""The module that stands for OP-TEE's PKCS#11 interface really has its quirks. Judge: ``pkcs11-tool``."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.devicetoken import make_token, start_tokens
from support.opteeshim import optee_module

_NOT_SUPPORTED, _NOT_PARALLEL = 0x54, 0x51


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * 68))


def test_three_slots_of_which_one_has_our_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_tokens(tmp_path / "tokens", monkeypatch)
    make_token("SN-0001")
    command = ["pkcs11-tool", "--module", str(optee_module()), "--list-slots"]
    shown = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"^Slot \d+ \((0x[0-9a-f]+)\)", shown, re.M) == ["0x0", "0x1", "0x2"]
    assert re.findall(r"token label +: (.*)", shown) == ["SN-0001"]
    assert "uninitialized" in shown


def test_what_optee_has_not_is_not_there() -> None:
    library = ctypes.CDLL(str(optee_module()))
    table = ctypes.POINTER(_FunctionList)()
    assert library.C_GetFunctionList(ctypes.byref(table)) == 0
    kind = ctypes.CFUNCTYPE(ctypes.c_ulong, *(ctypes.c_void_p,) * 3)

    def answer(place: int) -> int:
        return int(kind(table.contents.functions[place])(None, None, None))

    assert {answer(place) for place in (16, 17, 46, 47, 52, 53, 54, 55, 56, 57, 67)} == {_NOT_SUPPORTED}
    assert {answer(place) for place in (65, 66)} == {_NOT_PARALLEL}
