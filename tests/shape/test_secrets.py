"""Secrets are opened in few places, each of them named here with its reason."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from birthmark.model.secret import Secret

SOURCE = Path(__file__).resolve().parents[2] / "src" / "birthmark"

MAY_REVEAL = {
    "adapters/clouds/azure_dps/auth.py": "signs SAS tokens and hands a bearer token to the HTTP library",
    "adapters/keys/file.py": "opens and writes encrypted key files",
    "adapters/pkcs11_token.py": "logs in to the token",
    "adapters/targets/identity.py": "compares the key in the device with its certificate",
    "adapters/targets/fileforms.py": "writes the device's key file",
    "adapters/targets/exec/target.py": "hands key and secret to the vendor's program through a pipe",
    "adapters/issuers/azure_adr.py": "signs the tokens of devices with the key of their group",
    "adapters/devicetls.py": "hands the key of a device, or the PIN of its token, to the TLS library",
    "adapters/issuers/web.py": "hands password or key passphrase of a service to the HTTP and TLS libraries",
    "wire/cmp.py": "derives the MAC key of CMP messages",
    "shell/bench/sitelog.py": "signs as the made-up devices of a throw-away workspace",
    "adapters/sources/online.py": "hands the station's TLS key to the TLS library",
    "shell/api/server.py": "hands the service's TLS key to the TLS library",
    "adapters/ledgers/postgres/connection.py": "logs in to the database server",
    "shell/workspace/secrets.py": "sends resolved secrets to worker processes through their pipe",
    "wire/hpke.py": "seals an opened content key to another recipient",
    "wire/vault.py": "opens the vault key and content keys",
    "workflow/line/draw.py": "checks that a drawn key belongs to its certificate",
    "workflow/line/handover.py": "seals a drawn key to the site it is for",
    "workflow/line/receive.py": "checks that a key that came belongs to its certificate",
    "workflow/line/station.py": "checks that the credential's key belongs to its certificate",
}


def test_secrets_are_opened_only_where_it_is_written_down() -> None:
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "reveal"
    }
    assert found == set(MAY_REVEAL), found ^ set(MAY_REVEAL)


def test_a_secret_shows_nothing() -> None:
    secret = Secret(b"canary-7f3a")
    assert "canary" not in f"{secret!r} {secret} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
