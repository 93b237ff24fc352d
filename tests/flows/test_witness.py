"""Witnesses against logs that lie: rewritten, rolled back, forked, and a witness that was made to forget."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from birthmark.adapters.logstore import FileLogStore
from birthmark.shell.api.orderly import OrderlyServer
from birthmark.shell.api.witness import bind, serve_witness
from birthmark.shell.evidence.witness import open_witness
from birthmark.shell.throwaway import make_workspace
from birthmark.shell.workspace.secrets import SecretsResolver
from birthmark.tlog.checkpoint import Checkpoint, parse, sign
from birthmark.tlog.cosignature import open_cosignatures, parse_cosigner
from birthmark.tlog.merkle import consistency_proof
from birthmark.tlog.note import encode_vkey, public_octets
from birthmark.tlog.tiles import HashReader
from birthmark.wire.addcheckpoint import AddCheckpoint, parse_add_checkpoint
from support.approvers import Desk
from support.faultline import KILL, strike
from support.opensslwitness import OpensslWitness

PROGRAM = "import sys\nfrom birthmark.shell.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("witness")
    make_workspace(place / "fab")
    return place


@pytest.fixture
def desk(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A workspace, and two witnesses who watch its log."""
    shutil.copytree(made / "fab", tmp_path / "fab")
    monkeypatch.setenv("BIRTHMARK_PASSPHRASE", "of the witness")
    desk = Desk(tmp_path, capsys)
    vkeys = []
    for name in ("w1", "w2"):
        vkeys.append(desk.good("witness", "init", str(tmp_path / name), "--name", f"{name}.example")["vkey"])
        desk.good("witness", "watch", str(tmp_path / name), (desk.fab / "log" / "vkey").read_text().strip())
    log = (desk.fab / "log" / "vkey").read_text()
    (tmp_path / "policy").write_text(
        f"log {log}witness a {vkeys[0]}\nwitness b {vkeys[1]}\ngroup both all a b\nquorum both\n"
    )
    return desk


def grow(desk: Desk, name: str) -> None:
    named = ("--product", "device", "--quantity", "1", "--first", f"{name}-01")
    desk.good("order", "create", name.lower(), *named, "-C", str(desk.fab))


def cosign(desk: Desk, witness: str, *more: str) -> tuple[str, ...]:
    return ("witness", "cosign", str(desk.place / witness), str(desk.fab / "log"), *more)


def check(desk: Desk) -> tuple[str, ...]:
    return ("witness", "check", str(desk.fab / "log"), "--policy", str(desk.place / "policy"))


def test_two_witnesses_see_a_log_grow(desk: Desk) -> None:
    desk.refused("witness.quorum", *check(desk))
    first = desk.good(*cosign(desk, "w1"))
    assert desk.refused("witness.quorum", *check(desk))["missing"] == ["b"]
    desk.good(*cosign(desk, "w2"))
    assert set(desk.good(*check(desk))["witnesses"]) == {"w1.example", "w2.example"}
    grow(desk, "AA")
    assert desk.good(*check(desk))["size"] == first["size"], "the cosigned head holds while the log goes on"
    again = desk.good(*cosign(desk, "w1"))
    assert again["before"] == first["size"] < again["size"]
    assert desk.good("audit", "verify", str(desk.fab))["findings"] == []


def test_a_log_that_went_back_is_not_cosigned(desk: Desk) -> None:
    shutil.copytree(desk.fab, desk.place / "old")
    grow(desk, "AA")
    size = desk.good(*cosign(desk, "w1"))["size"]
    old = ("witness", "cosign", str(desk.place / "w1"), str(desk.place / "old" / "log"))
    assert desk.refused("witness.conflict", *old)["size"] == size


def test_a_log_that_was_rewritten_is_not_cosigned_and_is_found(desk: Desk) -> None:
    """Whoever holds the key of the log restores an old copy and tells another story from there."""
    shutil.copytree(desk.fab, desk.place / "before")
    grow(desk, "AA")
    for name in ("w1", "w2"):
        desk.good(*cosign(desk, name))
    cosigned = (desk.fab / "log" / "cosigned").read_bytes()
    shutil.rmtree(desk.fab)
    shutil.copytree(desk.place / "before", desk.fab)
    grow(desk, "BB")
    grow(desk, "CC")
    desk.refused("log.proof.consistency", *cosign(desk, "w1"))
    (desk.fab / "log" / "cosigned").write_bytes(cosigned)
    desk.refused("witness.tiles", *check(desk))


def test_a_head_signed_by_another_key_is_not_cosigned(desk: Desk) -> None:
    forged = sign(Checkpoint("fab.example/birthmark", 999, bytes(32)), Ed25519PrivateKey.generate())
    (desk.place / "forged").write_text(forged)
    command = ("witness", "cosign", str(desk.place / "w1"), str(desk.place / "forged"))
    desk.refused("witness.log.signature", *command)


def test_a_witness_that_was_made_to_forget_signs_no_more(desk: Desk) -> None:
    desk.good(*cosign(desk, "w1"))
    for head in (desk.place / "w1" / "heads").glob("*.head"):
        head.unlink()
    desk.refused("witness.head.missing", *cosign(desk, "w1"))


def test_a_witness_stays_with_the_key_of_a_log(desk: Desk) -> None:
    other = encode_vkey("fab.example/birthmark", public_octets(Ed25519PrivateKey.generate()))
    desk.refused("witness.log.other", "witness", "watch", str(desk.place / "w1"), other)


def test_an_older_head_needs_the_tiles(desk: Desk) -> None:
    lone = desk.place / "lone"
    shutil.copy(desk.fab / "log" / "checkpoint", lone)
    desk.good("witness", "cosign", str(desk.place / "w1"), str(lone))
    grow(desk, "AA")
    shutil.copy(desk.fab / "log" / "checkpoint", lone)
    desk.refused("witness.tiles.needed", "witness", "cosign", str(desk.place / "w1"), str(lone))


def test_a_kill_never_makes_a_witness_forget_what_it_said(desk: Desk) -> None:
    """At each sync and rename: what stands in a cosigned file is at most what the witness remembers."""
    desk.good(*cosign(desk, "w1"))
    grow(desk, "AA")
    (desk.place / "program.py").write_text(PROGRAM)
    for call in ("fsync", "rename"):
        for when in range(1, 9):
            shutil.rmtree(desk.place / "again", ignore_errors=True)
            shutil.copytree(desk.place / "w1", desk.place / "again")
            output = desk.place / "answer"
            output.unlink(missing_ok=True)
            command = ("witness", "cosign", desk.place / "again", desk.fab / "log", "-o", output)
            struck, _ = strike(desk.place / "program.py", *command, call=call, fault=KILL, when=when)
            (head,) = (desk.place / "again" / "heads").glob("*.head")
            remembered = parse(head.read_text().partition("\n\n")[0] + "\n").size
            said = parse(output.read_text().partition("\n\n")[0] + "\n").size if output.exists() else 0
            assert said <= remembered
            code, document = desk.run("witness", "cosign", str(desk.place / "again"), str(desk.fab / "log"))
            assert code == 0, document
            if not struck:
                break
        else:
            raise AssertionError(f"more than 8 calls of {call}")


# The service


@pytest.fixture
def service(desk: Desk) -> Iterator[str]:
    command = [sys.executable, "-c", PROGRAM, "witness", "serve", str(desk.place / "w1"), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ}, text=True)
    assert process.stdout is not None
    import json

    yield json.loads(process.stdout.readline())["url"]
    process.terminate()
    assert process.wait(20) in (0, -15)
    process.stdout.close()


def test_who_says_nothing_or_says_it_slowly_keeps_no_log_from_its_witness(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("birthmark.shell.api.connection.MESSAGE_S", 0.5)
    monkeypatch.setattr("birthmark.shell.api.witness._MOST_CONNECTIONS", 8)
    ends: list[OrderlyServer] = []
    monkeypatch.setattr(
        "birthmark.shell.api.witness.OrderlyServer", lambda config: ends.append(OrderlyServer(config)) or ends[0]
    )
    bound = bind("127.0.0.1", 0)
    place = bound.getsockname()
    with open_witness(desk.place / "w1", SecretsResolver()) as witness:
        serving = threading.Thread(target=serve_witness, args=(witness, bound))
        serving.start()
        silent = [socket.create_connection(place, timeout=20) for _ in range(8)]
        begun = b"POST /add-checkpoint HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\no"
        for one in silent[::2]:
            one.sendall(begun)
        assert [one.recv(1000) for one in silent] == [b""] * 8
        assert httpx.post(f"http://127.0.0.1:{place[1]}/add-checkpoint", content=b"x").status_code == 400
        for one in silent:
            one.close()
        ends[0].should_exit = True
        serving.join()
    bound.close()


def request(desk: Desk, old: int, *, proof: tuple[bytes, ...] | None = None) -> bytes:
    note = (desk.fab / "log" / "checkpoint").read_bytes()
    size = parse(note.decode().partition("\n\n")[0] + "\n").size
    if proof is None:
        proof = tuple(consistency_proof(old, size, HashReader(size, FileLogStore(desk.fab / "log").read)))
    return AddCheckpoint(old, proof, note).render()


def test_the_service_answers_as_the_specification_says(desk: Desk, service: str) -> None:
    def post(body: bytes) -> httpx.Response:
        return httpx.post(f"{service}/add-checkpoint", content=body)

    body = request(desk, 0)
    answer = post(body)
    assert (answer.status_code, answer.text[:2]) == (200, "— ")
    note = parse_add_checkpoint(body).checkpoint
    witness = parse_cosigner((desk.place / "w1" / "vkey").read_text().strip())
    assert open_cosignatures(note + answer.content, [witness])[1]
    size = parse(note.decode().partition("\n\n")[0] + "\n").size
    conflict = post(body)
    assert (conflict.status_code, conflict.text) == (409, f"{size}\n")
    assert conflict.headers["content-type"].startswith("text/x.tlog.size")
    assert post(request(desk, size)).status_code == 200
    grow(desk, "AA")
    assert post(request(desk, size, proof=(bytes(32),) * 3)).status_code == 422
    assert post(request(desk, size, proof=())).status_code == 422
    assert post(request(desk, 10**9, proof=())).status_code == 400
    assert (
        post(
            b"old 0\n\n" + sign(Checkpoint("other.example", 0, _empty()), Ed25519PrivateKey.generate()).encode()
        ).status_code
        == 404
    )
    forged = sign(Checkpoint("fab.example/birthmark", 99, bytes(32)), Ed25519PrivateKey.generate())
    assert post(b"old 0\n\n" + forged.encode()).status_code == 403
    for wrong in (b"", b"old 01\n\n", b"old 0\nx\n\n", b"old 0\n" + (base64.b64encode(bytes(32)) + b"\n") * 64 + b"\n"):
        assert post(wrong + note).status_code == 400
    assert post(b"x" * 70_000).status_code == 413
    assert post(request(desk, size)).status_code == 200


# What an auditor demands


def demand(desk: Desk, *more: str) -> tuple[str, ...]:
    return ("audit", "verify", str(desk.fab), "--policy", str(desk.place / "policy"), *more)


def found(desk: Desk, *more: str) -> set[str]:
    """Return the codes of all findings of an audit that demands witnesses."""
    code, document = desk.run(*demand(desk, *more))
    if code == 7:
        assert document["error"] == "audit.findings"
        return {text.partition(" ")[0] for text in document["facts"]["codes"]}
    assert code == 0, document
    return set(document["totals"])


def test_an_audit_demands_the_quorum_of_a_policy(desk: Desk, service: str) -> None:
    """One witness cosigns over HTTP, one from files; with one alone the audit fails."""
    assert found(desk) == {"audit.witness.quorum"}
    body = request(desk, 0)
    answer = httpx.post(f"{service}/add-checkpoint", content=body)
    cosigned = desk.fab / "log" / "cosigned"
    cosigned.write_bytes(parse_add_checkpoint(body).checkpoint + answer.content)
    assert found(desk) == {"audit.witness.quorum"}
    desk.good(*cosign(desk, "w2"))
    assert found(desk, "--witnessed-within", "1") == set()
    seen = desk.good(*demand(desk))["witnessed"]["log"]
    assert (seen["since"], set(seen["witnesses"])) == (0, {"w1.example", "w2.example"})
    grow(desk, "AA")
    assert found(desk) == {"audit.witness.behind"}
    behind = desk.good(*demand(desk))
    since = behind["witnessed"]["log"]["since"]
    assert since == behind["size"] - seen["size"] > 0
    assert f" {since} entries came after the {seen['size']} " in behind["findings"][0]["what"]
    kept = shutil.move(cosigned, desk.place / "kept")
    assert found(desk) == {"audit.witness.quorum"}
    assert found(desk, "--cosigned", str(kept)) == {"audit.witness.behind"}


def test_an_audit_finds_a_log_that_was_rewritten_behind_the_witnesses(desk: Desk) -> None:
    """Ledger, tiles and heads of the second story are in order: only what the witnesses saw speaks against it."""
    shutil.copytree(desk.fab, desk.place / "before")
    grow(desk, "AA")
    for name in ("w1", "w2"):
        desk.good(*cosign(desk, name))
    cosigned = shutil.move(desk.fab / "log" / "cosigned", desk.place / "kept")
    shutil.rmtree(desk.fab)
    shutil.copytree(desk.place / "before", desk.fab)
    assert found(desk, "--cosigned", str(cosigned)) == {"audit.witness.rewritten"}, "set back"
    grow(desk, "BB")
    grow(desk, "CC")
    assert desk.good("audit", "verify", str(desk.fab))["findings"] == []
    assert found(desk, "--cosigned", str(cosigned)) == {"audit.witness.rewritten"}


def test_an_audit_takes_no_head_that_is_too_old(desk: Desk) -> None:
    """An old copy of a workspace comes with its old cosigned head: only the age tells."""
    witnesses = [OpensslWitness(desk.place / name, f"{name}.example") for name in ("o1", "o2", "o3")]
    log, now = (desk.fab / "log" / "vkey").read_text(), int(time.time())
    lines = [f"witness {at} {one.vkey}\n" for at, one in enumerate(witnesses)]
    (desk.place / "policy").write_text(f"log {log}{''.join(lines)}group two 2 0 1 2\nquorum two\n")
    note = (desk.fab / "log" / "checkpoint").read_bytes()
    head = desk.place / "head"

    def at(*hours: int) -> tuple[str, ...]:
        signed = [one.line(note, now - 3600 * ago) for one, ago in zip(witnesses, hours, strict=False)]
        head.write_bytes(note + b"".join(signed))
        return ("--cosigned", str(head), "--witnessed-within", "24")

    assert found(desk, *at(1, 23)) == set()
    assert found(desk, *at(1, 30)) == {"audit.witness.stale"}, "one of two is not a quorum of today"
    assert found(desk, *at(1, 30, 2)) == set()
    assert found(desk, *at(-30, -30)) == {"audit.witness.stale"}, "a time that has not come says nothing"
    assert found(desk, *at(1)) == {"audit.witness.quorum"}
    assert found(desk, *at(30, 30)[:2]) == set(), "without the option any age will do"


def test_an_audit_trusts_the_key_of_the_log_that_the_policy_names(desk: Desk) -> None:
    for name in ("w1", "w2"):
        desk.good(*cosign(desk, name))
    mine, policy = (desk.fab / "log" / "vkey").read_text().strip(), desk.place / "policy"
    other = encode_vkey("fab.example/birthmark", public_octets(Ed25519PrivateKey.generate()))
    text = policy.read_text()
    policy.write_text(text.replace(mine, other))
    assert found(desk) == {"audit.checkpoint.signature", "audit.witness.signature"}
    policy.write_text(text.replace(mine, encode_vkey("else.example", public_octets(Ed25519PrivateKey.generate()))))
    assert found(desk) == {"audit.witness.signature"}, "a log that the policy does not know was seen by nobody"
    head = desk.fab / "log" / "cosigned"
    policy.write_text(text)
    head.write_bytes(head.read_bytes()[:-9] + b"AAAAAA==\n")
    assert found(desk) == {"audit.witness.signature"}


def test_what_an_auditor_brings_is_used_or_refused(desk: Desk) -> None:
    desk.good(*cosign(desk, "w1"))
    head = str(desk.fab / "log" / "cosigned")
    plain = ("audit", "verify", str(desk.fab))
    desk.refused("audit.policy", *plain, "--cosigned", head)
    desk.refused("audit.policy", *plain, "--witnessed-within", "24")
    desk.refused("audit.cosigned", *demand(desk, "--cosigned", head, "--cosigned", head))
    desk.refused("witness.file", *demand(desk, "--cosigned", head + "x"))
    strange = desk.place / "strange"
    strange.write_text(sign(Checkpoint("else.example", 9, bytes(32)), Ed25519PrivateKey.generate()))
    desk.refused("audit.cosigned", *demand(desk, "--cosigned", str(strange)))
    strange.write_text("nothing\n")
    desk.refused("log.note.malformed", *demand(desk, "--cosigned", str(strange)))


def _empty() -> bytes:
    import hashlib

    return hashlib.sha256().digest()


def test_of_two_heads_at_once_only_one_extends_the_last(desk: Desk, service: str) -> None:
    """The race that the specification describes: a smaller head must not be written over a larger one."""
    small = request(desk, 0)
    grow(desk, "AA")
    large = request(desk, 0)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: httpx.post(f"{service}/add-checkpoint", content=body), [small, large] * 8))
    good = [answer for answer in answers if answer.status_code == 200]
    assert len(good) == 1
    assert {answer.status_code for answer in answers} == {200, 409}
