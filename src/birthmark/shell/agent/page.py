"""The page of the heads: one file of HTML, nothing loaded from anywhere, and the headers that hold it to that."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from importlib.resources import files

__all__ = ["PAGE", "PAGE_HEADERS"]

PAGE = (files("birthmark.shell.agent") / "page.html").read_text("utf-8")


def _hash(tag: str) -> str:
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; connect-src 'self'; "
        "img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}
