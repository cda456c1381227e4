"""Answered exports: a byte-identical one within ten minutes gets the first answer and stores nothing.

At 200 requests a second that is 120,000 answers, so they are kept as rows of 32 bytes in one piece of memory, oldest
first, which is also what a snapshot takes. Only the rare answer that rejected something has a text beside.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Final

from heimdall_server.ports.journal import RequestMark
from heimdall_server.services.ingest.logic import metrics

WINDOW_NS: Final = 10 * 60 * 1_000_000_000
"""How long an answer counts."""
COUNT_MAX: Final = 131_072
"""Answers remembered; beyond it the oldest go, whatever their age (and are counted)."""
_ROW: Final = struct.Struct("<16sqII")
_SIZE: Final = struct.Struct("<Q")
_COMPACT_ROWS: Final = 16_384
_COUNT_LIMIT: Final = 2**32 - 1


class Answers:
    """See the module. The event loop owns it."""

    def __init__(self, *, count_max: int = COUNT_MAX) -> None:
        self._count_max = count_max
        self._rows = bytearray()
        self._first = 0
        """Rows before it are forgotten; `_rows` begins with row `_base`."""
        self._base = 0
        self._row_of: dict[bytes, int] = {}
        self._messages: dict[bytes, str] = {}

    def __len__(self) -> int:
        return self._base + len(self._rows) // _ROW.size - self._first

    def add(self, mark: RequestMark) -> None:
        """Remember an answer that is durable."""
        key = _key(mark.principal, mark.digest)
        self._append(key, mark.time_ns, min(mark.accepted_count, _COUNT_LIMIT), min(mark.rejected_count, _COUNT_LIMIT))
        if mark.message:
            self._messages[key] = mark.message
        horizon_ns = mark.time_ns - WINDOW_NS
        while len(self) > 1:
            old, time_ns, _, _ = self._row(self._first)
            if time_ns >= horizon_ns:
                if len(self) <= self._count_max:
                    break
                metrics.FORGOTTEN.labels("answers").inc()
            if self._row_of.get(old) == self._first:
                del self._row_of[old]
                self._messages.pop(old, None)
            self._first += 1
        if self._first - self._base >= _COMPACT_ROWS:
            del self._rows[: (self._first - self._base) * _ROW.size]
            self._base = self._first

    def find(self, principal: str, digest: bytes, now_ns: int) -> RequestMark | None:
        """The first answer to a byte-identical export, if it is young enough."""
        key = _key(principal, digest)
        row = self._row_of.get(key)
        if row is None:
            return None
        _, time_ns, accepted, rejected = self._row(row)
        if now_ns - time_ns > WINDOW_NS:
            return None
        return RequestMark(principal, digest, time_ns, accepted, rejected, self._messages.get(key, ""))

    def snapshot(self) -> bytes:
        """Everything, as bytes."""
        rows = memoryview(self._rows)[(self._first - self._base) * _ROW.size :]
        texts = json.dumps([[key.hex(), text] for key, text in self._messages.items()])
        return b"".join((_SIZE.pack(len(rows)), rows, texts.encode()))

    def restore(self, snapshot: bytes) -> None:
        """Replace everything by a snapshot."""
        self._rows = bytearray()
        self._first = self._base = 0
        self._row_of.clear()
        end = _SIZE.size + _SIZE.unpack_from(snapshot)[0]
        for key, time_ns, accepted, rejected in _ROW.iter_unpack(snapshot[_SIZE.size : end]):
            self._append(key, time_ns, accepted, rejected)
        self._messages = {bytes.fromhex(key): text for key, text in json.loads(snapshot[end:])}

    def _append(self, key: bytes, time_ns: int, accepted: int, rejected: int) -> None:
        self._row_of[key] = self._base + len(self._rows) // _ROW.size
        self._rows += _ROW.pack(key, time_ns, accepted, rejected)

    def _row(self, number: int) -> tuple[bytes, int, int, int]:
        row: tuple[bytes, int, int, int] = _ROW.unpack_from(self._rows, (number - self._base) * _ROW.size)
        return row


def _key(principal: str, digest: bytes) -> bytes:
    return hashlib.sha256(principal.encode() + b"\0" + digest).digest()[:16]
