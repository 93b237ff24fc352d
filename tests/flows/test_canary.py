"""No secret is anywhere but where it belongs: passphrases and private keys are searched for after a whole story."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

CANARY = "canary-passphrase-5d1f"
BIRTHMARK = str(Path(sys.executable).parent / "birthmark")


def run(*command: str, cwd: Path, code: int = 0) -> bytes:
    environment = {**os.environ, "BIRTHMARK_PASSPHRASE": CANARY}
    done = subprocess.run(
        [BIRTHMARK, *command], cwd=cwd, env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == code, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def forms(secret: bytes) -> set[bytes]:
    """How a secret may look when it leaks."""
    return {secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret), secret[::-1]}


def test_secrets_stay_where_they_belong(tmp_path: Path) -> None:
    said = run("init", "w", "--maker", "Acme", "--profile", "tls-client", "--value", "pen=99999", cwd=tmp_path)
    said += run("ceremony", "run", "w/ceremony.toml", "-C", "w", cwd=tmp_path)
    create = ("order", "create", "lot", "--product", "device", "--quantity", "20", "--first", "th-0001", "-C", "w")
    said += run(*create, cwd=tmp_path)
    said += run(*create, cwd=tmp_path, code=3)
    said += run("order", "make", "lot", "-C", "w", cwd=tmp_path)
    device = tmp_path / "th-0001"
    device.mkdir()
    provision = ("station", "provision", "--device-serial", "th-0001", "--target", "files:th-0001", "-C", "w")
    said += run(*provision, "--json", cwd=tmp_path)
    said += run(*provision[:3], "th-0002", *provision[4:], cwd=tmp_path, code=4)
    said += run("device", "rework", "th-0001", "--reason", "test", "-C", "w", cwd=tmp_path)
    said += run("audit", "verify", "w", cwd=tmp_path)

    key = load_pem_private_key((device / "device.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    secrets = {CANARY.encode(), *forms(scalar), *forms(pkcs8), base64.b64encode(pkcs8)[8:56]}
    places = {"(said on the screen)": said}
    for path in (tmp_path / "w").rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
    assert len(places) > 20
    for place, content in places.items():
        assert not [secret for secret in secrets if secret in content], place
    for path in (tmp_path / "w" / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
        assert b"ENCRYPTED" in path.read_bytes()
    assert (device / "device.key").stat().st_mode & 0o077 == 0
