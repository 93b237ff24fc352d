"""Which format an ``image:`` URI asks for, and which of its options belong to it."""

from __future__ import annotations

import re

from birthmark.adapters.targets.image.form import ImageForm, Span
from birthmark.adapters.targets.image.raw import RawForm
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice

__all__ = ["form_of"]

_EVERYWHERE = {"base", "format", "write", "store", "chain"}
_BELONGS = {
    "bin": {"offset", "size"},
}
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,12}|[0-9]{1,15}")


def form_of(uri: TargetUri) -> ImageForm:
    """Return the format of this URI; ``Misconfigured("target.uri.option")`` for an option that another format has."""
    name = choice(uri, "format", tuple(_BELONGS))
    for option in uri.options:
        if option not in _EVERYWHERE | _BELONGS[name]:
            raise bad_option(uri, option, f"It does not belong to format={name}.")
    span = Span(number(uri, "offset") or 0, number(uri, "size"))
    return RawForm(span)


def number(uri: TargetUri, option: str) -> int | None:
    """Return a number of octets, None if the option is not given."""
    text = uri.options.get(option)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise bad_option(uri, option, "Use octets, decimal or 0x-hexadecimal.")
    return int(text, 0) if text.startswith("0x") else int(text)
