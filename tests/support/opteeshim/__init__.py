"""A module with the quirks of OP-TEE's PKCS#11 interface, built with the system's compiler over SoftHSM2."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from support.softhsm import MODULE

__all__ = ["optee_module"]


@cache
def optee_module() -> Path:
    """Build the module and return its path. It loads a copy of SoftHSM2, so that it shares nothing with others."""
    directory = Path(tempfile.mkdtemp(prefix="opteeshim-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    real, built = directory / "softhsm.so", directory / "libckteec-shim.so"
    shutil.copy(MODULE, real)
    source = Path(__file__).with_name("shim.c")
    command = ["cc", "-std=gnu11", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", f'-DREAL="{real}"', str(source)]
    subprocess.run([*command, "-o", str(built), "-ldl"], check=True, capture_output=True)
    return built
