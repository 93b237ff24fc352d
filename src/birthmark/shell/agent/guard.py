"""Who may talk to the agent: who holds its token, and browsers that were let in to look.

The agent listens on the loopback or on a Unix socket only, but every program and every web page of this machine reaches
the loopback. So a name of the host that is not ours is refused (DNS rebinding), and so is a foreign origin (cross-site
requests); what begins a run asks for the token in a header; and the cookie of the page lets a browser look, never act.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Literal

from starlette.requests import Request

from birthmark.adapters.durable import read_private_file, write_durably
from birthmark.errors import Misconfigured, Refused

__all__ = ["COOKIE", "Guard", "Need", "token_of"]

Need = Literal["nothing", "look", "token"]
COOKIE = "birthmark_page"
_TOKEN_OCTETS = 32
_CODE_S = 600.0
_SESSION_S = 12 * 3600.0
_MOST = 64


def token_of(path: Path, *, new: bool, entropy: Callable[[int], bytes]) -> str:
    """Return the token in a file that only its owner reads; one is made if there is none, or if a ``new`` one is asked.

    ``Misconfigured``: ``key.file.mode`` if others can read it, ``agent.token_file`` if it holds no token.
    """
    if new or not path.exists():
        token = entropy(_TOKEN_OCTETS).hex()
        write_durably(path, token.encode() + b"\n", mode=0o600)
        return token
    token = read_private_file(path).decode("ascii", "replace").strip()
    if len(token) < 2 * _TOKEN_OCTETS or not token.isalnum():
        raise Misconfigured(
            "agent.token_file",
            f"{path} holds no token of ours",
            hint="Start the agent with --new-token; then give the new token to your test executive.",
            path=str(path),
        )
    return token


class Guard:
    """Checks requests. ``names``: what callers may call this host (``Host`` header); None on a Unix socket."""

    def __init__(
        self,
        token: str,
        *,
        names: frozenset[str] | None,
        entropy: Callable[[int], bytes],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = sha256(token.encode()).digest()
        self._names = names
        self._entropy = entropy
        self._monotonic = monotonic
        self._codes: dict[bytes, float] = {}
        self._sessions: dict[bytes, float] = {}

    def require(self, request: Request, need: Need) -> None:
        """Return if the caller may; ``Refused``: ``agent.host``, ``agent.origin``, ``agent.token``."""
        hosts = request.headers.getlist("host")
        if self._names is not None and (len(hosts) != 1 or hosts[0].lower() not in self._names):
            raise Refused(
                "agent.host",
                "this agent has another name",
                hint="Use the address that the agent printed when it was started.",
            )
        self._require_same_site(request)
        if need == "nothing" or self._has_token(request) or (need == "look" and self._is_let_in(request)):
            return
        raise Refused(
            "agent.token",
            "this needs the token of the agent",
            hint="Send Authorization: Bearer TOKEN, with the token from the agent's file; a browser needs a new link.",
        )

    def new_code(self) -> str:
        """Return a code that lets one browser in, once, within ten minutes."""
        return self._keep(self._codes, _CODE_S)

    def new_session(self, code: str) -> str:
        """Spend a code for the cookie of a browser; ``Refused("agent.link")`` if it is spent, too old or none."""
        if not self._is_kept(self._codes, code):
            raise Refused(
                "agent.link",
                "this link was used before, or it is too old",
                hint="Ask for a new one: POST /v1/page-links with the token, or start the agent again.",
            )
        del self._codes[sha256(code.encode()).digest()]
        return self._keep(self._sessions, _SESSION_S)

    def _require_same_site(self, request: Request) -> None:
        origins = request.headers.getlist("origin")
        known = {f"http://{name}" for name in self._names or ()}
        site = request.headers.get("sec-fetch-site", "none")
        if (origins and (len(origins) != 1 or origins[0].lower() not in known)) or site not in ("none", "same-origin"):
            raise Refused(
                "agent.origin",
                "this request was made by another web page",
                hint="Open the page of the agent by the link that it printed; other pages cannot use it.",
            )

    def _has_token(self, request: Request) -> bool:
        given = request.headers.getlist("authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return kind.lower() == "bearer" and hmac.compare_digest(sha256(token.strip().encode()).digest(), self._token)

    def _is_let_in(self, request: Request) -> bool:
        return self._is_kept(self._sessions, request.cookies.get(COOKIE, ""))

    def _keep(self, kept: dict[bytes, float], seconds: float) -> str:
        now = self._monotonic()
        for digest in [digest for digest, end in kept.items() if end <= now]:
            del kept[digest]
        while len(kept) >= _MOST:
            del kept[next(iter(kept))]
        secret = self._entropy(_TOKEN_OCTETS).hex()
        kept[sha256(secret.encode()).digest()] = now + seconds
        return secret

    def _is_kept(self, kept: dict[bytes, float], secret: str) -> bool:
        # Looked up by a digest: how long it takes says nothing of the secret.
        return kept.get(sha256(secret.encode()).digest(), 0.0) > self._monotonic()
