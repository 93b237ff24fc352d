"""The laws of ``ports.Target``, run on every kind of device in ``support/targets``."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from birthmark.adapters.targets.proof import proof_message
from birthmark.errors import BirthmarkError, DeviceFault, Refused, Tampered, Unavailable
from birthmark.pki.algorithms import algorithm_of, spki_of
from birthmark.ports import Attests, Credential, Evidence, Occupies
from birthmark.wire.jwtproof import jwt_holds
from support.devicepki import credential_for, pool_credential
from support.fences import OPEN, OVER, CuttingFence, OpenFence, PowerCut
from support.honestdevices import HONEST
from support.targets import DEVICES, Device

REPOSITORY = Path(__file__).resolve().parents[2]
CHALLENGE = bytes(range(32))
MOST_ACTS = 200

Fresh = Callable[[], Device]


Note = Callable[[str, object], None]
"""``record_property`` of pytest: ``scripts/make_matrix.py`` makes a page of what is noted."""


@pytest.fixture(params=sorted(DEVICES))
def fresh(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Note
) -> Fresh:
    """Return a function that gives another new device of this kind each time."""
    record_property("kind", request.param)
    made = iter(range(MOST_ACTS))

    def make() -> Device:
        root = tmp_path / f"device-{next(made)}"
        root.mkdir()
        return DEVICES[request.param](root, monkeypatch)

    return make


@pytest.fixture
def device(fresh: Fresh) -> Device:
    return fresh()


def assert_proves(device: Device, credential: Credential, challenge: bytes = CHALLENGE) -> None:
    evidence = device.open().prove(challenge)
    assert evidence.certificate == credential.certificate
    assert evidence.chain == credential.chain[: device.chain_kept]
    assert evidence.kind == device.evidence
    assert holds(evidence, credential, challenge)


def holds(evidence: Evidence, credential: Credential, challenge: bytes) -> bool:
    if evidence.kind == "digest":
        assert credential.private_key is not None
        return evidence.key_digest == sha256(credential.private_key.reveal()).digest()
    assert evidence.signature is not None
    public_key = x509.load_der_x509_certificate(credential.certificate).public_key()
    if evidence.kind == "jwt":
        return jwt_holds(public_key, challenge, evidence.signature)
    return algorithm_of(public_key).verify(public_key, evidence.signature, proof_message(challenge))


def test_probe_writes_nothing_and_names_what_is_installed(device: Device) -> None:
    before = device.snapshot()
    probe = device.open().probe()
    assert probe.identity == device.identity
    can_sign = device.evidence != "digest"
    assert (probe.certificate, probe.makes_key, probe.can_sign) == (None, device.makes_key, can_sign)
    assert probe.attests == device.attests
    assert device.snapshot() == before
    credential = device.obtain()
    device.open().install(credential, OPEN)
    before = device.snapshot()
    assert device.open().probe().certificate == credential.certificate
    assert device.snapshot() == before


def test_key_is_made_once_until_it_is_installed(device: Device, record_property: Note) -> None:
    if not device.makes_key:
        record_property("law", "refused by name")
        before = device.snapshot()
        with pytest.raises(Refused) as caught:
            device.open().make_key(device.algorithm, device.serial, OPEN)
        assert caught.value.code == "target.key.not_made"
        assert device.snapshot() == before
        return
    target = device.open()
    requests = [
        target.make_key(device.algorithm, device.serial, OPEN),
        target.make_key(device.algorithm, device.serial, OPEN),
    ]
    requests.append(device.open().make_key(device.algorithm, device.serial, OPEN))
    parsed = [x509.load_der_x509_csr(request) for request in requests]
    assert len({spki_of(request.public_key()) for request in parsed}) == 1
    for request in parsed:
        assert request.is_signature_valid
        assert [(name.oid, name.value) for name in request.subject] == [(NameOID.COMMON_NAME, device.serial)]


def test_what_was_installed_proves_itself_to_a_target_that_remembers_nothing(device: Device) -> None:
    credential = device.obtain()
    device.open().install(credential, OPEN)
    assert_proves(device, credential)
    assert_proves(device, credential, b"\xff" * 64)


def test_install_twice_changes_nothing(device: Device) -> None:
    credential = device.obtain()
    target = device.open()
    target.install(credential, OPEN)
    before = device.snapshot()
    target.install(credential, OPEN)
    device.open().install(credential, OPEN)
    assert device.snapshot() == before


def test_rework_replaces_key_certificate_and_chain(device: Device, record_property: Note) -> None:
    first = device.obtain()
    device.open().install(first, OPEN)
    if not device.replaces:
        record_property("law", "refused by name")
        before = device.snapshot()
        with pytest.raises((Refused, DeviceFault)):
            device.open().install(device.obtain(), OPEN)
        assert device.snapshot() == before
        return
    second = device.obtain()
    assert spki_of_der(second.certificate) != spki_of_der(first.certificate)
    device.open().install(second, OPEN)
    assert_proves(device, second)
    assert device.open().probe().certificate == second.certificate


def test_renewed_certificate_of_the_same_key_replaces_the_old_one(device: Device, record_property: Note) -> None:
    first = device.obtain()
    device.open().install(first, OPEN)
    public_key = x509.load_der_x509_certificate(first.certificate).public_key()
    second = credential_for(public_key, device.serial, first.private_key)
    if not device.replaces:
        record_property("law", "refused by name")
        before = device.snapshot()
        with pytest.raises((Refused, DeviceFault)):
            device.open().install(second, OPEN)
        assert device.snapshot() == before
        return
    device.open().install(second, OPEN)
    assert_proves(device, second)


def test_certificate_of_another_key_is_never_installed(device: Device) -> None:
    if device.replaces:
        device.open().install(device.obtain(), OPEN)
    ours = device.obtain()
    other = pool_credential(device.serial)
    wrong = Credential(device.serial, other.certificate, other.chain, ours.private_key, 1, 2)
    before = device.snapshot()
    with pytest.raises(DeviceFault if device.makes_key else Tampered) as caught:
        device.open().install(wrong, OPEN)
    assert caught.value.code == ("target.key.mismatch" if device.makes_key else "credential.key.mismatch")
    assert device.snapshot() == before


def test_key_from_the_wrong_side_is_refused(device: Device) -> None:
    credential = device.obtain()
    before = device.snapshot()
    if device.makes_key:
        bad, code = pool_credential(device.serial), "target.key.not_accepted"
    else:
        bad = Credential(device.serial, credential.certificate, credential.chain, None, 1, 2)
        code = "target.key.required"
    with pytest.raises(Refused) as caught:
        device.open().install(bad, OPEN)
    assert caught.value.code == code
    assert device.snapshot() == before


@pytest.mark.parametrize("certificate", [b"", b"\x30\x03\x02\x01\x00", b"\xff" * 99], ids=["empty", "short", "ones"])
def test_credential_that_is_no_certificate_is_never_installed(device: Device, certificate: bytes) -> None:
    good = device.obtain()
    before = device.snapshot()
    with pytest.raises(Tampered) as caught:
        device.open().install(Credential(device.serial, certificate, good.chain, good.private_key, 1, 2), OPEN)
    assert caught.value.code == "credential.malformed"
    assert device.snapshot() == before


def test_empty_device_proves_nothing(device: Device) -> None:
    with pytest.raises(DeviceFault):
        device.open().prove(CHALLENGE)
    if device.makes_key:
        device.open().make_key(device.algorithm, device.serial, OPEN)
        with pytest.raises(DeviceFault):
            device.open().prove(CHALLENGE)


def test_no_error_shows_a_key(device: Device) -> None:
    credential = pool_credential(device.serial)
    assert credential.private_key is not None
    wrong = Credential(
        device.serial, pool_credential(device.serial).certificate, credential.chain, credential.private_key, 1, 2
    )
    with pytest.raises(BirthmarkError) as caught:
        device.open().install(wrong, OPEN)
    octets = credential.private_key.reveal()[-32:]
    assert octets.hex() not in str(caught.value.document())
    assert repr(octets)[2:-1] not in str(caught.value.document())


def test_a_fence_that_is_over_lets_nothing_happen_to_the_device(device: Device) -> None:
    before = device.snapshot()
    if device.makes_key:
        with pytest.raises(Unavailable):
            device.open().make_key(device.algorithm, device.serial, OVER)
        assert device.snapshot() == before
    credential = device.obtain()
    before = device.snapshot()
    with pytest.raises(Unavailable):
        device.open().install(credential, OVER)
    assert device.snapshot() == before
    device.open().install(credential, OPEN)
    assert_proves(device, credential)


def test_two_devices_are_never_in_one_place(fresh: Fresh, record_property: Note) -> None:
    """Heads stay apart by places: a place that two devices share would let only one head work."""
    device = fresh()
    first, second = device.open(), fresh().open()
    assert isinstance(first, Occupies)
    assert isinstance(second, Occupies)
    if device.one_place:
        record_property("law", "one place")
    assert (first.place == second.place) is device.one_place


def test_power_cut_before_each_act_ends_the_same_way(fresh: Fresh) -> None:
    """Cut at every act of ``install`` on a new device each: the same call again finishes what was begun."""
    device = fresh()
    counted = OpenFence()
    credential = device.obtain()
    device.open().install(credential, counted)
    assert_proves(device, credential)
    assert 0 < counted.acts <= MOST_ACTS - 2
    for acts in range(counted.acts) if counted.acts <= 12 else sorted({0, 1, 2, counted.acts // 2, counted.acts - 1}):
        cut = fresh()
        wanted = cut.obtain()
        with pytest.raises(PowerCut):
            cut.open().install(wanted, CuttingFence(acts))
        found = cut.open().probe().certificate
        assert found in (None, wanted.certificate), "never somebody else's"
        cut.open().install(wanted, OPEN)
        assert_proves(cut, wanted)


def test_power_cut_while_the_key_is_made_makes_one_key(fresh: Fresh, record_property: Note) -> None:
    device = fresh()
    if not device.makes_key:
        record_property("law", "–")
        return
    counted = OpenFence()
    device.open().make_key(device.algorithm, device.serial, counted)
    assert counted.acts > 0
    for acts in range(min(counted.acts, 6)):
        cut = fresh()
        with pytest.raises(PowerCut):
            cut.open().make_key(cut.algorithm, cut.serial, CuttingFence(acts))
        credential = cut.obtain()
        cut.open().install(credential, OPEN)
        assert_proves(cut, credential)


def test_a_lying_device_is_caught(fresh: Fresh, record_property: Note, request: pytest.FixtureRequest) -> None:
    """It acknowledges and does not store, shows another's certificate, or signs with another key.

    A kind that tells no lie is on a list with the reason, and with the test that finds what else may be wrong with it.
    """
    kind, lies = request.node.callspec.params["fresh"], fresh().lies
    record_property("law", ", ".join(lies) or "–")
    assert set(HONEST) <= set(DEVICES), "the list names a kind that is gone"
    if not lies:
        assert kind in HONEST, f"{kind} is told no lie, and support/honestdevices.py says no reason"
        reason, test = HONEST[kind]
        path, _, name = test.partition("::")
        assert reason
        assert f"\ndef {name}(" in (REPOSITORY / path).read_text(), test
        return
    assert kind not in HONEST, f"{kind} lies: it must not be on the list of those that cannot"
    assert "stores nothing" in lies
    for lie in lies:
        device = fresh()
        credential = device.obtain()
        device.lies[lie]()
        try:
            device.open().install(credential, OPEN)
            evidence = device.open().prove(CHALLENGE)
        except (DeviceFault, Tampered):
            continue
        good = evidence.certificate == credential.certificate and holds(evidence, credential, CHALLENGE)
        assert not good, f"{lie} went through"


def test_a_device_that_attests_speaks_of_the_key_it_asks_with(device: Device, record_property: Note) -> None:
    target = device.open()
    if not device.attests:
        record_property("law", "–")
        assert not target.probe().attests
        return
    assert isinstance(target, Attests)
    request = x509.load_der_x509_csr(target.make_key(device.algorithm, device.serial, OPEN))
    spki = spki_of(request.public_key())
    shown = device.open().attest(bytes(32))  # type: ignore[attr-defined]
    assert (shown.spki, len(shown.anchor)) == (spki, 32)
    assert 0 < len(shown.statement) <= 16 * 1024
    device.open().install(credential_for(request.public_key(), device.serial), OPEN)
    assert device.open().attest(bytes(range(32))).spki == spki  # type: ignore[attr-defined]


def spki_of_der(certificate: bytes) -> bytes:
    return (
        x509.load_der_x509_certificate(certificate)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
