"""Everything that is held on a subject (article 15 GDPR), as one NDJSON document in pieces.

The first line says what the document is about, then come a line for each value in the vault and a line for each record that names
one of the subject's tokens; the last line counts them, so that a document that was cut short is noticed. A record is as it is
stored, with its provenance (`source`, `dataset`, `position`, `row`, `time`, `observed_time`); only the subject's own tokens
are ever replaced by values.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from heimdall_server.domain.errors import KeyDestroyedError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import PersonalValue, SealedValue, TokenName
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.keys import Sealer
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic.limits import CallerRates
from heimdall_server.services.privacy.logic.subjects import Subject, SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller

ACTION: Final = "privacy.export"
DOCUMENT_KIND: Final = "heimdall.subject_export"
DOCUMENT_VERSION: Final = 1
PIECE_BYTES_MAX: Final = 256 * 1024
"""As the contract says."""

RecordSearch = Callable[[Sequence[TokenName], TimeRange], AsyncGenerator[Sequence[str], None]]
"""Stored records that name one of the tokens, the oldest first, as JSON objects, some at a time. Raises StoreError."""


class ExportUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        subjects: SubjectNames,
        vault: Vault,
        sealer: Sealer,
        search: RecordSearch,
        trail: AuditTrail,
        rates: CallerRates,
        clock: Clock,
        instance_id: str,
    ) -> None:
        """Make one.

        Args:
            subjects: Finds the tokens.
            vault: Where values are.
            sealer: Opens them.
            search: Finds records.
            trail: Where it is written down.
            rates: How much a caller may ask for.
            clock: When it was made.
            instance_id: Whose records they are.
        """
        self._subjects = subjects
        self._vault = vault
        self._sealer = sealer
        self._search = search
        self._trail = trail
        self._rates = rates
        self._clock = clock
        self._instance_id = instance_id

    async def export(
        self, caller: Caller, values: Sequence[PersonalValue], time_range: TimeRange, *, reason: str, reveal: bool
    ) -> AsyncGenerator[bytes, None]:
        """The document in pieces of at most 256 KiB, cut anywhere.

        Args:
            caller: Who asks.
            values: What the subject is known by, in plain or by token.
            time_range: Only records of this time.
            reason: Why.
            reveal: Whether the subject's own tokens are replaced by their values.

        Raises:
            InvalidArgumentError: No such class, or a token of another one.
            BudgetExceededError: The caller's rate is used up.
            StoreError: The vault, the store or the audit log can't be reached; what came before isn't the whole.
            IntegrityError: A sealed value was changed.
        """
        self._rates.take(caller.actor, len(values))
        subject = await self._subjects.resolve(values)
        sealed = await self._vault.get(subject.names)
        opened = await asyncio.to_thread(self._open, sealed) if reveal else {}
        entry = await self._trail.allowed(
            caller,
            ACTION,
            reason=reason,
            details={
                "classes": " ".join(subject.classes),
                "tokens": " ".join(map(str, subject.names)),
                "reveal": str(reveal).lower(),
                "start_time_ns": time_range.start_ns_inclusive,
                "end_time_ns": time_range.end_ns_exclusive,
            },
        )
        head = self._head(subject, time_range, reveal=reveal, audit_sequence=entry.sequence)
        lines = [head, *_vault_lines(subject, sealed, opened)]
        shown = _Shown(opened)
        record_count = 0
        async with aclosing(self._search(subject.names, time_range)) as found:
            async for rows in found:
                record_count += len(rows)
                lines += await asyncio.to_thread(shown.records, rows)
                if sum(map(len, lines)) >= PIECE_BYTES_MAX:
                    for piece in _pieces(lines):
                        yield piece
                    lines = []
        lines.append(_line({"kind": "end", "record_count": record_count}))
        for piece in _pieces(lines):
            yield piece

    def _open(self, sealed: Mapping[TokenName, SealedValue]) -> dict[TokenName, str]:
        opened: dict[TokenName, str] = {}
        for name, value in sealed.items():
            try:
                opened[name] = self._sealer.open(value)
            except KeyDestroyedError:
                continue
        return opened

    def _head(self, subject: Subject, time_range: TimeRange, *, reveal: bool, audit_sequence: int) -> bytes:
        return _line(
            {
                "kind": DOCUMENT_KIND,
                "version": DOCUMENT_VERSION,
                "instance_id": self._instance_id,
                "create_time": _time(self._clock.now_ns()),
                "tokens": list(map(str, subject.names)),
                "start_time_inclusive": _time(time_range.start_ns_inclusive),
                "end_time_exclusive": _time(time_range.end_ns_exclusive),
                "revealed": reveal,
                "audit_sequence": audit_sequence,
            }
        )


class _Shown:
    """Puts a subject's values in place of its tokens."""

    def __init__(self, opened: Mapping[TokenName, str]) -> None:
        # As they stand inside of a JSON text.
        self._values = {str(name): json.dumps(value, ensure_ascii=False)[1:-1] for name, value in opened.items()}
        self._pattern = re.compile("|".join(map(re.escape, self._values))) if opened else None

    def records(self, rows: Sequence[str]) -> list[bytes]:
        """The lines of records: all rows of an answer in one go."""
        if not rows:
            return []
        text = "\n".join(f'{{"kind":"record","record":{row}}}' for row in rows) + "\n"
        if self._pattern is not None:
            text = self._pattern.sub(lambda found: self._values[found[0]], text)
        return [text.encode()]


def _vault_lines(
    subject: Subject, sealed: Mapping[TokenName, SealedValue], opened: Mapping[TokenName, str]
) -> list[bytes]:
    lines = []
    for name in subject.names:
        if name in sealed:
            value = {"kind": "vault", "token": str(name), "key_generation": sealed[name].generation}
            lines.append(_line(value | ({"value": opened[name]} if name in opened else {})))
    return lines


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    data = b"".join(lines)
    for start in range(0, len(data), PIECE_BYTES_MAX):
        yield data[start : start + PIECE_BYTES_MAX]


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _time(ns: int | None) -> str | None:
    if ns is None:
        return None
    whole = dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"
