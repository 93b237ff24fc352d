"""Evidence that outlives the program: what an auditor can check without birthmark, in one directory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from birthmark.adapters.audit import evidencecheck
from birthmark.adapters.audit.entries import Document, parse_head
from birthmark.adapters.audit.logcheck import Head, open_head, read_vkey
from birthmark.adapters.audit.mirrors import mirror_files, read_bundle
from birthmark.adapters.audit.reader import LogFiles, tile_path
from birthmark.adapters.durable import naming_os_errors, sync_file_system, write_durably
from birthmark.errors import Misconfigured, Tampered, Unavailable
from birthmark.shell.evidence.witnessed import head_of, read_checkpoint

__all__ = ["Exported", "export_evidence"]

_README = """Evidence of {origin}, {size} entries

What this is, and how to check it on any machine with Python 3 and OpenSSL, without birthmark:

1.  sha256sum -c MANIFEST.sha256
        every file is what was exported (compare the SHA-256 of MANIFEST.sha256 by another way)
2.  python3 -I check.py .  '{vkey}'
        the verifier key is the one that you know from elsewhere; this line cannot vouch for itself
3.  openssl verify -no_check_time -partial_chain -CAfile ca/ROOT.pem -untrusted ca/ISSUING.pem DEVICE.pem
        one device certificate by hand
4.  python3 -I check.py .  '{vkey}'  'WITNESS' ...
        if log/cosigned is there: verifier keys of witnesses, again from elsewhere; each must have cosigned that head

check.py is short: read it first. It verifies that the entries in log/ lead to the root that the key of the log signed;
that every certificate was reserved in an earlier entry and is signed by a CA in ca/; that every receipt is signed by
its station and holds the device's own signature; and the same for the log of every site, whose head must be the one
that stands in log/. Where a cosigned head is, the log must have signed it and still hold the entries under it. The last
line is GOOD, or it says what is wrong. What nobody cosigned could have been shown otherwise to somebody else.

log/            the log: checkpoint, verifier key, tiles and entries (c2sp.org/tlog-tiles); cosigned: a head that
                witnesses cosigned (c2sp.org/tlog-cosignature), if there is one
ca/             certificates of all CAs on record
receipts/       statements of stations, by the number of their entry (they are in log/ too)
transcripts/    signed records of ceremonies and of destroyed keys
approvals/      plans and the signatures of those who approved them
sites/          logs of sites as they came home
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. ``manifest_sha256``: the one value to tell the auditor by another way."""

    files: int
    entries: int
    receipts: int
    sites: int
    manifest_sha256: str


class _Directory:
    """The directory that is being written, and the hashes of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hashes: dict[str, str] = {}

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        with naming_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.hashes[name] = hashlib.sha256(data).hexdigest()

    def finish(self) -> str:
        """Write the manifest when all else is durable; return its SHA-256."""
        manifest = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.hashes.items())).encode()
        sync_file_system(self.root)
        write_durably(self.root / "MANIFEST.sha256", manifest, mode=0o644)
        return hashlib.sha256(manifest).hexdigest()


def export_evidence(root: Path, target: Path, *, progress: Callable[[int, int], None]) -> Exported:
    """Write the evidence of the workspace ``root`` into the new directory ``target``.

    Power cut: a directory without ``MANIFEST.sha256``, which is no evidence; export again to another one. Nothing in
    the workspace is changed. ``progress`` gets (done, total) entries.

    Raises ``Misconfigured``: ``audit.export.exists``, ``audit.workspace.missing``, ``audit.vkey``;
    ``Unavailable("audit.export.unpublished")``; ``Tampered``: ``audit.note.*``, ``audit.export.incomplete``,
    ``log.note.*`` or ``log.checkpoint.*`` for a cosigned head of a site that is none;
    ``StationFault``: ``storage.*``.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Misconfigured(
            "audit.export.exists",
            f"{target} exists and is not empty",
            hint="Name a new directory; evidence is never mixed with other files.",
            path=str(target),
        )
    if not (root / "log").is_dir():
        raise Misconfigured(
            "audit.workspace.missing",
            f"there is no log at {root / 'log'}",
            hint="Name the directory of a workspace.",
            path=str(root),
        )
    files, out = LogFiles(root / "log"), _Directory(target)
    cosigned = _cosigned(root / "log")  # read before the head, which is never behind it in an honest log
    vkey = (files.read("vkey") or b"").decode("utf-8", "replace").strip()
    head = _head(files, vkey, "log")
    _copy_log(files, head, "log", out)
    out.write("log/vkey", f"{vkey}\n".encode())
    if cosigned is not None:
        out.write("log/cosigned", cosigned)
    receipts, sites = _papers(files, head, out, progress)
    for path in sorted((root / "ca").glob("transcript-*.txt")):
        with naming_os_errors(path):
            out.write(f"transcripts/{path.name}", path.read_bytes())
    kept = sum(_copy_site(root, site, members, out) for site, members in sites.items())
    out.write("check.py", Path(evidencecheck.__file__).read_bytes())
    out.write("README.txt", _README.format(origin=head.origin, size=head.size, vkey=vkey).encode())
    return Exported(len(out.hashes), head.size, receipts, kept, out.finish())


def _head(files: LogFiles, vkey: str, name: str) -> Head:
    note = files.read("checkpoint")
    if note is None:
        raise Unavailable(
            "audit.export.unpublished",
            f"{name} has no signed head yet",
            hint="Run any command that writes (it publishes at its end), then export again.",
            log=name,
        )
    return open_head(note, read_vkey(vkey))


def _copy_log(files: LogFiles, head: Head, name: str, out: _Directory) -> None:
    """Copy checkpoint and the tiles of exactly that size."""
    out.write(f"{name}/checkpoint", files.read("checkpoint") or b"")
    for level, index, width in _tiles(head.size):
        octets = 32 * width
        data = files.read(tile_path(level, index, width))
        if level == "entries":
            data = data or b"".join(read_bundle(files, index)[:width])
        elif data is None:
            data = (files.read(tile_path(level, index)) or b"")[:octets]
        if not data:
            raise Tampered(
                "audit.export.incomplete",
                f"{tile_path(level, index, width)} of {name} is missing",
                hint="Run `birthmark audit verify`; restore the log from a copy.",
                log=name,
            )
        out.write(f"{name}/{tile_path(level, index, width)}", data)


def _tiles(size: int) -> Iterator[tuple[str, int, int]]:
    """Yield level, index and width of every tile of a log of ``size`` entries (c2sp.org/tlog-tiles)."""
    for index in range(-(-size // 256)):
        yield "entries", index, min(256, size - 256 * index)
    level, hashes = 0, size
    while hashes:
        for index in range(-(-hashes // 256)):
            yield str(level), index, min(256, hashes - 256 * index)
        level, hashes = level + 1, hashes // 256


def _papers(
    files: LogFiles, head: Head, out: _Directory, progress: Callable[[int, int], None]
) -> tuple[int, dict[str, Document]]:
    """Write what can be read by itself; return the number of receipts, and the sites with what was taken in of them."""
    receipts, sites = 0, {}
    for block in range(-(-head.size // 256)):
        for at, piece in enumerate(read_bundle(files, block)[: head.size - 256 * block]):
            line, _, attachment = piece[2:].partition(b"\n")
            document = parse_head(line) or {}
            kind, number = document.get("type"), 256 * block + at
            if kind == "ca_created":
                out.write(f"ca/{document['ca']}.pem", _pem(attachment))
            elif kind in ("verified", "admitted"):
                out.write(f"receipts/{number // 1000:06d}/{number}.txt", attachment)
                receipts += 1
            elif kind == "ca_key_destroyed":
                out.write(f"transcripts/{document['ca']}-destroyed.txt", attachment)
            elif kind == "approval_used":
                out.write(f"approvals/{number}.txt", attachment)
            elif kind == "site_added":
                sites[document["site"]] = document
            elif kind == "site_reported" and document["site"] in sites:
                sites[document["site"]] = {**sites[document["site"]], "size": document["size"], "note": attachment}
        progress(min(256 * block + 256, head.size), head.size)
    return receipts, sites


def _copy_site(root: Path, site: str, members: Document, out: _Directory) -> bool:
    """Copy the mirrored log of a site up to the head that was taken in; tell whether there is one."""
    files = mirror_files(root, site)
    if files is None or "note" not in members:
        return False
    head = open_head(members["note"], read_vkey(members["vkey"]))
    name = f"sites/{site}/log"
    _copy_log(files, head, name, out)
    out.write(f"{name}/checkpoint", members["note"])
    out.write(f"{name}/vkey", f"{members['vkey']}\n".encode())
    cosigned = _cosigned(files.root)
    if cosigned is not None and head_of(cosigned).size <= head.size:
        out.write(f"{name}/cosigned", cosigned)
    return True


def _cosigned(log: Path) -> bytes | None:
    """Return the cosigned head beside a log, if there is one."""
    return read_checkpoint(log, ("cosigned",)) if (log / "cosigned").exists() else None


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()
