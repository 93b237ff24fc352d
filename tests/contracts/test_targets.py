"""The laws of ``ports.Target``, run on every layout of the target ``files`` and on a real PKCS#11 token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.targets.files import FilesTarget
from birthmark.adapters.targets.pkcs11 import Pkcs11Target
from birthmark.adapters.targets.proof import proof_message
from birthmark.errors import BirthmarkError, DeviceFault, Refused, Tampered
from birthmark.model.secret import Secret
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.ports import Credential, Evidence, Target
from support.devicepki import credential_for, pool_credential
from support.devicetoken import make_token, start_tokens, token_objects
from support.softhsm import MODULE, PIN

SERIAL = "SN-0001"
CHALLENGE = bytes(range(32))


@dataclass
class Device:
    """A device under test. ``open`` gives a target that remembers nothing; ``snapshot`` is all that it holds."""

    open: Callable[[], Target]
    snapshot: Callable[[], object]
    makes_key: bool
    identity: str
    algorithm: str = "p256"

    def obtain(self, algorithm: str | None = None) -> Credential:
        """Return a credential as the workflow would get one for this device."""
        if not self.makes_key:
            return pool_credential(SERIAL, algorithm or self.algorithm)
        request = x509.load_der_x509_csr(self.open().make_key(algorithm or self.algorithm, SERIAL))
        return credential_for(request.public_key(), SERIAL)


FILE_TARGETS = {
    "pem": "layout=pem&mode=0600",
    "der": "layout=der&mode=0640",
    "p12": "layout=p12&p12-secret=test:",
    "pem-born": "key=born",
    "der-born": "layout=der&key=born&mode=0400",
}


def files_device(root: Path, options: str) -> Device:
    directory = root / SERIAL
    directory.mkdir()

    def snapshot() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mode, path.read_bytes()) for path in directory.iterdir()}

    return Device(
        open=lambda: FilesTarget(f"files:{SERIAL}?{options}", secrets=lambda _: Secret(b"open sesame"), base=root),
        snapshot=snapshot,
        makes_key="key=born" in options,
        identity=SERIAL,
    )


TOKEN_ALGORITHMS = {"pkcs11": "p256", "pkcs11-p384": "p384", "pkcs11-rsa": "rsa2048", "pkcs11-ed25519": "ed25519"}


def token_device(algorithm: str) -> Device:
    label = f"SN-{uuid4().hex[:16]}"
    make_token(label)
    uri = f"pkcs11:token={label};object=idevid?module-path={MODULE}&pin-source=test:"
    return Device(
        open=lambda: Pkcs11Target(uri, secrets=lambda _: Secret(PIN.encode()), base=Path()),
        snapshot=lambda: token_objects(label),
        makes_key=True,
        identity=label,
        algorithm=algorithm,
    )


@pytest.fixture(params=[*FILE_TARGETS, *TOKEN_ALGORITHMS])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    if request.param in TOKEN_ALGORITHMS:
        start_tokens(tmp_path / "tokens", monkeypatch)
        return token_device(TOKEN_ALGORITHMS[request.param])
    return files_device(tmp_path, FILE_TARGETS[request.param])


def assert_proves(evidence: Evidence, credential: Credential, challenge: bytes = CHALLENGE) -> None:
    assert evidence.certificate == credential.certificate
    assert evidence.chain == credential.chain
    assert evidence.kind == "signature"
    assert evidence.signature is not None
    public_key = x509.load_der_x509_certificate(credential.certificate).public_key()
    assert algorithm_of(public_key).verify(public_key, evidence.signature, proof_message(challenge))


def test_probe_writes_nothing_and_names_what_is_installed(device: Device) -> None:
    before = device.snapshot()
    probe = device.open().probe()
    assert probe.identity == device.identity
    assert (probe.certificate, probe.makes_key, probe.can_sign) == (None, device.makes_key, True)
    assert device.snapshot() == before
    credential = device.obtain()
    device.open().install(credential)
    before = device.snapshot()
    assert device.open().probe().certificate == credential.certificate
    assert device.snapshot() == before


def test_key_is_made_once_until_it_is_installed(device: Device) -> None:
    if not device.makes_key:
        before = device.snapshot()
        with pytest.raises(Refused) as caught:
            device.open().make_key(device.algorithm, SERIAL)
        assert caught.value.code == "target.key.not_made"
        assert device.snapshot() == before
        return
    target = device.open()
    requests = [target.make_key(device.algorithm, SERIAL), target.make_key(device.algorithm, SERIAL)]
    requests.append(device.open().make_key(device.algorithm, SERIAL))
    parsed = [x509.load_der_x509_csr(request) for request in requests]
    assert len({spki_of(request.public_key()) for request in parsed}) == 1
    for request in parsed:
        assert request.is_signature_valid
        assert [(name.oid, name.value) for name in request.subject] == [(NameOID.COMMON_NAME, SERIAL)]


def test_what_was_installed_proves_itself_to_a_target_that_remembers_nothing(device: Device) -> None:
    credential = device.obtain()
    device.open().install(credential)
    assert_proves(device.open().prove(CHALLENGE), credential)
    assert_proves(device.open().prove(b"\xff" * 64), credential, b"\xff" * 64)


def test_install_twice_changes_nothing(device: Device) -> None:
    credential = device.obtain()
    target = device.open()
    target.install(credential)
    before = device.snapshot()
    target.install(credential)
    device.open().install(credential)
    assert device.snapshot() == before


def test_rework_replaces_key_certificate_and_chain(device: Device) -> None:
    first = device.obtain()
    device.open().install(first)
    second = device.obtain()
    assert spki_of_der(second.certificate) != spki_of_der(first.certificate)
    device.open().install(second)
    assert_proves(device.open().prove(CHALLENGE), second)
    assert device.open().probe().certificate == second.certificate


def test_renewed_certificate_of_the_same_key_replaces_the_old_one(device: Device) -> None:
    first = device.obtain()
    device.open().install(first)
    public_key = x509.load_der_x509_certificate(first.certificate).public_key()
    second = credential_for(public_key, SERIAL, first.private_key)
    device.open().install(second)
    assert_proves(device.open().prove(CHALLENGE), second)


def test_certificate_of_another_key_is_never_installed(device: Device) -> None:
    device.open().install(device.obtain())
    ours = device.obtain()
    other = pool_credential(SERIAL)
    wrong = Credential(SERIAL, other.certificate, other.chain, ours.private_key, 1, 2)
    before = device.snapshot()
    with pytest.raises(DeviceFault if device.makes_key else Tampered) as caught:
        device.open().install(wrong)
    assert caught.value.code == ("target.key.mismatch" if device.makes_key else "credential.key.mismatch")
    assert device.snapshot() == before


def test_key_from_the_wrong_side_is_refused(device: Device) -> None:
    credential = device.obtain()
    before = device.snapshot()
    if device.makes_key:
        bad, code = pool_credential(SERIAL), "target.key.not_accepted"
    else:
        bad = Credential(SERIAL, credential.certificate, credential.chain, None, 1, 2)
        code = "target.key.required"
    with pytest.raises(Refused) as caught:
        device.open().install(bad)
    assert caught.value.code == code
    assert device.snapshot() == before


@pytest.mark.parametrize("certificate", [b"", b"\x30\x03\x02\x01\x00", b"\xff" * 99], ids=["empty", "short", "ones"])
def test_credential_that_is_no_certificate_is_never_installed(device: Device, certificate: bytes) -> None:
    good = device.obtain()
    before = device.snapshot()
    with pytest.raises(Tampered) as caught:
        device.open().install(Credential(SERIAL, certificate, good.chain, good.private_key, 1, 2))
    assert caught.value.code == "credential.malformed"
    assert device.snapshot() == before


def test_empty_device_proves_nothing(device: Device) -> None:
    with pytest.raises(DeviceFault):
        device.open().prove(CHALLENGE)
    if device.makes_key:
        device.open().make_key(device.algorithm, SERIAL)
        with pytest.raises(DeviceFault):
            device.open().prove(CHALLENGE)


def test_no_error_shows_a_key(device: Device) -> None:
    credential = pool_credential(SERIAL)
    assert credential.private_key is not None
    wrong = Credential(SERIAL, pool_credential(SERIAL).certificate, credential.chain, credential.private_key, 1, 2)
    with pytest.raises(BirthmarkError) as caught:
        device.open().install(wrong)
    octets = credential.private_key.reveal()[-32:]
    assert octets.hex() not in str(caught.value.document())
    assert repr(octets)[2:-1] not in str(caught.value.document())


def spki_of_der(certificate: bytes) -> bytes:
    return (
        x509.load_der_x509_certificate(certificate)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
