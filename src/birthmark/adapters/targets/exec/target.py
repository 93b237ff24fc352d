"""The target ``exec``: what a station asks of a vendor's program, one run of it for each question."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from birthmark.adapters.targets.exec.conversation import Conversation
from birthmark.adapters.targets.exec.messages import Asked, Installed, KeyMade, Probed, Proved
from birthmark.adapters.targets.identity import CHAIN_LENGTHS, certificates_of, key_not_made, refuse_key, require_key
from birthmark.adapters.targets.proof import proof_message
from birthmark.adapters.targets.uri import bad_option, choice, decoded, parse_target_uri
from birthmark.errors import DeviceFault, Refused
from birthmark.pki.algorithms import algorithm_named
from birthmark.pki.csr import parse_csr
from birthmark.ports import Credential, Evidence, Fence, Probe, SecretsHandler

__all__ = ["ExecTarget"]

_OPTIONS = ("args", "cwd", "secret", "timeout", "log", "chain")
_LONGEST_S = 3600.0


class ExecTarget:
    """Implements ``ports.Target`` on ``exec:PROGRAM?args=WORDS&secret=REFERENCE&timeout=SECONDS&log=FILE``.

    The program runs once for each question and is killed at the deadline, with all that it started. It asks before
    each act; what is said to it and by it is in docs/formats/exec-target.md. A power cut ends station and program
    alike: what the program left in the device it has to find again itself.
    """

    def __init__(self, uri: str, *, secrets: SecretsHandler, base: Path) -> None:
        parsed = parse_target_uri(uri, scheme="exec", options=_OPTIONS)
        self._name = uri
        self._chain = choice(parsed, "chain", tuple(CHAIN_LENGTHS))
        try:
            words = shlex.split(parsed.options.get("args", ""))
            self._seconds = float(parsed.options.get("timeout", "60"))
        except ValueError:
            raise bad_option(parsed, "args", "Write the words as for a shell, and a timeout in seconds.") from None
        if not 0 < self._seconds <= _LONGEST_S:
            raise bad_option(parsed, "timeout", f"Use more than 0 and at most {_LONGEST_S:g} seconds.")
        self._command = [str(base / decoded(uri, parsed.path)), *words]
        self._cwd = base / parsed.options.get("cwd", ".")
        self._log = base / parsed.options["log"] if "log" in parsed.options else None
        self._reference = parsed.options.get("secret")
        self._secrets = secrets

    @property
    def place(self) -> str:
        """The program with its arguments: only they say which fixture it is."""
        return shlex.join(["exec:", *self._command])

    def probe(self) -> Probe:
        found = self._ask(Probed, None, "probe")
        return Probe(found.identity, found.certificate, makes_key=found.makes_key, can_sign=found.can_sign)

    def make_key(self, algorithm: str, device_serial: str, fence: Fence) -> bytes:
        chosen = algorithm_named(algorithm)
        self._require_making(makes=True)
        made = self._ask(KeyMade, fence, "make_key", device_serial=device_serial, algorithm=algorithm)
        try:
            csr = parse_csr(made.csr)
        except Refused as refusal:
            raise DeviceFault(
                "target.exec.csr",
                f"what the device sent is no request: {refusal.message}",
                hint="Rework or scrap this device; if it happens again, the program is wrong.",
                cause=refusal.code,
            ) from None
        if csr.kind != chosen.name:
            raise Refused(
                "target.key.other_algorithm",
                f"the device made a {csr.kind} key, not a {chosen.title} key",
                hint="Finish the attempt that made it, or remove the waiting key from the device.",
                target=self._name,
                algorithm=csr.kind,
            )
        return made.csr  # type: ignore[no-any-return]

    def install(self, credential: Credential, fence: Fence) -> None:
        certificates = certificates_of(credential, chain=self._chain)
        probed = self._ask(Probed, None, "probe")
        private_key = None
        if probed.makes_key:
            refuse_key(credential)
        else:
            require_key(credential, certificates)
            private_key = None if credential.private_key is None else credential.private_key.reveal()
        self._ask(
            Installed,
            fence,
            "install",
            device_serial=credential.device_serial,
            certificate=credential.certificate,
            chain=certificates.chain_der,
            private_key=private_key,
        )

    def prove(self, challenge: bytes) -> Evidence:
        shown = self._ask(Proved, None, "prove", challenge=challenge, message=proof_message(challenge))
        if (shown.signature is None) == (shown.key_digest is None):
            raise DeviceFault(
                "target.exec.evidence",
                f"{self._name} shows neither a signature nor a digest of its key, or both",
                hint="Rework or scrap this device; if it happens again, the program is wrong.",
                target=self._name,
            )
        kind: Literal["signature", "digest"] = "digest" if shown.signature is None else "signature"
        return Evidence(shown.certificate, shown.chain, kind, shown.signature, shown.key_digest)

    def _require_making(self, *, makes: bool) -> None:
        if self._ask(Probed, None, "probe").makes_key is not makes:
            raise key_not_made(self._name)

    def _ask(self, expected: type[Any], fence: Fence | None, do: Any, **members: Any) -> Any:
        secret = None if self._reference is None else self._secrets(self._reference).reveal()
        seconds = self._seconds if fence is None else min(self._seconds, fence.remaining())
        if fence is not None:
            fence.hold()
        asked = Asked(do=do, token="" if fence is None else fence.token, remaining_s=round(seconds, 3), **members)
        with Conversation(self._command, cwd=self._cwd, log=self._log, secret=secret) as conversation:
            return conversation.ask(asked, expected, fence, seconds=seconds)
