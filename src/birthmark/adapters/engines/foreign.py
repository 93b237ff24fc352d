"""Chunks that were made on another machine: nothing in them is believed before it is signed."""

from __future__ import annotations

from hashlib import sha256

from birthmark.adapters.engines.worker import PreparedChunk, device_serials_of
from birthmark.errors import BirthmarkError, Tampered
from birthmark.pki.template import Template
from birthmark.ports import MakeTask
from birthmark.wire.vault import ENCAPSULATED_OCTETS, slot_octets

__all__ = ["check_chunk"]

_RECORD = 72


def check_chunk(template: Template, task: MakeTask, chunk: PreparedChunk) -> PreparedChunk:
    """Return the chunk when every TBS is a lawful filling of ``template`` for exactly this task and its records.

    ``Tampered("engine.chunk.forged")`` otherwise. What cannot be seen from here is whether the sealed key is the one
    that belongs to the public key: whoever opens a slot checks that.
    """
    device_serials = device_serials_of(task)
    made, count = chunk.made, task.count
    sealed = made.sealed
    slot_size = slot_octets(template.key_algorithm.name)
    if (
        made.task != task.task
        or len(chunk.tbs) != count
        or len(made.records) != _RECORD * count
        or len(sealed.encapsulated) != ENCAPSULATED_OCTETS
        or sealed.slot_size != slot_size
        or len(sealed.slots) != slot_size * count
    ):
        raise _forged(task, "its parts do not fit together")
    hashes = [sha256(tbs).digest() for tbs in chunk.tbs]
    for place, (device_serial, tbs) in enumerate(zip(device_serials, chunk.tbs, strict=True)):
        record = made.records[_RECORD * place : _RECORD * (place + 1)]
        try:
            values = template.read(tbs)
            key_id = values.key_id or template.key_algorithm.key_id(values.spki)
            template.validate_values(values.cert_serial, values.device_serial, values.spki, key_id)
        except BirthmarkError as problem:
            raise _forged(task, problem.message) from problem
        expected = record[:8], sha256(values.spki).digest(), hashes[place]
        if (
            values.cert_serial != task.serial_prefix + record[:8]
            or (values.device_serial and values.device_serial != device_serial)
            or b"".join(expected) != record
        ):
            raise _forged(task, f"the certificate at place {place} is not the one that was asked for")
    return PreparedChunk(made, device_serials, chunk.tbs, hashes)


def _forged(task: MakeTask, why: str) -> Tampered:
    return Tampered(
        "engine.chunk.forged",
        f"a worker on another machine sent a chunk that cannot be signed: {why}",
        hint="Find out what runs on the workers; nothing was signed.",
        task=task.task,
    )
