"""Which format an ``image:`` URI asks for, and which of its options belong to it."""

from __future__ import annotations

import re

from birthmark.adapters.targets.image.ext4 import Ext4System
from birthmark.adapters.targets.image.fat import FatSystem
from birthmark.adapters.targets.image.folder import FileSystem, FolderForm, Owned
from birthmark.adapters.targets.image.form import ImageForm, Span
from birthmark.adapters.targets.image.hexrecords import HexForm
from birthmark.adapters.targets.image.littlefs import LittlefsSystem
from birthmark.adapters.targets.image.raw import RawForm
from birthmark.adapters.targets.image.squashfs import SquashfsSystem
from birthmark.adapters.targets.image.ubi import Flash, UbiSystem
from birthmark.adapters.targets.layouts import LAYOUTS
from birthmark.adapters.targets.uri import TargetUri, bad_option, choice

__all__ = ["FORMATS", "form_of"]

_EVERYWHERE = {"base", "format", "write", "store", "chain", "offset", "size"}
_DISK = {"partition"}
_FILES = {*_DISK, "path", "layout"}
_OWNED = {"mode", "owner"}
FORMATS = {
    "bin": _DISK,
    "hex": set[str](),
    "littlefs": {*_FILES, "block"},
    "fat": _FILES,
    "ext4": _FILES | _OWNED,
    "squashfs": _FILES | _OWNED,
    "ubi": {*_FILES, *_OWNED, "block", "page", "subpage"},
}
"""Value of ``format`` → the options that belong to it alone."""

_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,12}|[0-9]{1,15}")
_FOLDER = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}){1,8}")
_MODE = re.compile(r"0?[0-7]{3}")
_OWNER = re.compile(r"([0-9]{1,5}):([0-9]{1,5})")
_BLOCK = 4096
_ADDRESSES = 1 << 32
_IDS = 1 << 16
_PARTITIONS = 128
_ERASE_BLOCK, _PAGE = 128 * 1024, 2048


def form_of(uri: TargetUri) -> ImageForm:
    """Return the format of this URI; ``Misconfigured("target.uri.option")`` for an option that another format has."""
    name = choice(uri, "format", tuple(FORMATS))
    for option in uri.options:
        if option not in _EVERYWHERE | FORMATS[name]:
            raise bad_option(uri, option, f"It does not belong to format={name}.")
    span = Span(_number(uri, "offset") or 0, _number(uri, "size"), _partition(uri))
    if name == "bin":
        return RawForm(span)
    if name == "hex":
        if span.size is None or not 0 < span.offset + span.size <= _ADDRESSES:
            raise bad_option(uri, "size", "Give offset= and size= of the identity's addresses, below 4 GiB.")
        return HexForm(span)
    layout = LAYOUTS[choice(uri, "layout", tuple(LAYOUTS))]
    return FolderForm(_system(uri, name, span), _folder(uri), layout, _owned(uri))


def _system(uri: TargetUri, name: str, span: Span) -> FileSystem:
    if name == "littlefs":
        block = _number(uri, "block") or _BLOCK
        if not 256 <= block <= 1 << 24 or block % 256:
            raise bad_option(uri, "block", "Use the block size of the flash, a multiple of 256 octets.")
        return LittlefsSystem(span, block)
    if name == "ubi":
        return UbiSystem(span, _flash(uri))
    if name == "fat":
        return FatSystem(span)
    return Ext4System(span) if name == "ext4" else SquashfsSystem(span)


def _flash(uri: TargetUri) -> Flash:
    """Return the geometry of a NAND chip; powers of two, each at least the next."""
    block = _number(uri, "block") or _ERASE_BLOCK
    page = _number(uri, "page") or _PAGE
    subpage = _number(uri, "subpage") or page
    for option, value, most in (("block", block, 1 << 24), ("page", page, block // 4), ("subpage", subpage, page)):
        if not 64 <= value <= most or value & (value - 1):
            raise bad_option(uri, option, "Use the geometry of the flash: powers of two, subpage <= page < block.")
    return Flash(block, page, subpage)


def _partition(uri: TargetUri) -> int | None:
    number = _number(uri, "partition")
    if number is not None and not 1 <= number <= _PARTITIONS:
        raise bad_option(uri, "partition", "Use the number of a partition, from 1 on.")
    return number


def _folder(uri: TargetUri) -> str:
    folder = uri.options.get("path", "/identity")
    if _FOLDER.fullmatch(folder) is None:
        raise bad_option(uri, "path", "Name a folder like /etc/identity: letters, digits, . _ and - only.")
    return folder


def _owned(uri: TargetUri) -> Owned:
    text = uri.options.get("mode", "0600")
    mode = int(text, 8) if _MODE.fullmatch(text) else 0
    if not mode & 0o400 or mode & 0o137:
        raise bad_option(uri, "mode", "Use 0400, 0600, 0440 or 0640: others never read a private key.")
    match = _OWNER.fullmatch(uri.options.get("owner", "0:0"))
    if match is None or max(int(match[1]), int(match[2])) >= _IDS:
        raise bad_option(uri, "owner", "Use two numbers below 65536, for example owner=1000:1000.")
    return Owned(mode, int(match[1]), int(match[2]))


def _number(uri: TargetUri, option: str) -> int | None:
    """Return a number of octets, None if the option is not given."""
    text = uri.options.get(option)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise bad_option(uri, option, "Use octets, decimal or 0x-hexadecimal.")
    return int(text, 16) if text.startswith("0x") else int(text)
