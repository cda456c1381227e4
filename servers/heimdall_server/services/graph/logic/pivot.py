"""From logs to entities: what the records of a query name, and what the graph knows of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

import pyarrow as pa

from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_reading import Seen, Vertex
from heimdall_server.domain.graph_views import DumpsOf
from heimdall_server.ports.graph import GraphCuration, GraphReader
from heimdall_server.ports.graph_views import GraphViews
from heimdall_server.projections.graph.wanted import Wanted
from heimdall_server.services.graph.logic.entity_types import wanted_types
from heimdall_server.services.graph.logic.tally import EntityCount, Tally, see
from heimdall_server.services.graph.model import Ceiling
from heimdall_server.services.graph.model_views import (
    Cut,
    CutReason,
    Pivoted,
    PivotEntity,
    PivotIn,
    RecordSearch,
    RecordsEnd,
)

_UNSEEN: Final = Seen(0, 0, 0, 0, Tlp.CLEAR)
_NO_DUMPS: Final = DumpsOf(())


class EntityNames(Protocol):
    """Says which entities values are; see `projections.graph.identities`."""

    async def learn(self, tokens: Iterable[str], *, through: int) -> Mapping[str, str]:
        """Find out whose tokens are."""
        ...

    def of(self, type_name: str, values: pa.StringArray, learned: Mapping[str, str]) -> pa.StringArray:
        """Canonical ids of entities; null: it is none that can be named."""
        ...


@dataclass(frozen=True, slots=True)
class PivotPorts:
    """What a pivot needs."""

    records: RecordSearch
    names: EntityNames
    reader: GraphReader
    views: GraphViews
    curation: GraphCuration
    classes: frozenset[str]
    """Of personal data."""
    graph_lag_s: Callable[[], float]
    wanted: Wanted = field(default_factory=Wanted)
    """What the graph looks for in records."""


@dataclass(slots=True)
class _Read:
    """What was read."""

    tally: Tally = field(default_factory=Tally)
    record_count: int = 0
    cut: CutReason | None = None


class Pivoting:
    """See the module."""

    def __init__(self, ports: PivotPorts) -> None:
        self._ports = ports

    async def pivot(self, caller: str, asked: PivotIn, ceiling: Ceiling) -> Pivoted:
        """Read records and count what they name.

        Raises:
            InvalidArgumentError: There is no such type.
            QuerySyntaxError, PermissionDeniedError, QueryTimeoutError, QueryCostError, BudgetExceededError, StoreError: As
                `RecordSearch.records`, and as the graph's ports.
        """
        types = wanted_types(asked.types, self._ports.classes, imported=False)
        read = await self._read(caller, asked, types, ceiling.tlp)
        tied, entity_count = await asyncio.to_thread(
            read.tally.most, record_count_min=asked.record_count_min, count_max=asked.entity_count_max
        )
        entities = await self._joined(read.tally, tied, asked.entity_count_max, ceiling.tlp)
        cuts = [Cut(read.cut, read.record_count)] if read.cut is not None else []
        if entity_count > len(entities):
            cuts.append(Cut(CutReason.ENTITY_COUNT, len(entities)))
        return Pivoted(entities, read.record_count, entity_count, cuts, self._ports.graph_lag_s())

    async def _read(self, caller: str, asked: PivotIn, types: frozenset[str], tlp_max: Tlp) -> _Read:
        read = _Read()
        deadline_s = time.monotonic() + asked.records.timeout_s
        async with aclosing(self._ports.records.records(caller, asked.records, tlp_max=tlp_max)) as batches:
            async for batch in batches:
                if isinstance(batch, RecordsEnd):
                    read.cut = batch.cut
                    break
                await self._count(read, batch, types, tlp_max)
                if read.tally.is_full:
                    read.cut = CutReason.DISTINCT_COUNT
                    break
                if time.monotonic() >= deadline_s:
                    read.cut = CutReason.TIME
                    break
        return read

    async def _count(self, read: _Read, batch: pa.RecordBatch, types: frozenset[str], tlp_max: Tlp) -> None:
        ports = self._ports
        seen = await asyncio.to_thread(see, batch, types, ports.wanted)
        tokens = seen.tokens()
        learned = await ports.names.learn(tokens, through=_last_position(batch)) if tokens else {}
        named = await asyncio.to_thread(seen.named, lambda name, values: ports.names.of(name, values, learned))
        roots = await ports.views.merged(named["id"].unique().to_list(), tlp_max=tlp_max)
        await asyncio.to_thread(read.tally.add, named, roots)
        read.record_count += len(batch)

    async def _joined(
        self, tally: Tally, tied: Sequence[EntityCount], count_max: int, tlp_max: Tlp
    ) -> list[PivotEntity]:
        """With what the graph knows; of those that are named as often the surest and newest come first."""
        if not tied:
            return []
        known = await self._ports.reader.get([one.id for one in tied], tlp_max=tlp_max)
        told = sorted(tied, key=lambda one: _order(one, known.get(one.id)))[:count_max]
        ids = [one.id for one in told if one.id in known]
        labels: dict[bytes, list[str]] = {}
        for label in await self._ports.curation.labels(ids, tlp_max=tlp_max) if ids else ():
            labels.setdefault(label.id, []).append(label.label)
        dumps = await self._ports.views.dumps_of(ids, tlp_max=tlp_max) if ids else {}
        sources = await asyncio.to_thread(tally.sources, [one.id for one in told])
        return [
            PivotEntity(
                known.get(one.id) or Vertex(one.id, VertexKind.ENTITY, one.type, one.value, _UNSEEN),
                one.id in known,
                labels.get(one.id, ()),
                dumps.get(one.id, _NO_DUMPS),
                one.count,
                one.first_ns,
                one.last_ns,
                sources[one.id],
                one.source_count,
            )
            for one in told
        ]


def _order(one: EntityCount, known: Vertex | None) -> tuple[int, int, int, bytes]:
    confidence, last_ns = (known.seen.confidence, known.seen.last_ns) if known is not None else (0, 0)
    return -one.count, -confidence, -max(last_ns, one.last_ns), one.id


def _last_position(batch: pa.RecordBatch) -> int:
    """The newest frame that a batch's records stand in: the vault must be that far for their tokens to be known."""
    positions = batch.column("position")
    return int(positions.to_numpy().max()) if len(positions) else 0
