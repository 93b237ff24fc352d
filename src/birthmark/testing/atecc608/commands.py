"""The commands of an ATECC608 (data sheet, "Security commands"): one packet in, one packet out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from birthmark.testing.atecc608.faults import Faults
from birthmark.testing.atecc608.memory import Memory
from birthmark.testing.atecc608.zones import CommandError, Zones

__all__ = ["Processor", "crc16"]

_OK, _MISCOMPARE, _PARSE, _ECC, _EXECUTION, _COMMUNICATION = 0x00, 0x01, 0x03, 0x05, 0x0F, 0xFF
_INFO, _READ, _WRITE, _NONCE, _LOCK, _RANDOM, _UPDATE_EXTRA, _COUNTER = 0x30, 0x02, 0x12, 0x16, 0x17, 0x1B, 0x20, 0x24
_GENKEY, _SIGN, _VERIFY, _SHA, _SELFTEST = 0x40, 0x41, 0x45, 0x47, 0x77
_P256_KEY_TYPE = 4
_MOST_COUNT = 2097151


def crc16(data: bytes | bytearray) -> bytes:
    """Return the checksum of a packet: polynomial 0x8005, each octet from its lowest bit; low octet first."""
    crc = 0
    for octet in data:
        for bit in range(8):
            high = crc >> 15
            crc = (crc << 1) & 0xFFFF
            if (octet >> bit & 1) != high:
                crc ^= 0x8005
    return crc.to_bytes(2, "little")


class Processor:
    """Carries out commands on a memory. ``save`` is called after every change, before the answer.

    TempKey, the message digest buffer and the SHA context are gone with ``sleep``.
    """

    def __init__(self, memory: Memory, faults: Faults, save: Callable[[], None]) -> None:
        self._memory = memory
        self._faults = faults
        self._save = save
        self._zones = Zones(memory, faults)
        self._other = ec.generate_private_key(ec.SECP256R1())
        self._commands: dict[int, Callable[[int, int, bytes], bytes]] = {
            _INFO: self._info,
            _READ: self._zones.read,
            _WRITE: self._write,
            _NONCE: self._nonce,
            _LOCK: self._lock,
            _RANDOM: self._random,
            _UPDATE_EXTRA: self._update_extra,
            _COUNTER: self._counter,
            _GENKEY: self._genkey,
            _SIGN: self._sign,
            _VERIFY: self._verify,
            _SHA: self._sha,
            _SELFTEST: lambda mode, param, data: bytes([_OK]),
        }
        self.sleep()

    def sleep(self) -> None:
        """Forget what is volatile."""
        self._temp_key = b""
        self._digest = b""
        self._sha_context: Any = None

    def execute(self, packet: bytes) -> bytes:
        """Return the answer (count, data, checksum) to a command (count, opcode, mode, parameter, data, checksum)."""
        if len(packet) < 7 or packet[0] != len(packet) or crc16(packet[:-2]) != packet[-2:]:
            return _answer(bytes([_COMMUNICATION]))
        command = self._commands.get(packet[1])
        try:
            if packet[1] in self._faults.answers:
                raise CommandError(self._faults.answers[packet[1]])
            if command is None:
                raise CommandError(_PARSE)
            return _answer(command(packet[2], int.from_bytes(packet[3:5], "little"), packet[5:-2]))
        except CommandError as error:
            return _answer(bytes([error.status]))

    def _info(self, mode: int, param: int, data: bytes) -> bytes:
        if mode == 0:
            return bytes(self._memory.config[4:8])
        if mode == 1 and param < 16:
            return bytes([int(self._has_key(param)), 0, 0, 0])
        raise CommandError(_PARSE)

    def _write(self, mode: int, param: int, data: bytes) -> bytes:
        self._keep(lambda: self._zones.write(mode, param, data))
        return bytes([_OK])

    def _keep(self, change: Callable[[], None]) -> None:
        """Change the memory for good; a chip that loses writes looks as if it had."""
        before = self._zones.copy()
        change()
        if self._faults.loses_writes:
            self._zones.restore(before)
        else:
            self._save()

    def _lock(self, mode: int, param: int, data: bytes) -> bytes:
        memory, which, slot = self._memory, mode & 3, mode >> 2 & 15
        checked = not mode & 0x80
        if which == 0:
            self._require(not memory.config_locked)
            self._require(not checked or crc16(memory.config) == param.to_bytes(2, "little"))
            self._keep(memory.lock_config)
        elif which == 1:
            self._require(memory.config_locked and not memory.data_locked)
            content = b"".join(memory.slots) + memory.otp
            self._require(not checked or crc16(content) == param.to_bytes(2, "little"))
            self._keep(memory.lock_data)
        elif which == 2:
            self._require(memory.config_locked and bool(memory.key_config(slot) & 0x20))
            self._require(not memory.slot_locked(slot))
            self._keep(lambda: memory.lock_slot(slot))
        else:
            raise CommandError(_PARSE)
        return bytes([_OK])

    def _update_extra(self, mode: int, param: int, data: bytes) -> bytes:
        if mode not in (0, 1):
            raise CommandError(_PARSE)
        place = 84 + mode
        self._require(not self._memory.config_locked or not self._memory.config[place])
        self._keep(lambda: self._memory.config.__setitem__(place, param & 0xFF))
        return bytes([_OK])

    def _random(self, mode: int, param: int, data: bytes) -> bytes:
        if mode not in (0, 1):
            raise CommandError(_PARSE)
        return os.urandom(32) if self._memory.config_locked else bytes.fromhex("ffff0000") * 8

    def _nonce(self, mode: int, param: int, data: bytes) -> bytes:
        if mode & 3 == 3:
            wanted = 64 if mode & 0x20 else 32
            if len(data) != wanted or mode >> 6 not in (0, 1):
                raise CommandError(_PARSE)
            if mode >> 6 == 1:
                self._digest = data
            else:
                self._temp_key = data
            return bytes([_OK])
        if mode & 3 == 2 or len(data) != 20:
            raise CommandError(_PARSE)
        random = self._random(0, 0, b"")
        self._temp_key = hashlib.sha256(random + data + bytes([_NONCE, mode, param & 0xFF])).digest()
        return random

    def _counter(self, mode: int, param: int, data: bytes) -> bytes:
        """Mode 0 reads, 1 counts up. The count is kept as a plain number, not in the code of the real chip."""
        if mode not in (0, 1) or param not in (0, 1):
            raise CommandError(_PARSE)
        self._require(self._memory.config_locked)
        place = slice(52 + 8 * param, 60 + 8 * param)
        kept = bytes(self._memory.config[place])
        count = 0 if kept[:4] == b"\xff" * 4 else int.from_bytes(kept[4:], "little")
        if mode == 1:
            self._require(count < _MOST_COUNT)
            count += 1
            self._keep(
                lambda: self._memory.config.__setitem__(place, b"\0\0\0\0" + count.to_bytes(4, "little")),
            )
        return count.to_bytes(4, "little")

    def _genkey(self, mode: int, param: int, data: bytes) -> bytes:
        if param > 15 or mode not in (0, 4):
            raise CommandError(_PARSE)
        memory = self._memory
        self._require(memory.config_locked and self._is_private(param))
        if mode == 4:
            may = not memory.data_locked or bool(memory.slot_config(param) & 0x2000)
            self._require(may and not memory.slot_locked(param))
            scalar = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
            self._keep(lambda: memory.slots[param].__setitem__(slice(4, 36), scalar.to_bytes(32, "big")))
            return _point(ec.derive_private_key(scalar, ec.SECP256R1()).public_key())
        self._require(bool(memory.key_config(param) & 2))
        return _point(self._key(param).public_key())

    def _sign(self, mode: int, param: int, data: bytes) -> bytes:
        if param > 15 or not mode & 0x80:
            raise CommandError(_PARSE)
        memory = self._memory
        self._require(memory.config_locked and memory.data_locked and self._is_private(param))
        self._require(bool(memory.slot_config(param) & 1) and not memory.key_config(param) & 0xC0)
        message = self._digest if mode & 0x20 else self._temp_key
        self._require(len(message) >= 32)
        key = self._other if self._faults.signs_with_another_key else self._key(param)
        r, s = decode_dss_signature(key.sign(message[:32], ec.ECDSA(Prehashed(hashes.SHA256()))))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def _verify(self, mode: int, param: int, data: bytes) -> bytes:
        kind, memory = mode & 7, self._memory
        self._require(memory.config_locked)
        if kind == 2 and len(data) == 128 and param == _P256_KEY_TYPE:
            point = data[64:]
        elif kind == 0 and len(data) == 64 and 8 <= param < 16:
            point = bytes(memory.slots[param][4:36] + memory.slots[param][40:72])
        else:
            raise CommandError(_PARSE)
        message = self._digest if mode & 0x20 else self._temp_key
        self._require(len(message) >= 32)
        signature = encode_dss_signature(int.from_bytes(data[:32], "big"), int.from_bytes(data[32:64], "big"))
        try:
            key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
            key.verify(signature, message[:32], ec.ECDSA(Prehashed(hashes.SHA256())))
        except InvalidSignature:
            return bytes([_MISCOMPARE])
        except ValueError:
            raise CommandError(_ECC) from None
        return bytes([_OK])

    def _sha(self, mode: int, param: int, data: bytes) -> bytes:
        step = mode & 7
        if step == 0:
            self._sha_context = hashlib.sha256()
            return bytes([_OK])
        if step not in (1, 2) or len(data) != param or (step == 1 and param != 64) or param > 64:
            raise CommandError(_PARSE)
        self._require(self._sha_context is not None)
        self._sha_context.update(data)
        if step == 1:
            return bytes([_OK])
        digest: bytes = self._sha_context.digest()
        self._sha_context, self._temp_key = None, digest
        return digest

    def _is_private(self, slot: int) -> bool:
        config = self._memory.key_config(slot)
        return bool(config & 1) and config >> 2 & 7 == _P256_KEY_TYPE

    def _has_key(self, slot: int) -> bool:
        return self._is_private(slot) and any(self._memory.slots[slot])

    def _key(self, slot: int) -> ec.EllipticCurvePrivateKey:
        if not self._has_key(slot):
            raise CommandError(_ECC)
        return ec.derive_private_key(int.from_bytes(self._memory.slots[slot][4:36], "big"), ec.SECP256R1())

    def _require(self, good: bool) -> None:
        if not good:
            raise CommandError(_EXECUTION)


def _answer(data: bytes) -> bytes:
    packet = bytes([len(data) + 3]) + data
    return packet + crc16(packet)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
