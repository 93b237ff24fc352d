"""The rows of one device: tables ``device``, ``certificate`` and ``settled``, and its keys in the vault."""

from __future__ import annotations

from typing import Any

from birthmark.adapters.audit.bulkrows import INTENT_COLUMNS, intent_row
from birthmark.adapters.audit.life import DevicePart, Life
from birthmark.adapters.audit.reader import LedgerReader

__all__ = ["DeviceRows"]


class DeviceRows:
    """Compares rows with lives that were replayed."""

    def __init__(self, reader: LedgerReader, part: DevicePart) -> None:
        self._reader = reader
        self._part = part

    def compare(self, life: Life, stored: list[Any]) -> None:
        """Compare the row of a device (``stored``: state, intent, position, attempt), its reservations and keys."""
        self._compare(life, stored)
        self._check_vault(life)
        self._check_settled(life)

    def _check_settled(self, life: Life) -> None:
        if life.settled is None:
            if life.settled_row:
                what = f"device {life.device}: no entry says that it came home from a site"
                self._part.findings.add("audit.fold.settled", what, f"table settled, {life.device}", life.device)
            return
        self._part.settled += 1
        rows = self._reader.all("SELECT site, site_seq FROM settled WHERE device_serial = ?", life.device)
        if rows != [(life.settled["site"], life.settled["number"])]:
            what = f"device {life.device}: what came home from site {life.settled['site']} stands as {rows!a}"
            self._part.findings.add("audit.fold.settled", what, f"table settled, {life.device}", life.device)

    def _compare(self, life: Life, stored: list[Any]) -> None:
        expected: tuple[Any, ...] = (None, None, None, None)
        if life.own:
            # A device that was scrapped before anything was reserved keeps its place in the chunk.
            free = life.intent is None and stored[2] in (None, life.place)
            position = stored[2] if free else life.position
            expected = (life.state, life.intent, position, life.attempt)
        for column, is_, should in zip(("state", "intent", "position", "attempt"), stored, expected, strict=True):
            if is_ != should:
                what = f"device {life.device}: column {column} is {is_!a}, the log says {should!a}"
                self._part.findings.add("audit.fold.device", what, f"table device, {life.device}", life.device)
        for intent, single in life.singles.items():
            self._compare_single(life, intent, single)

    def _compare_single(self, life: Life, intent: int, single: list[Any]) -> None:
        document, record, state, issued = single
        rows = self._reader.all(
            'SELECT "order", chunk, device_serial, count, template, serial_prefix, source, records, state, issued_seq'
            " FROM certificate WHERE intent = ?",
            intent,
        )
        expected = (*intent_row(document), record, state, issued)
        self._part.certificate_rows += len(rows)
        if not rows or rows[0] != expected:
            pairs = zip(INTENT_COLUMNS, rows[0] if rows else expected, expected, strict=True)
            differing = [name for name, is_, should in pairs if is_ != should] or ["the row"]
            what = f"device {life.device}: {', '.join(differing)} of intent {intent} differs from the log"
            self._part.findings.add("audit.fold.certificate", what, f"table certificate, intent {intent}", life.device)

    def _check_vault(self, life: Life) -> None:
        self._part.erased += len(life.erased)
        if life.key_origin != "injected":
            return
        for intent in life.singles:
            rows = self._reader.all("SELECT slots FROM vault WHERE intent = ?", intent)
            if not rows and intent in life.certificates:
                self._vault(life, "audit.vault.missing", intent, "the pooled key is not in the vault")
            elif not rows:
                life.erased.discard((intent, 0))
            elif isinstance(rows[0][0], bytes) and not rows[0][0].strip(b"\0"):
                life.zeros.add((intent, 0))
        for intent, _ in life.zeros - life.erased:
            self._vault(life, "audit.vault.undrawn_erased", intent, "the key was erased without a record")
        for intent, _ in life.erased - life.zeros:
            self._vault(life, "audit.vault.drawn_not_erased", intent, "the record says erased, the key is still there")
        if life.state == "verified" and life.intent is not None:
            key = (life.intent, life.position or 0)
            if life.settled is not None and life.settled["state"] == "verified":
                code, what = "audit.vault.copy", "verified at a site, but a copy of its key lies here"
            else:
                code, what = "audit.vault.drawn_not_erased", "verified, but its key was not erased"
            if key not in life.erased and key not in life.zeros:
                self._vault(life, code, life.intent, what)

    def _vault(self, life: Life, code: str, intent: int, what: str) -> None:
        self._part.findings.add(code, f"device {life.device}: {what}", f"table vault, intent {intent}", life.device)
