"""The target ``atecc``: what Microchip's library makes of what it stored, what it refuses, what it locks."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from birthmark.adapters.targets.atecc import AteccTarget
from birthmark.adapters.targets.atecc.library import microchip_library
from birthmark.errors import BirthmarkError, DeviceFault, Misconfigured, Refused, StationFault, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports import Credential
from birthmark.testing.atecc608 import OPEN_CONFIG, Atecc608
from support.fences import OPEN, OpenFence
from support.microchip import MicrochipLibrary
from support.targets.atecc import OPTIONS, open_target

START = datetime(2026, 1, 1, tzinfo=UTC)
FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Factory:
    """A chip, and an authority whose certificates can be anything."""

    def __init__(self, root: Path, **chip: Any) -> None:
        self.root = root
        self.chip = Atecc608.create(root / "chip.json", sync=False, **chip)
        self.chip.attach()
        self.root_key, self.issuing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def target(self, kind: str = "compressed", more: str = "") -> AteccTarget:
        return open_target(self.root, OPTIONS[kind] + more)

    def credential(self, kind: str = "compressed", **options: Any) -> Credential:
        request = x509.load_der_x509_csr(self.target(kind).make_key("p256", self.chip.serial, OPEN))
        return self.issue(request.public_key(), **options)

    def issue(
        self,
        public_key: Any,
        *,
        name: str | None = None,
        begin: datetime = START,
        end: datetime = START + timedelta(days=3650),
        number: int | None = None,
        extensions: tuple[x509.ExtensionType, ...] = (),
        root_key: Any = None,
        digest: Any = None,
    ) -> Credential:
        serial = self.chip.serial
        root = _build("Root", self.root_key, "Root", root_key or self.root_key, START, FOREVER)
        issuing = _build("Issuing", self.issuing_key, "Root", root_key or self.root_key, START, FOREVER)
        leaf = _build(
            serial if name is None else name,
            public_key,
            "Issuing",
            self.issuing_key,
            begin,
            end,
            number=number,
            extensions=extensions,
            digest=digest,
        )
        return Credential(serial, leaf, (issuing, root), None, 1, 2)

    def provision(self, kind: str = "compressed", **options: Any) -> Credential:
        credential = self.credential(kind, **options)
        self.target(kind).install(credential, OPEN)
        return credential

    def microchip(self, kind: str, number: int = 0) -> bytes:
        library = MicrochipLibrary(self.chip)
        try:
            return library.read_certificate(self.root / "templates" / f"template-{number}.json", kind, number)
        finally:
            library.close()


def _build(
    subject: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    begin: datetime,
    end: datetime,
    *,
    number: int | None = None,
    extensions: tuple[x509.ExtensionType, ...] = (),
    digest: Any = None,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(getattr(key, "public_key", lambda: key)())
        .serial_number(x509.random_serial_number() if number is None else number)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=issuer == "Root", path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, digest or hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.fixture
def factory(tmp_path: Path) -> Iterator[Callable[..., Factory]]:
    made: list[Factory] = []

    def make(**chip: Any) -> Factory:
        root = tmp_path / f"f{len(made)}"
        root.mkdir()
        made.append(Factory(root, **chip))
        return made[-1]

    yield make
    for one in made:
        one.chip.detach()


def code_of(act: Callable[[], object], family: type[BirthmarkError]) -> str:
    with pytest.raises(family) as caught:
        act()
    return caught.value.code


def test_microchips_library_rebuilds_octet_for_octet_what_was_issued(factory: Callable[..., Factory]) -> None:
    """Different signature lengths, serial numbers, dates and extensions; both certificates of the chain."""
    one = factory()
    for number, begin, end in (
        (None, START, FOREVER),
        (1, START + timedelta(seconds=12345), START + timedelta(days=40)),
        (0x7F << 152 | 5, datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2055, 2, 28, tzinfo=UTC)),
        (0x80, START, START + timedelta(days=20000)),
    ):
        key = x509.load_der_x509_csr(one.target().make_key("p256", one.chip.serial, OPEN)).public_key()
        extensions = (
            x509.SubjectKeyIdentifier.from_public_key(key),  # type: ignore[arg-type]
            x509.AuthorityKeyIdentifier.from_issuer_public_key(one.issuing_key.public_key()),
            x509.SubjectAlternativeName([x509.DNSName(f"{one.chip.serial}.devices.example")]),
        )
        credential = one.issue(key, begin=begin, end=end, number=number, extensions=extensions)
        one.target().install(credential, OPEN)
        used = one.chip.memory.slots[10][69] >> 4
        assert one.microchip("device", used) == credential.certificate
        assert one.microchip("signer", used) == credential.chain[0]
        evidence = one.target().prove(bytes(32))
        assert (evidence.certificate, evidence.chain) == (credential.certificate, credential.chain[:1])


def test_openssl_verifies_the_chain_that_came_out_of_the_chip(factory: Callable[..., Factory], tmp_path: Path) -> None:
    one = factory()
    credential = one.provision()
    for name, der in (
        ("leaf", one.microchip("device")),
        ("ca", one.microchip("signer")),
        ("root", credential.chain[1]),
    ):
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)
    command = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "ca.pem", "leaf.pem"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("begin", "end", "years"),
    [
        (datetime(2026, 7, 9, 13, 20, 1, tzinfo=UTC), datetime(2036, 7, 9, 13, 20, 1, tzinfo=UTC), 10),
        (datetime(2026, 7, 9, 13, tzinfo=UTC), datetime(2036, 7, 9, 12, tzinfo=UTC), 9),
        (datetime(2028, 2, 29, tzinfo=UTC), datetime(2030, 2, 28, tzinfo=UTC), 1),
        (datetime(2031, 12, 31, 23, tzinfo=UTC), FOREVER, 0),
    ],
)
def test_the_dates_in_the_72_octets_are_those_microchip_encodes(
    factory: Callable[..., Factory], begin: datetime, end: datetime, years: int
) -> None:
    from cryptoauthlib.atcacert import atcacert_tm_utc_t

    one = factory()
    one.provision(begin=begin, end=end)
    moment = atcacert_tm_utc_t(0, 0, begin.hour, min(begin.day, 30), begin.month - 1, begin.year - 1900)
    moment.tm_mday = begin.day  # the wheel's own check counts days to 30
    out = ctypes.create_string_buffer(3)
    assert microchip_library().atcacert_date_enc_compcert(ctypes.byref(moment), ctypes.c_uint8(years), out) == 0
    assert bytes(one.chip.memory.slots[10][64:67]) == out.raw


def test_devices_of_one_product_share_one_template(factory: Callable[..., Factory]) -> None:
    one, two = factory(), factory()
    two.issuing_key = one.issuing_key
    (two.root / "templates").symlink_to(one.root / "templates")
    issuing = one.provision(number=1 << 120)
    credential = two.credential(number=3 << 120)
    two.target().install(Credential(two.chip.serial, credential.certificate, issuing.chain, None, 1, 2), OPEN)
    assert [path.name for path in (one.root / "templates").iterdir()] == ["template-0.json"]
    assert two.target().prove(bytes(32)).certificate == credential.certificate


def refusals(one: Factory) -> dict[str, Callable[[Any], Credential]]:
    p384 = ec.generate_private_key(ec.SECP384R1())
    other_id = x509.SubjectKeyIdentifier(bytes(20))
    return {
        "names another device": lambda key: one.issue(key, name="SN-0001"),
        "begins after 2031": lambda key: one.issue(key, begin=datetime(2032, 1, 1, tzinfo=UTC), end=FOREVER),
        "identifier of its own": lambda key: one.issue(key, extensions=(other_id,)),
        "root on P-384": lambda key: one.issue(key, root_key=p384),
        "SHA-384": lambda key: one.issue(key, digest=hashes.SHA384()),
    }


@pytest.mark.parametrize(
    "case", ["names another device", "begins after 2031", "identifier of its own", "root on P-384", "SHA-384"]
)
def test_what_cannot_be_compressed_is_refused_before_anything_is_written(
    factory: Callable[..., Factory], case: str
) -> None:
    one = factory()
    key = x509.load_der_x509_csr(one.target().make_key("p256", one.chip.serial, OPEN)).public_key()
    before = [bytes(slot) for slot in one.chip.memory.slots]
    credential = refusals(one)[case](key)
    assert code_of(lambda: one.target().install(credential, OPEN), Refused) == "atecc.not_compressible"
    assert [bytes(slot) for slot in one.chip.memory.slots] == before
    assert not (one.root / "templates").exists()


def test_der_takes_what_cannot_be_compressed_and_refuses_what_is_too_long(factory: Callable[..., Factory]) -> None:
    one = factory()
    credential = one.provision("der", begin=datetime(2040, 1, 1, tzinfo=UTC), end=FOREVER, digest=hashes.SHA384())
    assert one.target("der").prove(bytes(32)).certificate == credential.certificate
    key = x509.load_der_x509_csr(one.target("der").make_key("p256", one.chip.serial, OPEN)).public_key()
    long = x509.SubjectAlternativeName([x509.DNSName(f"{'x' * 60}.{number}.example") for number in range(8)])
    too_long = one.issue(key, extensions=(long,))
    assert code_of(lambda: one.target("der").install(too_long, OPEN), Refused) == "atecc.too_large"


@pytest.mark.parametrize(
    ("place", "octets", "reason"),
    [
        (20, b"\x03\x20", "slot 0 is not secret"),
        (20, b"\x83\x00", "slot 0 does not make keys"),
        (20, b"\x82\x20", "slot 0 does not sign messages from outside"),
        (96, b"\x3c\x00", "slot 0 is no private P-256 key"),
        (96, b"\x73\x00", "slot 0 signs only with authorization or a random nonce"),
        (20 + 2 * 10, b"\x80\x00", "slot 10 cannot be read in the clear"),
        (20 + 2 * 8, b"\x00\x80", "slot 8 cannot be written in the clear"),
        (96 + 2 * 12, b"\x33\x00", "slot 12 is for private keys"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(
    factory: Callable[..., Factory], place: int, octets: bytes, reason: str
) -> None:
    config = bytearray(OPEN_CONFIG)
    config[place : place + 2] = octets
    one = factory(config=bytes(config))
    with pytest.raises(Refused) as caught:
        one.target().make_key("p256", one.chip.serial, OPEN)
    assert caught.value.code == "atecc.config.misfit"
    assert reason in caught.value.facts["reasons"]  # type: ignore[operator]


def test_an_open_chip_is_refused_unless_locks_are_asked_for_and_then_fits_first(
    factory: Callable[..., Factory],
) -> None:
    one = factory(locked=False, config=bytes(OPEN_CONFIG[:20] + bytes(32) + OPEN_CONFIG[52:]))
    before = bytes(one.chip.memory.config)
    make = [
        lambda: one.target().make_key("p256", one.chip.serial, OPEN),
        lambda: open_target(one.root, "layout=der&lock=all").make_key("p256", one.chip.serial, OPEN),
    ]
    assert [code_of(act, Refused) for act in make] == ["atecc.config.misfit", "atecc.config.misfit"]
    assert bytes(one.chip.memory.config) == before
    assert one.target().probe().certificate is None
    two = factory(locked=False)
    assert code_of(lambda: two.target().make_key("p256", two.chip.serial, OPEN), Refused) == "atecc.zone.open"
    one.provision("locked")
    assert (one.chip.memory.config_locked, one.chip.memory.data_locked) == (True, True)


def test_locks_are_asked_of_the_fence_done_once_and_hold(factory: Callable[..., Factory]) -> None:
    one = factory(locked=False)
    credential = one.provision("locked")
    assert [slot for slot in range(16) if one.chip.memory.slot_locked(slot)] == [0, 8, 10, 11, 12]
    again = OpenFence()
    one.target("locked").install(credential, again)
    assert again.acts == 0
    assert one.target("locked").prove(bytes(32)).certificate == credential.certificate
    for act in (
        lambda: one.target("locked").make_key("p256", one.chip.serial, OPEN),
        lambda: one.target().make_key("p256", one.chip.serial, OPEN),
    ):
        assert code_of(act, Refused) == "atecc.slot.locked"


def test_a_chip_that_only_says_that_it_locks_is_caught(factory: Callable[..., Factory]) -> None:
    one = factory()
    credential = one.provision()
    one.chip.faults.loses_writes = True
    locking = open_target(one.root, OPTIONS["compressed"] + "&lock=slot")
    assert code_of(lambda: locking.install(credential, OPEN), DeviceFault) == "atecc.not_locked"
    assert code_of(lambda: locking.prove(bytes(32)), DeviceFault) == "atecc.not_locked"


def test_another_chip_gets_nothing(factory: Callable[..., Factory]) -> None:
    one, two = factory(), factory()
    credential = one.credential()
    two.credential()
    before = [bytes(slot) for slot in two.chip.memory.slots]
    assert code_of(lambda: two.target().install(credential, OPEN), DeviceFault) == "target.key.mismatch"
    make = lambda: two.target().make_key("p256", one.chip.serial, OPEN)  # noqa: E731
    assert code_of(make, DeviceFault) == "device.identity.mismatch"
    assert code_of(lambda: two.target().make_key("p384", two.chip.serial, OPEN), Refused) == "atecc.algorithm"
    assert [bytes(slot) for slot in two.chip.memory.slots] == before


def test_a_template_that_is_lost_or_changed_is_the_stations_fault(factory: Callable[..., Factory]) -> None:
    one = factory()
    one.provision()
    path = one.root / "templates" / "template-0.json"
    document = json.loads(path.read_text())
    prove = lambda: one.target().prove(bytes(32))  # noqa: E731
    for spoiled in (b"", b"[]", b"\xff" * 99, b"[" * 70000, json.dumps({**document, "more": 1}).encode()):
        path.write_bytes(spoiled)
        assert code_of(prove, StationFault) == "atecc.template.damaged"
    for hole in ({"point": 4000}, {"names": [4000]}, {"serial": [4000, 90]}, {"template": "3082"}):
        path.write_text(json.dumps({**document, "device": {**document["device"], **hole}}))
        assert code_of(prove, StationFault) == "atecc.template.damaged"
    path.unlink()
    assert code_of(prove, StationFault) == "atecc.template.missing"


def test_sixteen_templates_are_the_most(factory: Callable[..., Factory]) -> None:
    one = factory()
    key = x509.load_der_x509_csr(one.target().make_key("p256", one.chip.serial, OPEN)).public_key()
    for number in range(16):
        usage = (x509.SubjectAlternativeName([x509.DNSName(f"{number}.example")]),)
        one.target().install(one.issue(key, extensions=usage), OPEN)
    more = one.issue(key, extensions=(x509.SubjectAlternativeName([x509.DNSName("16.example")]),))
    assert code_of(lambda: one.target().install(more, OPEN), Refused) == "atecc.template.full"


def test_what_was_written_in_another_layout_is_not_read_as_this_one(factory: Callable[..., Factory]) -> None:
    one = factory()
    one.provision()
    alone = open_target(one.root, OPTIONS["compressed"] + "&chain=none")
    for target in (one.target("der"), alone):
        for act in (target.probe, lambda target=target: target.prove(bytes(32))):
            assert code_of(act, DeviceFault) == "atecc.layout"
    credential = one.provision("der")
    assert one.target("der").prove(bytes(32)).certificate == credential.certificate


@pytest.mark.parametrize("content", [bytes(72), b"\xff" * 72, bytes(range(72))])
@pytest.mark.parametrize("slot", [8, 10, 11, 12])
def test_a_chip_that_shows_anything_else_is_a_fault_of_the_device(
    factory: Callable[..., Factory], slot: int, content: bytes
) -> None:
    one = factory()
    credential = one.provision()
    record = bytes(one.chip.memory.slots[8][:32])
    one.chip.faults.shows[slot] = record + content if slot == 8 else content
    try:
        evidence = one.target().prove(bytes(32))
    except DeviceFault as fault:
        assert fault.code == "target.certificate.damaged"  # noqa: PT017 - either this or other octets
    else:
        assert (evidence.certificate, *evidence.chain) != (credential.certificate, credential.chain[0])


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("atecc:8?layout=der", "target.uri.option"),
        ("atecc:x?layout=der", "target.uri.option"),
        ("atecc:0", "target.uri.option"),
        ("atecc:0?layout=der&templates=x", "target.uri.option"),
        ("atecc:0?layout=der&lock=ever", "target.uri.option"),
        ("atecc:0?layout=der&config=birthmark", "target.uri.option"),
        ("atecc:0?layout=der&bus=i2c:x", "target.uri.option"),
        ("atecc:0?layout=der&address=C1", "target.uri.option"),
        ("atecc:0?layout=der&slot=1", "target.uri.malformed"),
        ("atecc:0?layout=der&bus=nowhere:1", "atecc.bus"),
        ("atecc:0?layout=der&bus=emulator:missing.json", "atecc.bus"),
    ],
)
def test_a_uri_that_cannot_be_meant_is_refused(tmp_path: Path, uri: str, code: str) -> None:
    def probe() -> None:
        AteccTarget(uri, secrets=lambda _: Secret(b""), base=tmp_path).probe()

    assert code_of(probe, Misconfigured) == code


def test_a_rehearsal_makes_the_chip_it_needs_and_locks_it(tmp_path: Path) -> None:
    serial = "0123A1B2C3D4E5F6EE"
    uri = f"atecc:0?bus=rehearsal:{serial}.json&layout=der&lock=all"
    target = AteccTarget(uri, secrets=lambda _: Secret(b""), base=tmp_path)
    assert target.probe().identity == serial
    chip = Atecc608(tmp_path / f"{serial}.json")
    assert (chip.memory.config_locked, chip.memory.data_locked) == (False, False)
    target.make_key("p256", serial, OPEN)
    assert Atecc608(chip.path).memory.config_locked
    badly_named = AteccTarget(uri.replace(serial, "chip"), secrets=lambda _: Secret(b""), base=tmp_path)
    assert code_of(badly_named.probe, Misconfigured) == "atecc.bus"


def test_without_the_library_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birthmark.adapters.extras.find_spec", lambda _: None)
    target = AteccTarget("atecc:0?layout=der", secrets=lambda _: Secret(b""), base=tmp_path)
    assert code_of(target.probe, Misconfigured) == "extra.missing"


def test_a_bus_without_a_chip_is_silent(tmp_path: Path) -> None:
    target = AteccTarget("atecc:0?layout=der&bus=i2c:63", secrets=lambda _: Secret(b""), base=tmp_path)
    assert code_of(target.probe, Unavailable) == "atecc.silent"
