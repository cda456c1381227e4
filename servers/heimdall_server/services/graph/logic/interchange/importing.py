"""Importing: bytes of a sender → rows of the log → facts, piece by piece, what is bad refused one by one.

    pieces of JSON → checked, read (a thread) → protected and identified (a thread) → sealed values durable in the journal
        → rows durable in the log → facts in the graph; relations and sightings once all that they may speak of has come

Whatever was kept stays when the stream breaks: the same import again adds the rest, since each row is known by what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from heimdall_server.domain.errors import DrainingError, InvalidArgumentError, OverloadedError
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_imports import ImportedEntity, ImportRow
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph_imports import ImportLog
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.ports.protector import Protected, Protector
from heimdall_server.services.graph.logic.interchange.drafts import (
    Context,
    Defaults,
    Draft,
    LinkDraft,
    Notice,
    Refusal,
    SightingDraft,
    ThingDraft,
)
from heimdall_server.services.graph.logic.interchange.json_pieces import JsonPieces, NoObject
from heimdall_server.services.graph.logic.interchange.references import refs_within
from heimdall_server.services.graph.logic.interchange.resolving import Resolver, Who
from heimdall_server.services.graph.model import Curator

PERMISSION: Final = "graph.import"
IMPORT_BYTES_MAX: Final = 256 * 1024 * 1024
"""Of one import. ATT&CK's largest bundle has 50 MB."""
DEFERRED_MAX: Final = 500_000
"""Objects, relations and sightings of one import; half a kilobyte each, since relations wait until all else has come, those that are objects of their
own with their JSON."""
_TOO_MANY: Final = f"an import has at most {DEFERRED_MAX} objects and relations; split it"
IMPORTS_MAX: Final = 2
"""Imports at the same time; each holds what it has to refer to."""
REFUSED_TOLD: Final = 100
NOTICES_TOLD: Final = 20
TYPES_TOLD: Final = 100
_TYPES_COUNTED: Final = 1_000
_BATCH_OBJECTS: Final = 500
_BATCH_BYTES: Final = 4 * 1024 * 1024
_BATCH_DEFERRED: Final = 2_000
_RETRY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What holds for all of an import."""

    source: str
    defaults: Defaults
    dry_run: bool = False
    reason: str = ""


@dataclass(slots=True)
class ImportCounts:
    """How far an import has come, and what became of it."""

    byte_count: int = 0
    object_count: int = 0
    types: Counter[str] = field(default_factory=Counter)
    new_count: int = 0
    known_count: int = 0
    context_count: int = 0
    refused_count: int = 0
    refused: list[Refusal] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    done: bool = False


class Reader(Protocol):
    """A format."""

    method: str
    """Of provenances: `stix-import`."""
    version: str
    array: str
    """The key whose array holds the parts of a document."""

    def type_of(self, part: Mapping[str, Any]) -> str:
        """What a part is, for counts."""
        ...

    def read(self, part: Mapping[str, Any], number: int) -> Iterator[Draft]:
        """What a part says; one that waits says it at `finish`."""
        ...

    def finish(self) -> Iterator[Draft]:
        """What is left to say once all have come."""
        ...


ReaderFactory: TypeAlias = Callable[[Defaults], Reader]


@dataclass(frozen=True, slots=True)
class ImportPorts:
    """What importing needs."""

    log: ImportLog
    journal: Journal
    protector: Protector
    apply: Callable[[], Awaitable[int]]
    """Brings the log's rows into the graph."""
    audit: AuditLog
    clock: Clock
    mac: Callable[[bytes], bytes]
    classes: frozenset[str]
    draining: Callable[[], bool] = lambda: False


class ImportSections:
    """What is between protection and the log, so that an erasure or a rotation can wait for it."""

    def __init__(self) -> None:
        self._open: set[asyncio.Future[None]] = set()

    @contextlib.asynccontextmanager
    async def section(self) -> AsyncIterator[None]:
        """One of them."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(ended)
        try:
            yield
        finally:
            self._open.discard(ended)
            ended.set_result(None)

    async def barrier(self) -> None:
        """Wait for those that are open now."""
        if self._open:
            await asyncio.wait(set(self._open))


class GraphImporting:
    """See the module."""

    def __init__(self, ports: ImportPorts) -> None:
        self._ports = ports
        self._running = 0
        self.sections = ImportSections()

    async def run(
        self, importer: Curator, options: ImportOptions, make_reader: ReaderFactory, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[ImportCounts, None]:
        """Import; tells how far it is after each piece, and at last with `done`.

        Args:
            importer: Who.
            options: How.
            make_reader: The format's; called in a thread.
            chunks: What is imported, cut anywhere.

        Raises:
            FormatError: It isn't what it must be; what was kept stays.
            InvalidArgumentError: It is too large.
            OverloadedError: Enough imports run.
            JournalFullError, StoreError: Something can't be kept now.
        """
        if self._running >= IMPORTS_MAX:
            raise OverloadedError(retry_after_s=_RETRY_S)
        self._running += 1
        try:
            reader = await asyncio.to_thread(make_reader, options.defaults)
            await self._audited(importer, "allowed", options, reader, {})
            one = _Import(self._ports, self.sections, importer, options, reader)
            async for counts in one.run(chunks):
                yield counts
            counts = one.counts
            counts.done = True
            told = {
                "object_count": counts.object_count,
                "new_count": counts.new_count,
                "refused_count": counts.refused_count,
            }
            await self._audited(importer, "done", options, reader, told)
            yield counts
        finally:
            self._running -= 1

    async def _audited(
        self, importer: Curator, outcome: str, options: ImportOptions, reader: Reader, counts: Mapping[str, int]
    ) -> None:
        details = {"method": importer.method, "format": reader.method, "dry_run": str(options.dry_run).lower()}
        details |= {name: str(count) for name, count in counts.items()}
        act = Act(importer.actor, PERMISSION, outcome, options.reason, options.source, details, importer.request_id)
        await self._ports.audit.append(act)


class _Import:
    """One of them."""

    def __init__(
        self, ports: ImportPorts, sections: ImportSections, importer: Curator, options: ImportOptions, reader: Reader
    ) -> None:
        self.counts = ImportCounts()
        self._ports = ports
        self._sections = sections
        self._options = options
        self._reader = reader
        self._actor = importer.actor
        self._ceiling: Tlp = importer.ceiling
        who = Who(ports.journal.journal_id, options.source, reader.method, reader.version, importer.actor)
        self._resolver = Resolver(ports.protector, ports.mac, ports.classes, who, importer.ceiling)
        self._entities: dict[str, ImportedEntity] = {}
        self._deferred: list[LinkDraft | SightingDraft] = []
        self._unkept: set[str] = set()
        """The sender's ids of what was refused."""

    async def run(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[ImportCounts, None]:
        pieces = JsonPieces(self._reader.array, format_=self._reader.method.removesuffix("-import"))
        waiting: list[Mapping[str, Any]] = []
        waiting_bytes = 0
        async for chunk in chunks:
            self.counts.byte_count += len(chunk)
            if self.counts.byte_count > IMPORT_BYTES_MAX:
                raise InvalidArgumentError("chunk", f"an import has at most {IMPORT_BYTES_MAX >> 20} MiB; split it")
            waiting += await asyncio.to_thread(lambda data: list(pieces.feed(data)), chunk)
            waiting_bytes += len(chunk)
            while len(waiting) >= _BATCH_OBJECTS or (waiting and waiting_bytes >= _BATCH_BYTES):
                batch, waiting = waiting[:_BATCH_OBJECTS], waiting[_BATCH_OBJECTS:]
                await self._take(await asyncio.to_thread(self._read, batch))
                waiting_bytes = 0
                yield self.counts
        waiting += await asyncio.to_thread(lambda: list(pieces.close()))
        for piece in _cut(waiting):
            await self._take(await asyncio.to_thread(self._read, piece))
            yield self.counts
        left = await asyncio.to_thread(lambda: list(self._reader.finish()))
        for drafts in _cut(left):
            await self._take(drafts)
            yield self.counts
        for some in _cut(self._deferred, _BATCH_DEFERRED):
            await self._take_deferred(some)
            yield self.counts

    def _read(self, parts: Sequence[Mapping[str, Any]]) -> list[Draft]:
        drafts: list[Draft] = []
        for part in parts:
            self.counts.object_count += 1
            if self.counts.object_count > DEFERRED_MAX:
                raise InvalidArgumentError("chunk", _TOO_MANY)
            type_ = self._reader.type_of(part)
            known = type_ in self.counts.types or len(self.counts.types) < _TYPES_COUNTED
            self.counts.types[type_ if known else ""] += 1
            if isinstance(part, NoObject):
                drafts.append(Refusal("", self.counts.object_count, "it is no object"))
            else:
                drafts += self._reader.read(part, self.counts.object_count)
        return drafts

    async def _take(self, drafts: Sequence[Draft]) -> None:
        """Keep what is an entity; put the rest aside."""
        if self._ports.draining():
            raise DrainingError
        things: list[ThingDraft] = []
        for draft in drafts:
            if isinstance(draft, ThingDraft):
                things.append(draft)
            elif isinstance(draft, LinkDraft | SightingDraft):
                self._deferred.append(draft)
            elif isinstance(draft, Refusal):
                self._refuse([draft])
            elif isinstance(draft, Context):
                self.counts.context_count += 1
            elif isinstance(draft, Notice) and len(self.counts.notices) < NOTICES_TOLD:
                self.counts.notices.append(draft.text)
        if len(self._deferred) + len(self._entities) > DEFERRED_MAX:
            raise InvalidArgumentError("chunk", _TOO_MANY)
        async with self._sections.section():
            found = await asyncio.to_thread(self._resolver.things, things, self._ports.clock.now_ns())
            self._refuse(found.refused)
            self._entities.update(found.entities)
            await self._keep(found.rows, found.protected)

    async def _take_deferred(self, drafts: Sequence[LinkDraft | SightingDraft]) -> None:
        if self._ports.draining():
            raise DrainingError
        objects, refs = await asyncio.to_thread(_objects_of, drafts)
        await self._look_up(refs)
        sighted = {self._resolver.ref(one.ref) for one in drafts if isinstance(one, SightingDraft)}
        counted = await self._ports.log.counted(self._options.source, list(sighted)) if sighted else {}
        async with self._sections.section():
            rows, protected = await asyncio.to_thread(self._deferred_rows, drafts, objects, dict(counted))
            await self._keep(rows, protected)

    def _deferred_rows(
        self,
        drafts: Sequence[LinkDraft | SightingDraft],
        objects: Sequence[Mapping[str, Any]],
        before: dict[bytes, int],
    ) -> tuple[Sequence[ImportRow], Protected | None]:
        """Rows of relations and sightings, with the objects that they were told of as."""
        now_ns = self._ports.clock.now_ns()
        rows: list[tuple[ImportRow, Mapping[str, Any]]] = []
        for draft, object_ in zip(drafts, objects, strict=True):
            if isinstance(draft, LinkDraft):
                made = self._resolver.link(draft, self._entities, now_ns)
            elif draft.saying.count == 0:
                self.counts.context_count += 1
                continue
            else:
                earlier = before.get(self._resolver.ref(draft.ref), 0)
                made = self._resolver.sighting(draft, self._entities, earlier, now_ns)
            if isinstance(made, Refusal):
                # What is said within an object that was refused needn't be told again.
                if not (draft.within and self._unkept.intersection(_refs(draft))):
                    self._refuse([made])
            else:
                rows.append((made, object_))
                before[made.ref] = before.get(made.ref, 0) + made.counted
        return self._resolver.with_objects(rows, self._entities, now_ns)

    async def _look_up(self, refs: Collection[str]) -> None:
        """Find what was imported earlier and is referred to now."""
        keyed = {self._resolver.ref(ref): ref for ref in refs if ref not in self._entities}
        if not keyed:
            return
        found = await self._ports.log.entities(list(keyed), tlp_max=self._ceiling)
        self._entities.update((keyed[ref], entity) for ref, entity in found.items())

    async def _keep(self, rows: Sequence[ImportRow], protected: Protected | None) -> None:
        if not rows:
            return
        distinct = {row.digest: row for row in rows}
        if self._options.dry_run:
            known = set(await self._ports.log.known(list(distinct)))
            new = len(distinct) - len(known)
        else:
            if protected is not None and protected.sidecars:
                # First the values, then what names them: a token that nobody can open says nothing.
                await self._ports.journal.append([Entry(None, sidecars=protected.sidecars)])
                protected.on_durable()
            new = await self._ports.log.append(rows, actor=self._actor, time_ns=self._ports.clock.now_ns())
            await self._ports.apply()
        self.counts.new_count += new
        self.counts.known_count += len(rows) - new

    def _refuse(self, refused: Sequence[Refusal]) -> None:
        self._unkept.update(one.ref for one in refused)
        self.counts.refused_count += len(refused)
        self.counts.refused += refused[: max(0, REFUSED_TOLD - len(self.counts.refused))]


def _objects_of(drafts: Sequence[LinkDraft | SightingDraft]) -> tuple[list[Mapping[str, Any]], set[str]]:
    """The objects that some were told of as, and all that they and these refer to."""
    objects: list[Mapping[str, Any]] = [json.loads(one.kept) if one.kept else {} for one in drafts]
    refs = {ref for draft in drafts for ref in _refs(draft)}
    return objects, refs.union(ref for object_ in objects for _, ref in refs_within(object_))


def _refs(draft: LinkDraft | SightingDraft) -> tuple[str, ...]:
    return (draft.source_ref, draft.target_ref) if isinstance(draft, LinkDraft) else (draft.of_ref,)


def _cut(items: Sequence[Any], size: int = _BATCH_OBJECTS) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
