"""An attacker's list against the service: a test each, on the real server."""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from birthmark.model import events as e
from birthmark.pki.algorithms import spki_of
from birthmark.shell.sites.report import write_report_file
from birthmark.shell.workspace.wiring import open_workspace
from birthmark.wire.report import open_acknowledgement
from birthmark.wire.vault import open_slot
from support.serviceworld import BORN, ELSEWHERE, POOLED, Running, World, build_world, device_csr
from support.serving import BIRTHMARK
from support.stationworld import events_of

PROXY_HEADER = "x-ssl-cert"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("attacks") / "world")


@pytest.fixture(scope="module")
def running(world: World) -> Iterator[Running]:
    with world.running() as running:
        yield running


def asked(device_serial: str, attempt: str = "attempt-0001", csr: bytes | None = None) -> dict[str, object]:
    body: dict[str, object] = {"attempt": attempt, "device_serial": device_serial}
    return body if csr is None else {**body, "csr": base64.b64encode(csr).decode()}


def post(world: World, running: Running, who: str | None, body: object, **headers: str) -> httpx.Response:
    with world.client(running.url, who) as client:
        return client.post("/v1/credentials", json=body, headers=headers)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


def state_of(world: World, device_serial: str) -> str:
    with open_workspace(world.hq, publish=False) as hq:
        return str(hq.records.device(device_serial).state)


def test_stolen_certificate_of_another_site_gets_nothing(world: World, running: Running) -> None:
    body = asked(BORN[0], csr=device_csr(BORN[0]))
    assert code(post(world, running, "munich", body)) == (403, "service.other_site")
    assert code(post(world, running, "line1", asked(ELSEWHERE[0], csr=device_csr(ELSEWHERE[0])))) == (
        403, "service.other_site",
    )  # fmt: skip
    assert state_of(world, BORN[0]) == "ordered"
    with open_workspace(world.hq, publish=False) as hq:
        last = [event for event in events_of(hq.ledger) if isinstance(event, e.Rejected)]
        assert {event.station for event in last} >= {"munich/line1", "shenzhen/line1"}, "both are on record"
    with world.client(running.url, "munich") as client:
        assert code(client.get(f"/v1/devices/{BORN[0]}")) == (403, "service.other_site")
        assert [order["order"] for order in client.get("/v1/orders").json()["orders"]] == ["other"]
        assert code(client.get("/v1/orders/born/bundle")) == (403, "service.other_site")


@pytest.mark.parametrize("who", ["auditor", "operator", "proxy"])
def test_other_roles_are_given_no_identities(world: World, running: Running, who: str) -> None:
    assert code(post(world, running, who, asked(BORN[0], csr=device_csr(BORN[0])))) == (403, "service.role")
    with world.client(running.url, who) as client:
        assert client.post("/v1/reports", content=b"x").status_code == 403


@pytest.mark.parametrize(
    ("who", "expected"), [(None, (401, "service.access.missing")), ("withdrawn", (403, "service.access.withdrawn")),
                          ("unknown", (403, "service.access.unknown"))],
)  # fmt: skip
def test_who_is_not_let_in_gets_nothing(
    world: World, running: Running, who: str | None, expected: tuple[int, str]
) -> None:
    assert code(post(world, running, who, asked(BORN[0], csr=device_csr(BORN[0])))) == expected


@pytest.mark.parametrize("who", ["stranger", "expired"])
def test_certificate_of_another_ca_or_time_does_not_connect(world: World, running: Running, who: str) -> None:
    with pytest.raises(httpx.TransportError):
        post(world, running, who, asked(BORN[0], csr=device_csr(BORN[0])))


def test_withdrawal_counts_on_a_connection_that_is_open(world: World, running: Running) -> None:
    with world.client(running.url, "operator") as client:
        assert client.get("/v1/orders").status_code == 200
        with open_workspace(world.hq, publish=False) as hq, hq.ledger.transaction() as tx:
            spki = world.pairs["operator"].spki_sha256
            tx.append(e.AccessWithdrawn(at=e.utc_text(hq.clock()), spki_sha256=spki, reason="left", by="test"))
        assert code(client.get("/v1/orders")) == (403, "service.access.withdrawn")


def forwarded(world: World, who: str) -> list[str]:
    pair = world.pairs[who]
    rfc9440 = f":{base64.b64encode(pair.der).decode()}:"
    return [rfc9440, urllib.parse.quote(pair.certificate.public_bytes(Encoding.PEM).decode())]


@pytest.mark.parametrize("name", ["client-cert", "Client-Cert", "CLIENT-CERT"])
@pytest.mark.parametrize("who", [None, "line1", "auditor"])
def test_smuggled_client_certificate_header_is_refused(
    world: World, running: Running, who: str | None, name: str
) -> None:
    for value in (*forwarded(world, "line1"), ""):
        answer = post(world, running, who, asked(BORN[0], csr=device_csr(BORN[0])), **{name: value})
        assert code(answer) == (400, "service.header.forbidden")
    with world.client(running.url, who) as client:
        assert code(client.get("/healthz", headers={name: "x"})) == (400, "service.header.forbidden")


def test_proxy_may_forward_a_certificate_once_and_whole(world: World, running: Running) -> None:
    for value in forwarded(world, "line1"):
        with world.client(running.url, "proxy") as client:
            got = client.get("/v1/orders", headers={"client-cert": value})
            assert {order["order"] for order in got.json()["orders"]} == {"born", "pooled"}
            twice = client.get("/v1/orders", headers=[("client-cert", value), ("client-cert", value)])
            assert code(twice) == (400, "service.header.malformed")
    for value, expected in (
        (forwarded(world, "stranger")[0], "service.access.issuer"),
        (forwarded(world, "withdrawn")[0], "service.access.withdrawn"),
        (forwarded(world, "expired")[0], "service.access.expired"),
        (":AAAA:", "service.header.malformed"),
        (":!:", "service.header.malformed"),
        ("garbage", "service.header.malformed"),
        ("", "service.access.missing"),
    ):
        with world.client(running.url, "proxy") as client:
            assert code(client.get("/v1/orders", headers={"client-cert": value}))[1] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "service.request.malformed")),
        (b"{}", (400, "service.request.malformed")),
        (b"[" * 100_000, (400, "service.request.malformed")),
        (b'{"attempt":"attempt-0001","device_serial":"EL-0001","extra":1}', (400, "service.request.malformed")),
        (b'{"attempt":"attempt-0001","device_serial":"../../etc"}', (400, "service.request.malformed")),
        (b'{"attempt":"attempt-0001","device_serial":"EL-0001","csr":"!"}', (400, "service.request.malformed")),
        (b'{"attempt":"attempt-0001","device_serial":"\xff"}', (400, "service.request.malformed")),
        (b'{"attempt":"a","device_serial":"EL-0001"}', (400, "service.request.malformed")),
        (b" " * 200_000, (413, "service.request.too_long")),
    ],
    ids=["empty", "no members", "nesting bomb", "unknown member", "path", "no base64", "no text", "short", "long"],
)
def test_malformed_body_is_refused(world: World, running: Running, body: bytes, expected: tuple[int, str]) -> None:
    with world.client(running.url, "line1") as client:
        assert code(client.post("/v1/credentials", content=body)) == expected


def test_oversize_body_without_a_length_is_cut_off(world: World, running: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(4096):
            yield b"x" * 65536

    with world.client(running.url, "line1") as client:
        try:
            answer = client.post("/v1/credentials", content=endless())
            assert code(answer) == (413, "service.request.too_long")
        except httpx.TransportError:
            pass  # the service does not wait until everything is said


def test_huge_csr_is_refused_and_the_next_request_is_served(world: World, running: Running) -> None:
    with world.client(running.url, "line1") as client:
        assert code(client.post("/v1/credentials", json=asked(BORN[2], csr=b"\x30" * 66_000))) == (422, "csr.size")
        weak = ec.derive_private_key(7, ec.SECP256R1())
        other = client.post("/v1/credentials", json=asked(BORN[2], "attempt-0010", csr=device_csr(BORN[2], weak)))
        assert code(other) == (422, "csr.key.weak")
        got = client.post("/v1/credentials", json=asked(BORN[2], "attempt-0011", csr=device_csr(BORN[2])))
        assert got.status_code == 200


def test_one_attempt_or_key_or_device_gets_one_identity(world: World, running: Running) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    first = asked(BORN[3], "attempt-0020", csr=device_csr(BORN[3], key))
    with world.client(running.url, "line1") as client:
        got = client.post("/v1/credentials", json=first)
        assert client.post("/v1/credentials", json=first).json() == got.json()
        other_key = asked(BORN[3], "attempt-0020", csr=device_csr(BORN[3]))
        assert code(client.post("/v1/credentials", json=other_key)) == (409, "attempt.reused")
        other_device = asked(BORN[4], "attempt-0020", csr=device_csr(BORN[4]))
        assert code(client.post("/v1/credentials", json=other_device)) == (409, "attempt.reused")
        same_key = asked(BORN[4], "attempt-0021", csr=device_csr(BORN[4], key))
        assert code(client.post("/v1/credentials", json=same_key)) == (422, "key.reused")
        second = asked(BORN[3], "attempt-0022", csr=device_csr(BORN[3]))
        assert code(client.post("/v1/credentials", json=second)) == (409, "device.has_identity")
        assert client.post("/v1/credentials", json=asked(POOLED[0], "attempt-0030")).status_code == 200
        again = client.post("/v1/credentials", json=asked(POOLED[0], "attempt-0031"))
        assert code(again) == (409, "pool.drawn")


PATHS = (
    "/log/../birthmark.toml",
    "/log/..%2fbirthmark.toml",
    "/log/%2e%2e/%2e%2e/etc/passwd",
    "/log/tile/entries/../../../keys/vault.pem",
    "/log//etc/passwd",
    "/log/tile/0/000.p/../../../../keys/log.pem",
    "/ca/..%2fkeys%2flog.pem",
    "/ca/root.key",
    "/crl/..%2f..%2fkeys%2flog.crl",
    "/crl/root%00.crl",
    "/v1/orders/..%2f..%2fkeys/manifest",
    "/v1/orders/born/..%2f..%2fbirthmark.toml",
)


@pytest.mark.parametrize("path", PATHS)
def test_path_tricks_lead_nowhere(world: World, running: Running, path: str) -> None:
    context = world.tls("auditor")
    with (
        socket.create_connection(("127.0.0.1", running.port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tls.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"400", b"404", b"409"), answer[:300]
    assert b"PRIVATE" not in answer
    assert b"birthmark-workspace" not in answer


def test_public_files_are_there_and_cacheable(world: World, running: Running) -> None:
    with world.client(running.url, None) as client:
        ca = client.get("/ca/issuing.der")
        assert ca.status_code == 200
        assert client.get("/ca/issuing.der", headers={"if-none-match": ca.headers["etag"]}).status_code == 304
        assert client.get("/ca/root.pem").text.startswith("-----BEGIN CERTIFICATE")
        assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)
        assert code(client.get("/log/checkpoint")) == (403, "service.role")
        assert client.get("/metrics").status_code == 401
        assert client.get("/nowhere").json()["error"] == "service.not_found"
        assert client.delete("/healthz").json()["error"] == "service.method"
    with world.client(running.url, "auditor") as client:
        assert client.get("/log/checkpoint").headers["cache-control"] == "no-cache"
        assert b"birthmark_requests_total" in client.get("/metrics").content


def half_open(world: World, running: Running, who: str, first: bytes) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", running.port))
    tls = world.tls(who).wrap_socket(plain, server_hostname="127.0.0.1")
    tls.sendall(first)
    return tls


def test_slow_client_is_closed_and_others_are_served_meanwhile(world: World, running: Running) -> None:
    slow = [
        half_open(world, running, "line1", first)
        for first in (
            b"",
            b"POST /v1/cred",
            b"POST /v1/credentials HTTP/1.1\r\ncontent-length: 100\r\n\r\n{",
        )
    ]
    with world.client(running.url, "line1") as client:
        assert client.get("/v1/orders").status_code == 200
    for connection in slow:
        connection.settimeout(60)
        with suppress(OSError):  # a reset is an end as well
            assert connection.recv(1000) == b""
        connection.close()


def test_endless_header_is_cut_off(world: World, running: Running) -> None:
    connection = half_open(world, running, "line1", b"GET / HTTP/1.1\r\nx: ")
    connection.settimeout(60)
    with suppress(OSError):  # closed while we talked
        for _ in range(64):
            connection.sendall(b"y" * 4096)
        answer = connection.recv(1000)
        assert answer == b"" or b" 431 " in answer
    connection.close()


def test_secrets_are_in_no_answer_and_no_log(world: World) -> None:
    csr = device_csr(BORN[9])
    # A server of its own: what it said is whole in the log when it has ended.
    with (
        world.running() as running,
        world.client(running.url, "line1") as client,
        world.client(running.url, "auditor") as auditor,
    ):
        client.post("/v1/credentials", json=asked(BORN[9], "attempt-0090", csr=csr))
        sealed = client.post("/v1/credentials", json=asked(POOLED[9], "attempt-0091"))
        client.post("/v1/credentials?token=canary-in-a-query", json={"canary-in-a-body": 1})
        client.get("/nowhere/canary-in-a-path", headers={"authorization": "canary-in-a-header"})
        metrics = auditor.get("/metrics").content
    with open_workspace(world.site, publish=False) as site:
        body = sealed.json()
        certificate = x509.load_der_x509_certificate(base64.b64decode(body["certificate"]))
        parts = [base64.b64decode(body["sealed"][name]) for name in ("encapsulated", "slot")]
        spki_hash = sha256(spki_of(certificate.public_key())).digest()
        key = open_slot(site.vault_key, parts[0], parts[1], 0, spki_hash).reveal()
    said = running.log.read_bytes() + metrics + sealed.content
    scalar = key[36:68]
    for secret in (
        b"canary",
        scalar,
        scalar.hex().encode(),
        base64.b64encode(key)[8:60],
        (world.hq / "secrets" / "passphrase").read_bytes(),
    ):
        assert secret not in said
    assert b'"event":"request"' in running.log.read_bytes()


def site_report(world: World, place: Path) -> bytes:
    with open_workspace(world.site) as site:
        site.publish()
        write_report_file(site, place, since=0)
    return place.read_bytes()


def test_a_report_is_taken_in_once_and_acknowledged(world: World, running: Running, tmp_path: Path) -> None:
    data = site_report(world, tmp_path / "report")
    vkey = (world.hq / "log" / "vkey").read_text().strip()
    with world.client(running.url, "line1") as client:
        for outcome in ("taken", "old"):
            got = client.post("/v1/reports", content=data)
            assert (got.status_code, got.json()["octets"], got.json()["outcome"]) == (200, len(data), outcome)
            ack = open_acknowledgement(base64.b64decode(got.json()["acknowledgement"]), vkey)
            assert (ack.site, ack.size) == ("shenzhen", got.json()["acknowledged"])
    assert list((world.hq / "sites" / "shenzhen" / "inbox").iterdir()) == []


def test_a_report_that_is_not_whole_or_not_of_the_site_leaves_nothing(
    world: World, running: Running, tmp_path: Path
) -> None:
    data = site_report(world, tmp_path / "report")
    forged = bytearray(data)
    forged[len(forged) // 2] ^= 1
    inbox = world.hq / "sites" / "shenzhen" / "inbox"
    with world.client(running.url, "line1") as client:
        for wrong in (os.urandom(300_000), b"", data[:-40], bytes(forged)):
            got = client.post("/v1/reports", content=wrong)
            assert got.status_code == 422, got.text
            assert got.json()["family"] in ("Tampered", "Refused")
    with world.client(running.url, "munich") as client:
        assert code(client.post("/v1/reports", content=data)) == (403, "service.other_site")
    half = half_open(
        world, running, "line1", b"POST /v1/reports HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc"
    )
    half.close()
    with world.client(running.url, "line1") as client:
        assert client.get("/v1/orders").status_code == 200
    assert [path for path in inbox.iterdir() if path.suffix == ".report"] == []
    with open_workspace(world.hq, publish=False) as hq:
        assert hq.records.site("munich").reported == 0


def test_a_report_without_room_is_told_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    """The operating system lets no file grow beyond 8 MiB: as on a full disk, writing fails in the middle."""
    data = site_report(world, tmp_path / "report")
    inbox = world.hq / "sites" / "shenzhen" / "inbox"
    limit = ("prlimit", f"--fsize={8 << 20}")
    with world.running(command=limit) as running, world.client(running.url, "line1") as client:
        refused = client.post("/v1/reports", content=os.urandom(9 << 20))
        assert (refused.status_code, refused.json()["family"]) == (500, "StationFault")
        assert list(inbox.iterdir()) == []
        assert client.post("/v1/reports", content=data).status_code == 200


def test_withdrawn_station_gets_nothing_on_a_connection_that_is_open(tmp_path: Path) -> None:
    world = build_world(tmp_path / "world")
    with world.running() as running:
        _withdraw_while_connected(world, running)


def test_a_refusal_before_the_body_has_come_leaves_the_connection_whole(world: World, running: Running) -> None:
    """Headers and body in two packets: who is refused at the door by its certificate alone can go on asking."""
    plain = socket.create_connection(("127.0.0.1", running.port))
    plain.settimeout(20)
    with world.tls("withdrawn").wrap_socket(plain, server_hostname="127.0.0.1") as client:
        for _ in range(5):
            client.sendall(b"POST /v1/credentials HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n")
            time.sleep(0.1)
            client.sendall(b'{"attempt": "none"} ')
            answer = _whole_answer(client)
            assert answer.startswith(b"HTTP/1.1 403"), answer
            assert b"service.access.withdrawn" in answer
        client.sendall(b"POST /v1/credentials HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
        client.sendall(b"x" * 200_000)
        answer = _whole_answer(client)
        assert answer.startswith(b"HTTP/1.1 403"), answer
        assert b"connection: close" in answer


def _whole_answer(client: ssl.SSLSocket) -> bytes:
    """Return head and body of one answer; what came so far if the connection ends."""
    answer = b""
    while part := client.recv(65536):
        answer += part
        head, found, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if found and length is not None and len(body) >= int(length[1]):
            break
    return answer


def _withdraw_while_connected(world: World, running: Running) -> None:
    body = asked(ELSEWHERE[0], "attempt-0050", csr=device_csr(ELSEWHERE[0]))
    with world.client(running.url, "munich") as client:
        assert client.post("/v1/credentials", json=body).status_code == 200
        with open_workspace(world.hq, publish=False) as hq, hq.ledger.transaction() as tx:
            spki = world.pairs["munich"].spki_sha256
            tx.append(e.AccessWithdrawn(at=e.utc_text(hq.clock()), spki_sha256=spki, reason="stolen", by="test"))
        late = asked(ELSEWHERE[1], "attempt-0051", csr=device_csr(ELSEWHERE[1]))
        assert code(client.post("/v1/credentials", json=late)) == (403, "service.access.ended")
        with open_workspace(world.hq, publish=False) as hq:
            size = hq.ledger.head().size
        for again in (body, late) * 10:
            assert code(client.post("/v1/credentials", json=again)) == (403, "service.access.withdrawn")
        with open_workspace(world.hq, publish=False) as hq:
            assert hq.ledger.head().size == size, "a withdrawn key cannot fill the log"


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, as Unix sockets need it, that every user of this machine may enter."""
    with tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def listen_at(world: World, path: Path) -> None:
    settings = world.hq / "birthmark.toml"
    text = settings.read_text().partition("[serve]\n")
    settings.write_text(
        f'{text[0]}[serve]\nclient_ca = "../pki/access.pem"\nproxy = "proxy"\n'
        f'proxy_header = "{PROXY_HEADER}"\nunix_socket = "{path}"\n'
    )


def test_the_standard_header_counts_nothing_where_the_proxy_sets_another(
    world: World, place: Path, tmp_path: Path
) -> None:
    """nginx passes no header on whose value is empty, and any other that a client sends: without a certificate of his
    own a client would be whoever he says."""
    place.chmod(0o750)
    world = world.copy(tmp_path / "world")
    listen_at(world, place / "socket")
    with world.running(), httpx.Client(transport=httpx.HTTPTransport(uds=str(place / "socket"))) as client:

        def asked(**headers: str) -> tuple[int, object]:
            answer = client.get("http://service/v1/orders", headers=headers)
            return answer.status_code, answer.json().get("error")

        line1, operator = forwarded(world, "line1")[0], forwarded(world, "operator")[0]
        assert asked(**{PROXY_HEADER: line1}) == (200, None)
        for headers in (
            {"client-cert": operator},
            {"client-cert": operator, PROXY_HEADER: ""},
            {"client-cert": operator, PROXY_HEADER: line1},
            {"client-cert": ""},
        ):
            assert asked(**headers) == (400, "service.header.forbidden")
        assert asked() == (401, "service.access.missing")


def test_a_socket_that_every_user_can_reach_is_not_opened(world: World, place: Path, tmp_path: Path) -> None:
    world = world.copy(tmp_path / "world")
    listen_at(world, place / "socket")
    command = [BIRTHMARK, "serve", "-C", str(world.hq)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "serve.socket" in refused.stderr
    assert not (place / "socket").exists()
