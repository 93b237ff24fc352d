"""NV indexes of a TPM that each hold one thing: the start is written last, and says that the rest is whole."""

from __future__ import annotations

from typing import Any

from birthmark.adapters.targets.tpm2.link import TpmLink, binding
from birthmark.errors import DeviceFault, Refused
from birthmark.ports import Fence

__all__ = ["LARGEST_CELL", "TpmCells"]

LARGEST_CELL = 2048
"""Octets. What an index may hold at most: no TPM we know of holds more in one."""

_HEAD = 16


class TpmCells:
    """The NV indexes of a TPM. Without a fence nothing is written or removed.

    An index belongs to the owner and is read by anybody: attributes OWNERWRITE, OWNERREAD, AUTHREAD and NO_DA, name
    algorithm SHA-256, an empty password, and exactly as many octets as are in it. The first 16 octets are written
    last: until then they are ones, as the TPM gives them, and are the start of nothing that we read.
    """

    def __init__(self, link: TpmLink, fence: Fence | None = None) -> None:
        self._link = link
        self._fence = fence
        self._defined: set[int] | None = None

    def read(self, index: int) -> bytes | None:
        """Return what is in an index; None if it is not defined or was never written to the end."""
        if index not in self._indexes():
            return None
        pytss = binding()
        flags = pytss.TPMA_NV
        handle = self._link.esys.tr_from_tpmpublic(index)
        public = self._link.esys.nv_read_public(handle)[0].nvPublic
        size, attributes = int(public.dataSize), int(public.attributes)
        if not attributes & int(flags.WRITTEN):
            return None
        if size > LARGEST_CELL or not attributes & int(flags.AUTHREAD | flags.OWNERREAD):
            raise DeviceFault(
                "target.tpm.index",
                f"the NV index 0x{index:08x} is not one that this target can read",
                hint="Look at it with tpm2_nvreadpublic; name other indexes with nv=, or remove it.",
                index=f"0x{index:08x}",
                octets=size,
            )
        who = handle if attributes & int(flags.AUTHREAD) else pytss.ESYS_TR.OWNER
        return self._octets(handle, size, who)

    def _octets(self, handle: Any, size: int, who: Any) -> bytes | None:
        data, step = b"", self._link.buffer_size()
        while len(data) < size:
            some = bytes(self._link.esys.nv_read(handle, min(step, size - len(data)), len(data), auth_handle=who))
            if not some:
                raise DeviceFault(
                    "target.tpm.malformed",
                    "the TPM gives less of an NV index than is in it",
                    hint="Take the device off the line: its TPM does not work.",
                )
            data += some
        return None if data[:_HEAD] == b"\xff" * min(_HEAD, size) else data[:size]

    def check_fits(self, data: bytes) -> None:
        """Return if ``data`` fits into one index of this TPM, else ``Refused("target.tpm.too_long")``."""
        most = min(LARGEST_CELL, self._link.largest_index())
        if len(data) > most:
            raise Refused(
                "target.tpm.too_long",
                f"{len(data)} octets do not fit into an NV index of this TPM",
                hint="Use an issuing CA with an EC key, or chain=issuing if it is the certificate of the root.",
                octets=len(data),
                most=most,
            )

    def write(self, index: int, data: bytes) -> None:
        """Leave exactly ``data`` in an index; nothing is done if it is there already."""
        self.check_fits(data)
        if self.read(index) == data:
            return
        self.remove(index)
        self._hold()
        handle = self._define(index, len(data))
        step = self._link.buffer_size()
        for start in reversed(range(_HEAD, len(data), step)):
            self._hold()
            self._put(handle, data[start : start + step], start)
        self._hold()
        self._put(handle, data[:_HEAD], 0)

    def remove(self, index: int) -> None:
        """Leave nothing in an index."""
        if index in self._indexes():
            self._hold()
            self._link.esys.nv_undefine_space(self._link.esys.tr_from_tpmpublic(index))
            self._indexes().discard(index)

    def _define(self, index: int, octets: int) -> Any:
        pytss = binding()
        flags = pytss.TPMA_NV
        public = pytss.TPM2B_NV_PUBLIC(
            nvPublic=pytss.TPMS_NV_PUBLIC(
                nvIndex=index,
                nameAlg=pytss.TPM2_ALG.SHA256,
                attributes=flags.OWNERWRITE | flags.OWNERREAD | flags.AUTHREAD | flags.NO_DA,
                dataSize=octets,
            )
        )
        handle = self._link.esys.nv_define_space(None, public)
        self._indexes().add(index)
        return handle

    def _put(self, handle: Any, data: bytes, start: int) -> None:
        self._link.esys.nv_write(handle, data, start, auth_handle=binding().ESYS_TR.OWNER)

    def _indexes(self) -> set[int]:
        if self._defined is None:
            self._defined = set(self._link.handles("nv"))
        return self._defined

    def _hold(self) -> None:
        if self._fence is None:
            raise RuntimeError("a TPM of a device is changed without a fence")
        self._fence.hold()
