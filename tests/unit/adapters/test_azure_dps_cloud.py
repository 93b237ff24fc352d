"""The adapter for Azure DPS: what its URI says, what it never sends, what it makes of every answer."""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from birthmark.adapters.clouds.azure_dps import AzureDpsCloud, individual
from birthmark.adapters.clouds.azure_dps.auth import DPS_AUDIENCE, entra_tokens
from birthmark.adapters.clouds.azure_dps.documents import digest, pem, reference_name
from birthmark.adapters.clouds.azure_dps.uri import parse_dps_uri
from birthmark.errors import BirthmarkError, Misconfigured, Refused, Unavailable
from birthmark.model.secret import Secret
from birthmark.ports.cloud import CloudAuthority, Registration
from birthmark.testing.dps import EmulatedDps, FaultPlan
from birthmark.testing.dps.certs import ServerIdentity
from support.clouds.azure_dps import ARM, DpsService
from support.clouds.fleet import Fleet
from support.keyvault import TOKEN, key_vault

HOST = "azure-dps:dps1.azure-devices-provisioning.net"
KEY = "key=env:KEY"
VERIFIED = f"{KEY}&verified=elsewhere"


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[DpsService]:
    with EmulatedDps(mqtt_port=0) as dps:
        yield DpsService(dps, tmp_path)


@pytest.fixture
def opened(service: DpsService) -> Iterator[Callable[..., AzureDpsCloud]]:
    clouds: list[AzureDpsCloud] = []

    def open_cloud(**options: str) -> AzureDpsCloud:
        clouds.append(service.open(**options))
        return clouds[-1]

    yield open_cloud
    for cloud in clouds:
        cloud.close()


def code_of(act: Callable[[], object], family: type[BirthmarkError] = Refused) -> str:
    with pytest.raises(family) as caught:
        act()
    return caught.value.code


def offline(options: str = KEY) -> AzureDpsCloud:
    return AzureDpsCloud(f"{HOST}?{options}", secrets=lambda reference: Secret(b"a2V5"), base=Path())


@pytest.mark.parametrize(
    "uri",
    [
        "azure-dps:", f"{HOST}", f"{HOST}?{KEY}&auth=entra", f"{HOST}?auth=entra&{KEY}", f"aws:{HOST}?{KEY}",
        f"{HOST}?{KEY}&mode=both", f"{HOST}?{KEY}&unknown=1", f"{HOST}?{KEY}&{KEY}", f"{HOST}?{KEY}&hubs=",
        f"{HOST}?{KEY}&hubs=a,a", f"{HOST}?{KEY}&hubs=a,b&allocation=static", f"{HOST}?{KEY}&rate=0",
        f"{HOST}?{KEY}&rate=1e3", f"{HOST}?{KEY}&lanes=17", f"{HOST}?{KEY}&ca=reference",
        f"{HOST}?{KEY}&arm-host=a.example",
        f"{HOST}?{KEY}&ca=reference&arm=/subscriptions/../x", f"{HOST}?{KEY}&policy=a%20b",
        f"azure-dps:user@host?{KEY}", f"azure-dps:host/path?{KEY}", f"azure-dps:host:999999?{KEY}",
        f"{HOST}?{KEY}&ca=reference&arm={ARM}&arm-host=a/b", f"{HOST}?{KEY}&proof=upload",
        f"{HOST}?{VERIFIED}&arm={ARM}",
        f"{HOST}?{KEY}&ca=upload&arm-token=env:KEY", f"{HOST}?{KEY}&verified=yes", f"{HOST}?{VERIFIED}&mode=individual",
        f"{HOST}?{VERIFIED}&ca=upload&arm={ARM}", f"{HOST}?{VERIFIED}&ca=reference",
    ],
)  # fmt: skip
def test_a_uri_that_says_something_else_than_it_may_is_refused_at_once(uri: str) -> None:
    assert code_of(lambda: parse_dps_uri(uri), Misconfigured) == "cloud.uri"


def test_a_uri_says_everything_and_its_name_shows_no_reference() -> None:
    found = parse_dps_uri(f"{HOST.upper().replace('AZURE-DPS', 'azure-dps')}?{KEY}&hubs=a.example,b.example&rate=60")
    assert (found.hubs, found.rate, found.mode, found.ca) == (("a.example", "b.example"), 60, "groups", "upload")
    assert parse_dps_uri(f"{HOST}?{KEY}&arm={ARM}").ca == "reference"
    assert found.name == HOST
    assert offline().name == HOST


@pytest.mark.parametrize("key", [b"", b"not base64!", b"===="])
def test_a_key_that_is_none_is_named_and_not_shown(key: bytes) -> None:
    cloud = AzureDpsCloud(f"{HOST}?{KEY}", secrets=lambda reference: Secret(key), base=Path())
    assert cloud.estimate(10, []).steps  # a plan sends nothing and needs no key
    with pytest.raises(Misconfigured) as caught:
        cloud.page("")
    assert caught.value.code == "cloud.key"
    assert "not base64!" not in str(caught.value.document())


@pytest.mark.parametrize(
    ("serial", "good"),
    [
        ("SN-1", True), ("a", True), ("x" * 64, True), ("A.b_c:d-", True), ("9-", True), ("x" * 65, False),
        ("", False), ("a.", False), ("a:", False), ("a_", False), ("a b", False), ("sensör", False), ("a/b", False),
        ("a\n", False), ("a+b", False),
    ],
)  # fmt: skip
def test_names_are_those_that_the_service_takes(serial: str, good: bool) -> None:
    blocked = Registration(serial, "blocked", (), ())
    if good:
        expected = offline().expected(blocked)
        assert expected is not None
        assert (expected.key, expected.name, expected.certificates) == (serial.lower(), serial, ())
    else:
        assert code_of(lambda: offline().expected(blocked)) == "cloud.name.refused"


def other(fleet: Fleet, key: Any, algorithm: Any = None, cn: str = "unit-1") -> bytes:
    issuer, issuer_key = fleet.issuing()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, cn)])
    builder = x509.CertificateBuilder(issuer.subject, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(issuer.not_valid_before_utc).not_valid_after(issuer.not_valid_after_utc)
    return builder.sign(issuer_key, algorithm or hashes.SHA256()).public_bytes(Encoding.DER)


def test_certificates_are_those_that_the_service_takes(fleet: Fleet) -> None:
    p256, good = ec.generate_private_key(ec.SECP256R1()), fleet.certificate("unit-1")
    bad = {
        "cloud.certificate.kind": [
            (b"\x30\x00",), (other(fleet, ed25519.Ed25519PrivateKey.generate()),),
            (other(fleet, ec.generate_private_key(ec.SECP521R1())),), (other(fleet, p256, hashes.SHA512()),),
        ],
        "cloud.certificate.name": [(fleet.certificate("unit-2"),), (good, fleet.certificate("UNIT-1"))],
        "cloud.certificate.count": [(), (good, good, good)],
    }  # fmt: skip
    for code, certificates in bad.items():
        for these in certificates:
            told = Registration("unit-1", "enabled", these, fleet.chain())
            assert code_of(lambda told=told: offline().expected(told)) == code  # type: ignore[misc]


def test_a_million_devices_by_groups_cost_no_call_each_and_one_by_one_a_hundred_minutes(fleet: Fleet) -> None:
    groups = offline(VERIFIED).estimate(1_000_000, [fleet.authority()])
    assert groups.obstacles == ()
    assert sum(step.calls for step in groups.steps) <= 2
    assert "100000 bulk calls of 10, 100 minutes" in " ".join(step.why for step in groups.steps)
    assert "different hubs" in " ".join(step.why for step in groups.steps)
    alone = offline(f"{KEY}&mode=individual").estimate(1_000_000, [fleet.authority()])
    (told,) = [step for step in alone.steps if step.calls]
    assert (told.calls, told.minutes) == (100_000, 100.0)


def test_what_breaks_a_quota_is_an_obstacle_with_the_way_out(fleet: Fleet) -> None:
    many = [CloudAuthority(f"ca-{number}", fleet.authority().certificates, ()) for number in range(101)]
    assert codes(offline(VERIFIED), 1000, many) == ["cloud.groups.too_many"]
    assert "100 bulk calls" in offline(VERIFIED).estimate(1000, many).obstacles[0].hint
    assert codes(offline(f"{KEY}&mode=individual"), 1000, many) == []
    assert codes(offline(VERIFIED), 1_000_001, many[:1]) == ["cloud.devices.too_many"]
    reference = f"{KEY}&ca=reference&arm={ARM}&arm-token=env:KEY"
    assert codes(offline(reference), 1, many[:26]) == ["cloud.cas.too_many"]
    assert codes(offline(reference), 1, many[:25]) == []
    twice = [CloudAuthority(name, fleet.authority().certificates, ()) for name in ("Line", "line")]
    assert codes(offline(VERIFIED), 1, twice) == ["cloud.name.taken"]
    assert codes(offline(VERIFIED), 1, [CloudAuthority("a b", many[0].certificates, ())]) == ["cloud.name.refused"]


def codes(cloud: AzureDpsCloud, devices: int, authorities: list[CloudAuthority]) -> list[str]:
    return [one.code for one in cloud.estimate(devices, authorities).obstacles]


def test_groups_below_no_verified_ca_are_never_made_and_nobody_is_said_to_be_let_in(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    """Azure would turn every device away (401002), though the group stands there."""
    cloud, told = opened(ca="upload", verified="here"), [fleet.registration("unit-1")]
    (obstacle,) = cloud.estimate(1, [fleet.authority()]).obstacles
    assert obstacle.code == "cloud.ca.unverified"
    assert "arm=" in obstacle.hint
    assert "verified=elsewhere" in obstacle.hint
    assert code_of(lambda: cloud.prepare([fleet.authority()], fleet.prove), Misconfigured) == "cloud.ca.unverified"
    assert cloud.calls == 0
    opened(ca="upload", verified="elsewhere").prepare([fleet.authority()], fleet.prove)
    assert code_of(lambda: cloud.tell(told), Misconfigured) == "cloud.ca.unverified"
    assert [one.kind for one in opened(ca="upload", verified="elsewhere").tell(told)] == ["covered"]
    assert [one.kind for one in cloud.tell([fleet.registration("unit-2", "blocked")])] == ["done"]
    assert opened(mode="individual").estimate(1, []).obstacles == ()


@pytest.mark.parametrize("who", ["nobody", "root", "stranger", "the issuing CA", "the root, not yet proven"])
def test_an_uploaded_ca_is_proven_unless_one_in_its_chain_is_verified_there(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud], who: str
) -> None:
    root = b64encode(fleet.chain()[1]).decode()
    match who:
        case "root" | "the root, not yet proven":
            body = {"properties": {"certificate": root, "isVerified": who == "root"}}
            service.ask("PUT", f"{ARM}/certificates/our-root", body)
        case "stranger":
            service.verify(Fleet(), "issuing")
        case "the issuing CA":
            service.verify(fleet, "issuing")
    needed = who not in ("root", "the issuing CA")
    before, proofs = len(service.ask("GET", f"{ARM}/certificates")["value"]), len(fleet.proofs)
    cloud = opened(ca="upload")
    first = cloud.prepare([fleet.authority()], fleet.prove)
    assert first[0].endswith("possession proven") is needed
    assert ("verified there" in first[0]) is not needed
    assert first[1] == "group issuing: made"
    assert len(fleet.proofs) == proofs + needed
    assert len(service.ask("GET", f"{ARM}/certificates")["value"]) == before + needed
    snapshot = service.snapshot()
    assert "verified there" in cloud.prepare([fleet.authority()], fleet.prove)[0]
    assert service.snapshot() == snapshot
    group = service.ask("GET", "/enrollmentGroups/issuing")["attestation"]["x509"]
    assert group["signingCertificates"]["primary"]["info"]["sha256Thumbprint"].lower() == digest(
        fleet.authority().certificates[0]
    )


def test_a_renewed_certificate_is_proven_beside_one_that_is(fleet: Fleet, opened: Callable[..., AzureDpsCloud]) -> None:
    cloud = opened(ca="upload")
    cloud.prepare([fleet.authority()], fleet.prove)
    lines = cloud.prepare([fleet.authority(renewed=True)], fleet.prove)
    assert [line.rpartition(": ")[2] for line in lines] == [
        "verified there", "possession proven", "changed to what was told"
    ]  # fmt: skip


def test_names_that_differ_by_case_alone_are_never_written_over(
    fleet: Fleet, opened: Callable[..., AzureDpsCloud]
) -> None:
    cloud = opened(mode="individual")
    upper, lower = fleet.registration("UNIT-9"), fleet.registration("unit-9")
    (first, second) = cloud.tell([upper, lower])
    assert (first.kind, second.kind, second.code) == ("done", "refused", "cloud.name.taken")
    assert [(one.kind, one.code) for one in cloud.tell([lower])] == [("refused", "cloud.name.taken")]
    assert [one.kind for one in cloud.tell([upper])] == ["same"]


def test_what_others_wrote_into_a_record_stays(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    cloud, told = opened(mode="individual"), fleet.registration("unit-1")
    cloud.tell([told])
    held = service.ask("GET", "/enrollments/unit-1")
    twin = {"tags": {"colour": "red"}, "properties": {"desired": {"interval": 5}}}
    service.ask("PUT", "/enrollments/unit-1", {**held, "initialTwin": twin}, If_Match=held["etag"])
    assert [one.kind for one in cloud.tell([told])] == ["same"]
    blocked = Registration("unit-1", "blocked", told.certificates, told.chain)
    assert [one.kind for one in cloud.tell([blocked])] == ["done"]
    held = service.ask("GET", "/enrollments/unit-1")
    assert (held["initialTwin"], held["provisioningStatus"]) == (twin, "disabled")


def test_policies_and_hubs_are_compared_as_well(fleet: Fleet, opened: Callable[..., AzureDpsCloud]) -> None:
    told = [fleet.registration("unit-1")]
    assert opened(mode="individual").tell(told)[0].kind == "done"
    for options in ({"reprovision": "never"}, {"allocation": "static", "hubs": "hub.azure-devices.net"}):
        changed = opened(mode="individual", **options)
        assert [changed.tell(told)[0].kind for _ in range(2)] == ["done", "same"]
    assert opened(mode="individual", hubs="other.example").tell(told)[0].code == "cloud.record.refused"


def test_devices_of_a_ca_without_an_enabled_group_are_not_said_to_be_let_in(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    cloud, told = opened(), [fleet.registration("unit-1")]
    assert code_of(lambda: cloud.tell(told), Misconfigured) == "cloud.group.missing"
    cloud.prepare([fleet.authority()], fleet.prove)
    assert cloud.tell(told)[0].kind == "covered"
    group = service.ask("GET", "/enrollmentGroups/issuing")
    service.ask("PUT", "/enrollmentGroups/issuing", {**group, "provisioningStatus": "disabled"}, If_Match="*")
    assert code_of(lambda: opened().tell(told), Misconfigured) == "cloud.group.missing"
    assert code_of(lambda: opened().prepare([fleet.authority()], fleet.prove)) == "cloud.group.disabled"


def test_a_device_is_let_in_again_though_not_all_blocked_ones_were_read(
    fleet: Fleet, opened: Callable[..., AzureDpsCloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(individual, "PAGE", 2)
    cloud = opened()
    cloud.prepare([fleet.authority()], fleet.prove)
    blocked = [fleet.registration(f"unit-{number}", "blocked") for number in range(7)]
    cloud.tell(blocked)
    again = [Registration(one.device_serial, "enabled", one.certificates, one.chain) for one in blocked[5:]]
    fresh = opened()
    assert [one.kind for one in fresh.tell([fleet.registration("unit-x"), *again])] == ["covered", "done", "done"]
    assert {one.name for one in fresh.page("").records} <= {f"unit-{number}" for number in range(5)}
    for _ in range(4):
        assert [one.kind for one in fresh.tell(again)] == ["covered", "covered"]
    assert fresh.calls_of(again) == 0


def test_a_storm_of_faults_ends_with_every_device_known_once(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    cloud = opened(mode="individual")
    told = [
        fleet.registration(f"unit-{number:03d}", "blocked" if number % 7 == 0 else "enabled") for number in range(60)
    ]
    service.dps.faults.set(FaultPlan(seed=4, throttled=0.2, lost=0.15, half_bulk=0.2))
    failures = 0
    for at in range(0, len(told), 10):
        while True:
            try:
                outcomes = cloud.tell(told[at : at + 10])
            except Unavailable:
                failures += 1
                assert failures < 2000
                continue
            assert {one.kind for one in outcomes} <= {"done", "same"}
            break
    service.heal()
    assert failures > 5
    assert {one.key: one for one in cloud.page("").records} == {one.device_serial: cloud.expected(one) for one in told}


def test_a_ca_that_proves_itself_with_another_key_is_refused_before_it_is_sent(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    cloud, stranger = opened(ca="reference"), Fleet()
    assert code_of(lambda: cloud.prepare([fleet.authority()], stranger.prove)) == "cloud.ca.unproven"
    assert code_of(lambda: cloud.prepare([fleet.authority()], lambda ca, code: b"\x30\x00")) == "cloud.ca.unproven"
    (held,) = service.ask("GET", f"{ARM}/certificates")["value"]
    assert held["properties"]["isVerified"] is False
    assert cloud.prepare([fleet.authority()], fleet.prove)[0].endswith("possession proven")


def test_a_ca_can_be_taken_as_proven_and_another_ones_place_is_never_taken(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    own = fleet.authority()
    name = reference_name("issuing", own.certificates[0])
    body = {"properties": {"certificate": pem(fleet.chain()[1]), "isVerified": True}}
    service.ask("PUT", f"{ARM}/certificates/{name}", body)
    cloud = opened(ca="reference", proof="upload")
    assert code_of(lambda: cloud.prepare([own], fleet.prove)) == "cloud.ca.differs"
    lines = cloud.prepare([fleet.authority("second")], fleet.prove)
    assert "taken as proven" in lines[0]


def test_groups_that_are_there_count_against_the_quota(fleet: Fleet, opened: Callable[..., AzureDpsCloud]) -> None:
    there = {"ca": "upload", "verified": "elsewhere", "most_groups": "2"}
    opened(**there).prepare([fleet.authority("a"), fleet.authority("b")], fleet.prove)
    assert code_of(lambda: opened(**there).prepare([fleet.authority("c")], fleet.prove)) == "cloud.groups.too_many"
    opened(ca="reference", most_cas="1", most_groups="9").prepare([fleet.authority("d")], fleet.prove)
    late = opened(ca="reference", most_cas="1", most_groups="9")
    assert code_of(lambda: late.prepare([fleet.authority("e")], fleet.prove)) == "cloud.cas.too_many"


def test_a_device_with_a_tpm_is_known_by_its_endorsement_key_and_that_is_compared(
    fleet: Fleet, service: DpsService, opened: Callable[..., AzureDpsCloud]
) -> None:
    keys = service.directory / "keys.jsonl"
    said = {"device_serial": "unit-tpm", "endorsement_key": "AToAAQALAAMAsgAg"}
    keys.write_text(json.dumps(said) + "\n")
    told = [fleet.registration("unit-tpm"), fleet.registration("unit-1")]
    cloud = opened(mode="individual", endorsements="keys.jsonl")
    assert cloud.calls_of(told) == 5
    for expected in ("done", "same"):
        assert [one.kind for one in cloud.tell(told)] == [expected] * 2
    assert cloud.expected(told[0]) in cloud.page("").records
    shown = service.ask("POST", "/enrollments/unit-tpm/attestationmechanism")
    assert shown["tpm"]["endorsementKey"] == said["endorsement_key"]
    keys.write_text(json.dumps({**said, "endorsement_key": "AToAAQALAAMAsgAh"}) + "\n")
    again = opened(mode="individual", endorsements="keys.jsonl")
    assert [one.kind for one in again.tell(told)] == ["done", "same"]
    assert [one.kind for one in opened(mode="individual").tell(told)] == ["done", "same"]
    for wrong in ("{}", "[" * 5000, json.dumps({**said, "endorsement_key": "?"}), f"{json.dumps(said)}\n" * 2, "\xff"):
        keys.write_text(wrong)
        assert code_of(lambda: opened(mode="individual", endorsements="keys.jsonl"), Misconfigured) == (
            "cloud.endorsements"
        )


class Liar(BaseHTTPRequestHandler):
    """Answers everything with ``answer``: status, headers, body."""

    protocol_version = "HTTP/1.1"
    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"")
    seen: list[dict[str, str]] = []  # noqa: RUF012  emptied by the fixture

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        status, headers, body = self.answer
        self.seen.append(dict(self.headers))
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[tuple[type[Liar], str]]:
    identity = ServerIdentity(["127.0.0.1"])
    chain, key = tmp_path / "server.pem", tmp_path / "server.key"
    chain.write_bytes(identity.certificate.public_bytes(Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "root.pem").write_text(identity.root_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    handler = type("Handler", (Liar,), {"seen": []})
    with Quiet(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield handler, f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


BODY = json.dumps({"errorCode": 400007, "message": "No\nroom " + "x" * 999, "trackingId": "t"}).encode()


@pytest.mark.parametrize(
    ("answer", "family", "code", "after"),
    [
        ((429, {"retry-after": "7"}, b""), Unavailable, "cloud.throttled", 7),
        ((429, {"retry-after": "999999999"}, b""), Unavailable, "cloud.throttled", 3600),
        ((429, {"retry-after": "soon"}, b"<html>"), Unavailable, "cloud.throttled", None),
        ((503, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""), Unavailable, "cloud.busy", 0),
        ((500, {}, BODY), Unavailable, "cloud.busy", None),
        ((401, {}, BODY), Misconfigured, "cloud.credentials", None),
        ((403, {}, b""), Misconfigured, "cloud.credentials", None),
        ((404, {}, b""), Misconfigured, "cloud.address", None),
        ((302, {"location": "https://elsewhere.example/"}, b""), Misconfigured, "cloud.address", None),
        ((400, {}, BODY), Refused, "cloud.call.refused", None),
        ((418, {}, b"[" * 100_000), Refused, "cloud.call.refused", None),
        ((200, {}, b""), Misconfigured, "cloud.answer", None),
        ((200, {}, b"[" * 100_000), Misconfigured, "cloud.answer", None),
        ((200, {}, b'{"isSuccessful":false}'), Misconfigured, "cloud.answer", None),
        ((200, {}, b'{"isSuccessful":true,"errors":[{"registrationId":"x"}]}'), Misconfigured, "cloud.answer", None),
        ((200, {}, b"\xff\xfe"), Misconfigured, "cloud.answer", None),
        ((200, {"content-encoding": "gzip"}, b"\x1f\x8b"), Misconfigured, "cloud.answer", None),
        ((200, {"content-length": "99", "connection": "close"}, b"{"), Unavailable, "cloud.unreachable", None),
        ((200, {"content-length": str(32 << 20)}, b" " * (17 << 20)), Misconfigured, "cloud.answer", None),
    ],
)
def test_every_answer_ends_in_its_family_and_shows_no_token(
    fleet: Fleet,
    liar: tuple[type[Liar], str],
    tmp_path: Path,
    answer: tuple[int, dict[str, str], bytes],
    family: type[BirthmarkError],
    code: str,
    after: int | None,
) -> None:
    handler, host = liar
    handler.answer = answer
    uri = f"azure-dps:{host}?key=env:KEY&trust=root.pem&mode=individual"
    cloud = AzureDpsCloud(uri, secrets=lambda reference: Secret(b"c2VjcmV0LWNhbmFyeQ=="), base=tmp_path)
    with pytest.raises(family) as caught:
        cloud.tell([fleet.registration("unit-1", "blocked")])
    cloud.close()
    assert (caught.value.code, caught.value.facts.get("retry_after")) == (code, after)
    token = handler.seen[0].get("authorization") or handler.seen[0]["Authorization"]
    shown = f"{caught.value.document()} {caught.value.__cause__!r}"
    assert len(shown) < 2000
    assert "\\n" not in caught.value.message
    assert token.startswith("SharedAccessSignature sr=")
    assert not any(secret in shown for secret in (token, "c2VjcmV0", "secret-canary", token.partition("sig=")[2][:20]))


@pytest.mark.parametrize("name", ["", "a b", "\u001b[2J", "x" * 129, "\u202egnp"])
def test_names_that_no_record_can_have_never_reach_a_screen(
    liar: tuple[type[Liar], str], tmp_path: Path, name: str
) -> None:
    handler, host = liar
    uri = f"azure-dps:{host}?key=env:KEY&trust=root.pem"
    cloud = AzureDpsCloud(uri, secrets=lambda reference: Secret(b"a2V5"), base=tmp_path)
    for names in ({"registrationId": name}, {"registrationId": "unit-1", "deviceId": name or " "}):
        row = {**names, "attestation": {"type": "tpm"}}
        handler.answer = (200, {"x-ms-continuation": "more"}, json.dumps([row]).encode())
        assert code_of(lambda: cloud.page(""), Misconfigured) == "cloud.answer"
    slots = {"primary": {"info": {"sha256Thumbprint": "\x1b[2J"}}, "secondary": None}
    good = {"registrationId": "unit-1", "attestation": {"type": "x509", "x509": {"clientCertificates": slots}}}
    handler.answer = (200, {"x-ms-continuation": "more"}, json.dumps([good]).encode())
    page = cloud.page("")
    assert (page.after, page.records[0].certificates) == ("more", ("unreadable",))
    cloud.close()


def test_who_stands_between_and_who_is_not_there_are_named(
    fleet: Fleet, liar: tuple[type[Liar], str], tmp_path: Path
) -> None:
    handler, host = liar
    told = [fleet.registration("unit-1", "blocked")]
    for text, family, code in (
        (f"azure-dps:{host}?key=env:KEY", Misconfigured, "cloud.tls"),
        ("azure-dps:127.0.0.1:1?key=env:KEY", Unavailable, "cloud.unreachable"),
    ):
        cloud = AzureDpsCloud(text, secrets=lambda reference: Secret(b"a2V5"), base=tmp_path)
        assert code_of(lambda cloud=cloud: cloud.tell(told), family) == code  # type: ignore[misc]
        cloud.close()
    assert handler.seen == []
    missing = f"azure-dps:{host}?key=env:KEY&trust=none.pem"
    assert code_of(
        lambda: AzureDpsCloud(missing, secrets=lambda reference: Secret(b"a2V5"), base=tmp_path), Misconfigured
    ) == "cloud.tls.files"  # fmt: skip


def test_entra_lets_us_in_where_no_key_is_named(
    fleet: Fleet, service: DpsService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK of Microsoft asks a token endpoint of ours; the resource manager of the emulator takes its token."""
    with key_vault(tmp_path) as vault:
        for name, value in {"IDENTITY_ENDPOINT": vault.token_url, "IDENTITY_HEADER": "x"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
        service.dps.management_token = service.token = TOKEN
        uri = service.uri(ca="reference").replace("&arm-token=test%3Atoken", "")
        cloud = AzureDpsCloud(uri, secrets=service.secret, base=tmp_path)
        assert cloud.prepare([fleet.authority()], fleet.prove)[0].endswith("possession proven")
        cloud.close()
        assert entra_tokens(DPS_AUDIENCE)() == f"Bearer {TOKEN}"
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    alone = AzureDpsCloud(f"azure-dps:{service.host}?auth=entra", secrets=service.secret, base=tmp_path)
    assert code_of(lambda: alone.page(""), Misconfigured) == "cloud.credentials"
    alone.close()
