"""Intel HEX with extended linear addresses (Intel, "Hexadecimal Object File Format Specification", 1988)."""

from __future__ import annotations

__all__ = ["decode_hex", "encode_hex"]

_LINE = 16
_DATA, _END, _LINEAR = 0, 1, 4
_BANK = 0x10000


def encode_hex(octets: bytes, offset: int) -> bytes:
    """Return one block at ``offset``: 16 octets a line, no line over a bank of 64 KiB, CR LF never."""
    lines, bank, place = [], 0, 0
    while place < len(octets):
        address = offset + place
        if address // _BANK != bank:
            bank = address // _BANK
            lines.append(_record(_LINEAR, 0, bank.to_bytes(2, "big")))
        part = octets[place : place + min(_LINE, _BANK - address % _BANK)]
        lines.append(_record(_DATA, address % _BANK, part))
        place += len(part)
    return "\n".join([*lines, _record(_END, 0, b""), ""]).encode()


def decode_hex(text: bytes, offset: int) -> bytes:
    """Undo it; ``ValueError`` unless the text is exactly what ``encode_hex`` writes at this offset."""
    octets = b"".join(bytes.fromhex(line[9:-2].decode("ascii")) for line in text.split(b"\n") if line[7:9] == b"00")
    if encode_hex(octets, offset) != text:
        raise ValueError("not one block at the offset")
    return octets


def _record(kind: int, address: int, data: bytes) -> str:
    covered = bytes((len(data),)) + address.to_bytes(2, "big") + bytes((kind,)) + data
    return f":{covered.hex().upper()}{-sum(covered) & 0xFF:02X}"
