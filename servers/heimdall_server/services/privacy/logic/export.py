"""Everything that is held on a subject (article 15 GDPR), as one NDJSON document in pieces.

The first line says what the document is about, then come a line for each value in the vault, a line for each record that names
one of the subject's tokens, and what the further parts hold (dead letters, the graph: `held`); a line of the kind `missing` says what
a part can't give, and why. The last line counts them, so that a document that was cut short is noticed. A record is as it is
stored, with its provenance (`source`, `dataset`, `position`, `row`, `time`, `observed_time`); only the subject's own tokens
are ever replaced by values.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from heimdall_server.domain.errors import KeyDestroyedError, QueryTimeoutError, StoreError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.personal import PersonalValue, SealedValue, TokenName
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.keys import Sealer
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic.held import Lines, Missing, Part, time_text
from heimdall_server.services.privacy.logic.limits import CallerRates
from heimdall_server.services.privacy.logic.subjects import Subject, SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller

ACTION: Final = "privacy.export"
DOCUMENT_KIND: Final = "heimdall.subject_export"
DOCUMENT_VERSION: Final = 2
PIECE_BYTES_MAX: Final = 256 * 1024
"""As the contract says."""

_LOG: Final = logging.getLogger(__name__)

RecordSearch = Callable[[Sequence[TokenName], TimeRange], AsyncGenerator[Sequence[str], None]]
"""All stored records that name one of the tokens, the oldest first, as JSON objects, some at a time.

Raises StoreError, StoreBehindError, or what a limit of the store is told by: never ends before the last one without.
"""


class ExportUseCase:
    """See the module."""

    def __init__(
        self,
        *,
        subjects: SubjectNames,
        vault: Vault,
        sealer: Sealer,
        search: RecordSearch,
        parts: Sequence[Part],
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
            parts: What else is told.
            trail: Where it is written down.
            rates: How much a caller may ask for.
            clock: When it was made.
            instance_id: Whose records they are.
        """
        self._subjects = subjects
        self._vault = vault
        self._sealer = sealer
        self._search = search
        self._parts = parts
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
            StoreBehindError: The store hasn't all records yet; come back later.
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
        lines = self._lines([head, *_vault_lines(subject, sealed, opened)], subject.names, time_range, _Shown(opened))
        held, held_bytes = list[bytes](), 0
        async with aclosing(lines):
            async for some in lines:
                held += some
                held_bytes += sum(map(len, some))
                if held_bytes >= PIECE_BYTES_MAX:
                    for piece in _pieces(held):
                        yield piece
                    held, held_bytes = [], 0
        for piece in _pieces(held):
            yield piece

    async def _lines(
        self, first: Sequence[bytes], names: Sequence[TokenName], time_range: TimeRange, shown: _Shown
    ) -> AsyncGenerator[Sequence[bytes], None]:
        """The document's lines, some at a time. The last of them only once all others are out."""
        yield first
        record_count = 0
        async with aclosing(self._search(names, time_range)) as found:
            async for rows in found:
                record_count += len(rows)
                yield await asyncio.to_thread(shown.records, rows)
        counts, missing = {"record_count": record_count}, list[str]()
        for part in self._parts:
            counts[f"{part.name}_line_count"] = 0
            async with aclosing(self._part(part, names, time_range)) as told:
                async for line in told:
                    if isinstance(line, Missing):
                        missing.append(part.name)
                        yield [_line({"kind": "missing", "part": part.name, "reason": line.reason})]
                    else:
                        counts[f"{part.name}_line_count"] += 1
                        yield [shown.line(_line(line))]
        yield [_line({"kind": "end", **counts, "missing": sorted(set(missing))})]

    async def _part(self, part: Part, names: Sequence[TokenName], time_range: TimeRange) -> Lines:
        """A part's lines, and, where its engine fails, that they aren't all."""
        try:
            async with aclosing(part.lines(names, time_range)) as told:
                async for line in told:
                    yield line
        except (StoreError, QueryTimeoutError) as error:
            _LOG.warning("a part of an export is missing", extra={"part": part.name, "problem": str(error)})
            yield Missing("it can't be read at present, or not to its end; export again later")

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
                "create_time": time_text(self._clock.now_ns()),
                "tokens": list(map(str, subject.names)),
                "start_time_inclusive": time_text(time_range.start_ns_inclusive),
                "end_time_exclusive": time_text(time_range.end_ns_exclusive),
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

    def line(self, line: bytes) -> bytes:
        """A line of JSON."""
        return self._replaced(line.decode()).encode()

    def records(self, rows: Sequence[str]) -> list[bytes]:
        """The lines of records: all rows of an answer in one go."""
        if not rows:
            return []
        text = "\n".join(f'{{"kind":"record","record":{row}}}' for row in rows) + "\n"
        return [self._replaced(text).encode()]

    def _replaced(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(lambda found: self._values[found[0]], text)


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
