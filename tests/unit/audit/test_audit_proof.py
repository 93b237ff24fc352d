"""The proof of one device: checked by us, by hand with OpenSSL, and refused when anything in it is changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import birthmark
from birthmark.adapters.audit.proof import check_proof
from birthmark.errors import BirthmarkError, Misconfigured, Tampered
from birthmark.shell.cli.audit import render_proof
from birthmark.tlog.merkle import inclusion_proof
from birthmark.tlog.proof import DeviceProof
from birthmark.tlog.tiles import HashReader
from support.make_ledger import ORIGIN, all_entries

DOCUMENT = Path(birthmark.__file__).parents[2] / "docs/formats/device-proof.md"
DEVICE = "P-00123"


def _proof(root: Path, device: str = DEVICE) -> bytes:
    entries = list(all_entries(root))
    index = next(at for at, entry in enumerate(entries) if entry.startswith(b'{"at"') and _issues(entry, device))

    def read(path: str) -> bytes | None:
        file = root / "log" / path
        return file.read_bytes() if file.exists() else None

    path = inclusion_proof(index, len(entries), HashReader(len(entries), read))
    note = (root / "log/checkpoint").read_text()
    proof = DeviceProof(index, tuple(path), note, extra=entries[index])
    return render_proof(device, ORIGIN, entries[index], proof.render(), index)


def _issues(entry: bytes, device: str) -> bool:
    head = entry.partition(b"\n")[0]
    return b'"type":"issued"' in head and f'"device":"{device}"'.encode() in head


@pytest.fixture(scope="module")
def proof(original) -> bytes:
    return _proof(original.root)


@pytest.fixture(scope="module")
def vkey(original) -> str:
    return (original.root / "log/vkey").read_text()


def test_good_proof_shows_the_certificate(original, proof: bytes, vkey: str) -> None:
    checked = check_proof(proof, vkey)
    assert checked.device_serial == DEVICE
    assert checked.origin == ORIGIN
    assert checked.certificate == original.maker.identities[DEVICE].certificate
    assert checked.size == 435


def test_proof_is_checked_by_hand_with_openssl(proof: bytes, vkey: str, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl, "openssl is needed"
    script = re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert script
    file = tmp_path / "proof"
    for changed, good in ((proof, True), (proof.replace(b"\nindex 1", b"\nindex 2", 1), False)):
        file.write_bytes(changed)
        done = subprocess.run(
            ["sh", "-c", script[1]], env={"FILE": str(file), "VKEY": vkey.strip(), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == good, done.stderr
    assert "Signature Verified Successfully" in done.stdout


def test_any_changed_octet_is_refused(proof: bytes, vkey: str) -> None:
    for at in range(len(proof)):
        changed = proof[:at] + bytes((proof[at] ^ 1,)) + proof[at + 1 :]
        with pytest.raises(Tampered):
            check_proof(changed, vkey)


def test_any_cut_is_refused(proof: bytes, vkey: str) -> None:
    for end in range(0, len(proof), 7):
        with pytest.raises(Tampered):
            check_proof(proof[:end], vkey)


def test_preface_of_another_device_is_refused(original, proof: bytes, vkey: str) -> None:
    other = _proof(original.root, "P-00124")
    mark = b"c2sp.org/tlog-proof@v1\n"
    with pytest.raises(Tampered, match=r"audit\.proof\.preface"):
        check_proof(other.partition(mark)[0] + mark + proof.partition(mark)[2], vkey)


def test_key_of_another_log_is_refused(proof: bytes, original) -> None:
    from birthmark.tlog.note import encode_vkey, public_octets

    stranger = encode_vkey(ORIGIN, public_octets(original.maker.station_key))
    with pytest.raises(Tampered, match=r"audit\.note\.signature"):
        check_proof(proof, stranger)
    with pytest.raises(Misconfigured, match=r"audit\.vkey"):
        check_proof(proof, "no key")


def test_garbage_is_refused_by_name(vkey: str) -> None:
    for garbage in (b"", b"\xff" * 100, b"c2sp.org/tlog-proof@v1\n", b"c2sp.org/tlog-proof@v1\nextra \nindex \n\n\n\n"):
        with pytest.raises(BirthmarkError):
            check_proof(garbage, vkey)
