"""Hunts of a process that runs the graph: what notes them, who does them, and who tells of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.config import Config
from heimdall_server.domain.errors import IntegrityError, KeyDestroyedError
from heimdall_server.domain.personal import TokenName
from heimdall_server.ports.graph import GraphCuration
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.projections.graph.hunter import Hunter
from heimdall_server.projections.graph.identities import Identities
from heimdall_server.projections.graph.record_search import StoredSightings
from heimdall_server.services.graph.hunt_servicer import HuntUseCases
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.hunting import GraphHunting
from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.logic.watching import GraphWatching, GraphWatchLimits, WatchPorts
from heimdall_server.services.query.logic.admission import QueryClass
from heimdall_server.storage.postgres.graph.events import PostgresEventLog
from heimdall_server.storage.postgres.graph.hunts import PostgresHuntStore
from heimdall_server.storage.postgres.graph.news import HuntBounds, News
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.privacy import PrivacyParts
from heimdall_server.wiring.tasks import cancel, follow

PROGRESS: Final = "graph_hunts"
_BUSY_PART: Final = 4
"""Ingest is busy when a quarter of a full group waits."""


@dataclass(slots=True)
class HuntParts:
    """What hunts of a process are made of."""

    news: News
    """For the graph's writer."""
    store: PostgresHuntStore
    events: PostgresEventLog
    bounds: HuntBounds | None
    """None: hunts are off."""
    hunter: Hunter | None = None
    watching: GraphWatching | None = None

    def ring(self) -> None:
        """The graph took something in."""
        if self.hunter is not None:
            self.hunter.wake()
        self.told()

    def told(self) -> None:
        """There may be new events."""
        if self.watching is not None:
            self.watching.ring()


def make_hunts(config: Config, privacy: PrivacyParts, parts: Parts) -> HuntParts:
    """What notes hunts, before anybody does any."""
    hunt = config.graph.hunt
    bounds = HuntBounds(hunt.entity_count_max, hunt.match_count_max) if hunt.enabled else None
    pool = privacy.postgres.pool.used_by("graph_hunts")
    return HuntParts(News(parts.clock.now_ns, bounds), PostgresHuntStore(pool), PostgresEventLog(pool), bounds)


def start_hunter(
    config: Config,
    privacy: PrivacyParts,
    parts: Parts,
    hunts: HuntParts,
    projection: GraphProjection,
    identities: Identities,
    stack: contextlib.AsyncExitStack,
) -> None:
    """Begin to hunt."""
    settings = config.graph.hunt
    busy_bytes = config.ingest.pipeline.group_bytes_max // _BUSY_PART

    def busy() -> str:
        if projection.progress.lag_s > settings.lag_s_max:
            return "the graph is behind the journal"
        if any(parts.admission.waiting(kind) for kind in QueryClass):
            return "queries wait"
        if sum(pipeline.held_bytes for pipeline in parts.pipelines) >= busy_bytes:
            return "records come in faster than they become durable"
        return ""

    hunter = Hunter(
        hunts.store,
        hunts.events,
        parts.clock,
        settings,
        busy=busy,
        records=StoredSightings(
            parts.store,
            identities,
            instance=parts.journal.journal_id,
            through=lambda: parts.warm.visible_through,
            words=_words_of(privacy),
            admitted=parts.admission.admit_history,
        ),
        on_told=hunts.told,
    )
    hunts.hunter = hunter
    if settings.enabled:
        privacy.progress[PROGRESS] = lambda: hunter.progress
    task = asyncio.create_task(follow(hunter.run, "what dumps hold isn't hunted for"), name="graph-hunts")
    stack.push_async_callback(cancel, [task])


def _words_of(privacy: PrivacyParts) -> Callable[[Sequence[str]], Awaitable[Sequence[str]]]:
    keyring, vault = privacy.keys.keyring, privacy.vault

    async def words(tokens: Sequence[str]) -> Sequence[str]:
        names = [name for token in tokens if (name := TokenName.parse(token)) is not None]
        values = await vault.get(names)

        def of_all_epochs() -> list[str]:
            found: list[str] = []
            for name, value in values.items():
                # What can't be opened by anybody any more has no other words.
                with contextlib.suppress(KeyDestroyedError, IntegrityError):
                    found += keyring.words_of_all_epochs(name.data_class, keyring.open(value))
            return found

        return await asyncio.to_thread(of_all_epochs)

    return words


def make_hunt_use_cases(
    config: Config,
    parts: Parts,
    hunts: HuntParts,
    *,
    curation: GraphCuration,
    finder: VertexFinder,
    names: VertexNames,
    classes: frozenset[str],
) -> HuntUseCases:
    """What is behind the calls."""
    limits = GraphWatchLimits(heartbeat_s=config.limits.heartbeat_s)
    key = parts.key.derive("graph watch tokens")
    hunts.watching = GraphWatching(WatchPorts(hunts.events, curation, names, classes, parts.clock, key), limits)
    bounds = None if hunts.bounds is None else (hunts.bounds.entity_count_max, hunts.bounds.match_count_max)
    hunting = GraphHunting(hunts.store, curation, finder, parts.clock, limits=bounds, wake=hunts.ring)
    return HuntUseCases(hunting, hunts.watching)
