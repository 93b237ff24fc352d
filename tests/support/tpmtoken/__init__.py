"""PKCS#11 tokens whose keys live in a TPM: libtpm2-pkcs11 on swtpm. Its own tool makes them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from support.softhsm import PIN, SO_PIN
from support.swtpm import Swtpm, made_state

__all__ = ["TPM_MODULE", "TpmToken"]

TPM_MODULE = Path("/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1")
_TOOL = ("/usr/bin/python3", "/usr/bin/tpm2_ptool")  # it belongs to the system's Python


class TpmToken:
    """A TPM with one token. The store beside it holds what the TPM has wrapped; keys never leave the TPM."""

    def __init__(self, directory: Path, label: str) -> None:
        shutil.copytree(_made(label) / "store", directory / "store")
        self.store = directory / "store"
        self.label = label
        self.tpm = Swtpm(directory / "tpm", _made(label) / "tpm")

    @property
    def environment(self) -> Mapping[str, str]:
        """What the module reads when it starts."""
        return _environment(self.tpm, self.store)

    def objects(self) -> list[str]:
        """Return every object as its own paragraph of `pkcs11-tool -O`, sorted."""
        command = ["pkcs11-tool", "--module", str(TPM_MODULE), "--token-label", self.label]
        environment = {**os.environ, **self.environment}
        command += ["--login", "--pin", PIN, "-O"]
        ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30)
        found: list[list[str]] = []
        for line in ran.stdout.splitlines():
            if line.startswith(" "):
                found[-1].append(line.strip())
            else:
                found.append([line])
        return sorted("\n".join(one) for one in found)


def _environment(tpm: Swtpm, store: Path) -> dict[str, str]:
    tcti = f"cmd:{_bridge()} {tpm.port}"
    return {
        "TPM2_PKCS11_STORE": str(store),
        "TPM2_PKCS11_TCTI": tcti,
        "TPM2TOOLS_TCTI": tcti,
        "TSS2_LOG": "all+none",
    }


@cache
def _bridge() -> Path:
    """Build what lets several users have the TPM at once: the module opens a connection for each token."""
    built = made_state("one").with_name("bridge")
    command = ["cc", "-std=gnu11", "-Wall", "-Werror", "-O1", str(Path(__file__).with_name("bridge.c"))]
    subprocess.run([*command, "-o", str(built)], check=True, capture_output=True)
    return built


@cache
def _made(label: str) -> Path:
    """Make a token once; every device is a copy of it and of its TPM."""
    directory = made_state("one").with_name(f"token-{label}")
    store = directory / "store"
    store.mkdir(parents=True, mode=0o700)
    tpm = Swtpm(directory / "tpm", made_state("one"))
    tpm.start()
    environment = {**os.environ, **_environment(tpm, store)}
    named = ["--pid=1", f"--label={label}", f"--userpin={PIN}", f"--sopin={SO_PIN}"]
    for command in (["init"], ["addtoken", *named]):
        subprocess.run(
            [*_TOOL, *command, "--path", str(store)], env=environment, check=True, capture_output=True, timeout=60
        )
    tpm.cut()
    return directory
