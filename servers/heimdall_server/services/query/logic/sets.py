"""Sets of entities for queries: who may ask for them, how they are got from the graph, and how long they are kept.

A set is what the graph tells when it is asked. A search keeps to the sets that it began with: its resume tokens name their digest, and a page for
which they are neither held here any more nor told anew in the same words is refused, since it would contradict the one before. Watches are told
of changes (`watch/live_sets.py`). Sets are held for a moment so that panels and pages don't ask again, and are never logged: counts are.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.canonical.entity_sets import entity_set
from heimdall_server.domain.entity_sets import ENTITIES_MAX, EntitySet
from heimdall_server.domain.errors import PermissionDeniedError, QueryCostError, TokenError, UnimplementedError
from heimdall_server.domain.expression.tree import Query
from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_sets import GraphTerm, Members
from heimdall_server.planner.graph_terms import graph_terms
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph_sets import GraphSets
from heimdall_server.rpc.calls import current_call
from heimdall_server.services.query.set_model import NO_SETS, FoundSets, GraphPosition

PERMISSION: Final = "graph.read"
PERMISSION_RED: Final = "graph.read_red"
"""Without it a caller's ceiling is amber+strict, as in the graph's own services."""
FRESH_S: Final = 2.0
"""A set that was got no longer ago than this is used again."""
TERMS_MAX: Final = 16
"""Of one query."""
HELD_S: Final = 900.0
"""How long the sets of a search are held for its next page, counted from the last one."""
HELD_VALUES_MAX: Final = 2_000_000
"""Values of all sets that are held; of more, those that nobody asked for for longest are let go. 100 bytes each."""

FurtherWords = Callable[[Sequence[str]], Awaitable[Collection[str]]]
"""Tokens in brackets → the words that the same values have under other live epochs."""


@dataclass(slots=True)
class _Held:
    entities: EntitySet
    position: GraphPosition
    got_s: float
    used_s: float


class SetFinder:
    """See the module. For one event loop."""

    def __init__(
        self,
        graph: GraphSets,
        clock: Clock,
        *,
        position: Callable[[], GraphPosition],
        further_words: FurtherWords | None = None,
        entities_max: int = ENTITIES_MAX,
    ) -> None:
        """Take what it asks.

        Args:
            graph: Tells the entities.
            clock: For how long sets are used again.
            position: How far the graph is, now.
            further_words: See there; None: there is one epoch at most.
            entities_max: Of one set.
        """
        self._graph = graph
        self._clock = clock
        self._position = position
        self._further_words = further_words
        self._entities_max = entities_max
        self._newest: dict[tuple[GraphTerm, Tlp], bytes] = {}
        self._held: OrderedDict[tuple[GraphTerm, Tlp, bytes], _Held] = OrderedDict()
        self._asking: dict[tuple[GraphTerm, Tlp], asyncio.Task[_Held]] = {}

    async def find(self, terms: Sequence[GraphTerm], *, begun_with: int = 0) -> FoundSets:
        """The sets of a query, for the call that is being served.

        Args:
            terms: What it asks of the graph.
            begun_with: `FoundSets.digest` of its first page; 0: this is the first.

        Raises:
            PermissionDeniedError: No role of the caller grants `graph.read`.
            QueryCostError: There are more terms, or entities, than a query may carry.
            TokenError: What was told for the first page is gone, and the graph tells something else by now.
            StoreError, QueryTimeoutError: The graph can't be asked.
        """
        if not terms:
            return NO_SETS
        tlp_max = ceiling(terms)
        if len(terms) > TERMS_MAX:
            raise QueryCostError(f"the query asks {len(terms)} things of the graph; one may ask {TERMS_MAX}")
        now_s = self._clock.monotonic_s()
        self._let_go(now_s)
        if begun_with and (kept := self._kept(terms, tlp_max, begun_with, now_s)):
            return kept
        held = {term: await self.ask(term, tlp_max) for term in terms}
        count = sum(entities.entity_count for entities, _ in held.values())
        if count > self._entities_max:
            raise QueryCostError(
                f"what the query asks of the graph means {count} entities, and it can carry {self._entities_max}; ask in parts"
            )
        first = min(held.values(), key=lambda one: one[1].applied)
        found = FoundSets({term: one[0] for term, one in held.items()}, first[1])
        if begun_with and found.digest != begun_with:
            raise TokenError("what the graph tells has changed since the first page; begin anew")
        return found

    async def ask(self, term: GraphTerm, tlp_max: Tlp, *, fresh_s: float = FRESH_S) -> tuple[EntitySet, GraphPosition]:
        """A set, as the graph tells it now or did a moment ago.

        Args:
            term: Which.
            tlp_max: The ceiling that it is asked under. Whoever calls has seen to the permission.
            fresh_s: How long ago is a moment.

        Raises:
            QueryCostError, StoreError, QueryTimeoutError: As `find`.
        """
        key = (term, tlp_max)
        digest = self._newest.get(key)
        held = None if digest is None else self._held.get((*key, digest))
        now_s = self._clock.monotonic_s()
        if held is None or now_s - held.got_s > fresh_s:
            task = self._asking.get(key)
            if task is None:
                task = self._asking[key] = asyncio.create_task(self._got(key), name="query-set")
                task.add_done_callback(lambda done: self._asked(key, done))
            # Whoever gives up waiting doesn't take it from the others.
            held = await asyncio.shield(task)
        held.used_s = now_s
        return held.entities, held.position

    def _asked(self, key: tuple[GraphTerm, Tlp], task: asyncio.Task[_Held]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever still waits is told; perhaps nobody does

    async def close(self) -> None:
        """Stop asking. Idempotent."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)

    async def _got(self, key: tuple[GraphTerm, Tlp]) -> _Held:
        term, tlp_max = key
        position = self._position()
        members = await self._graph.members(term, tlp_max=tlp_max, count_max=self._entities_max)
        if members.truncated:
            raise QueryCostError(
                f"{term.name}:… means more than {self._entities_max} entities, which a query can't carry; "
                "narrow it by a label or a rarer source, or ask for the records of the dump itself (dump:NAME)"
            )
        further = await self._further(members)
        entities = await asyncio.to_thread(entity_set, members.values, further)
        now_s = self._clock.monotonic_s()
        held = self._held[(term, tlp_max, entities.digest)] = _Held(entities, position, now_s, now_s)
        self._held.move_to_end((term, tlp_max, entities.digest))
        self._newest[key] = entities.digest
        self._let_go(now_s)
        return held

    async def _further(self, members: Members) -> Collection[str]:
        if self._further_words is None:
            return ()
        tokens = [value for values in members.values.values() for value in values if value.startswith("[")]
        return await self._further_words(tokens) if tokens else ()

    def _kept(self, terms: Sequence[GraphTerm], tlp_max: Tlp, digest: int, now_s: float) -> FoundSets | None:
        """The sets of a first page, if they are still held. Of each term there are few, mostly one."""
        choices: dict[GraphTerm, list[_Held]] = {term: [] for term in terms}
        for (term, ceiling_, _), held in self._held.items():
            if term in choices and ceiling_ is tlp_max:
                choices[term].append(held)
        found = _matching(list(choices.items()), digest)
        for held in found.values():
            held.used_s = now_s
        if not found:
            return None
        position = min((held.position for held in found.values()), key=lambda one: one.applied)
        return FoundSets({term: held.entities for term, held in found.items()}, position)

    def _let_go(self, now_s: float) -> None:
        """Forget what nobody asked for for long, and the oldest of what is too much."""
        by_use = sorted(self._held.items(), key=lambda item: item[1].used_s)
        total = sum(held.entities.value_count for _, held in by_use)
        for key, held in by_use:
            if now_s - held.used_s <= HELD_S and total <= HELD_VALUES_MAX:
                break
            total -= held.entities.value_count
            del self._held[key]
            term, tlp_max, digest = key
            if self._newest.get((term, tlp_max)) == digest:
                del self._newest[term, tlp_max]


def _matching(choices: Sequence[tuple[GraphTerm, Sequence[_Held]]], digest: int) -> dict[GraphTerm, _Held]:
    """Of each term the set with which together they have the digest; empty: there is no such choice. At most 64 are tried."""
    partial: list[dict[GraphTerm, _Held]] = [{}]
    for term, some in choices:
        partial = [{**one, term: held} for one in partial for held in some][:64]
    for one in partial:
        if one and FoundSets({term: held.entities for term, held in one.items()}).digest == digest:
            return one
    return {}


def ceiling(terms: Sequence[GraphTerm]) -> Tlp:
    """What the caller may see of the graph.

    Raises:
        PermissionDeniedError: Nothing.
    """
    principal = current_call().principal
    if not principal.may(PERMISSION):
        names = ", ".join(sorted({term.name for term in terms}))
        raise PermissionDeniedError(principal.uri, PERMISSION, f"asking the graph in a query ({names})")
    return Tlp.RED if principal.may(PERMISSION_RED) else Tlp.AMBER_STRICT


async def sets_of(finder: SetFinder | None, query: Query, *, begun_with: int = 0) -> FoundSets:
    """The sets of a query; none if it asks nothing of the graph.

    Raises:
        UnimplementedError: It asks something, and this process runs no graph.
        PermissionDeniedError, QueryCostError, TokenError, StoreError, QueryTimeoutError: As `SetFinder.find`.
    """
    terms = graph_terms(query)
    if not terms:
        return NO_SETS
    if finder is None:
        names = ", ".join(sorted({term.name for term in terms}))
        missing = (
            f"no graph runs here that could be asked for {names}; add graph, and privacy, which it needs, to `services`"
        )
        raise UnimplementedError(names, missing)
    return await finder.find(terms, begun_with=begun_with)
