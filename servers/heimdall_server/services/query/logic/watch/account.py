"""Where a watch stands, what it says of what was found, and the tokens to go on from there.

Up to `Standing` everything was looked at. It moves only behind what was put into the outbox, in one step with it, so
that a token is right whenever it is asked for: what came before it was queued before it, what comes behind it wasn't.
`events` says both once, for all who put events: each time it is asked for the next event, the one before it is queued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from heimdall_server.domain.expression.tree import Query
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.log_store import RowKey
from heimdall_server.services.query.logic import metrics
from heimdall_server.services.query.logic.tokens import Place, TokenCodec
from heimdall_server.services.query.logic.watch.evaluator import (
    AggregateEvaluator,
    Evaluator,
    RowEvaluator,
    Upsert,
)
from heimdall_server.services.query.logic.watch.matched import Matched
from heimdall_server.services.query.logic.watch.rounds import Found
from heimdall_server.services.query.logic.watch.source import SHARD, Standing
from heimdall_server.services.query.model import TokenAfter
from heimdall_server.services.query.watch_model import AggregateRows, Create, Event, Progress, Rows

_EVENT_BYTES: Final = 2 * 1024 * 1024
"""Rows go to the outbox in pieces of about this."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A watch's question, understood."""

    query: Query
    """Narrowed to the datasets."""
    evaluator: Evaluator
    canonical_text: str
    bound_to: bytes
    """What tokens are bound to."""
    now_ns: int
    """What `now` meant."""
    revision: Sequence[int | str] = ()
    """Of the policy and the index keys by which tokens stand in it; see `PersonalSearch`."""
    revised: Callable[[Asked], Asked] | None = field(default=None, repr=False)
    """The same with the tokens of today, in the same evaluator; None: it names no personal value."""


class Account:
    """See the module. Belongs to one event loop."""

    def __init__(self, request: Create, asked: Asked, place: Place, *, tokens: TokenCodec, clock: Clock) -> None:
        self.request = request
        self.asked = asked
        self.standing = Standing(place.through.get(SHARD, 0), place.after)
        self.since_ns = place.since_ns
        """Records before the seam don't count if they are older."""
        self.seam = place.seam
        self.last_count = place.last_count
        """Where its last so many records begin isn't known yet; 0: it is, or wasn't asked for."""
        self.quiet_through = place.counted_through
        """Nothing is said of open buckets up to here."""
        self.due_s = time.monotonic() + request.interval_s
        """When values are to be told."""
        self._sent_rows = place.returned
        self._counted_from = self.standing.cursor
        self._horizon_ns = place.horizon_ns
        self._late_count = self._group_count = 0
        self._tokens = tokens
        self._clock = clock

    @property
    def is_over(self) -> bool:
        """The query's own limit is reached."""
        limit = self.asked.evaluator.limit
        return limit is not None and self._sent_rows >= limit

    def renew(self, asked: Asked) -> None:
        """Ask something else from here on."""
        self.close()
        self.asked = asked
        self._sent_rows = self.quiet_through = self._horizon_ns = 0
        self._counted_from = self.standing.cursor

    def follow_keys(self) -> bool:
        """Ask for the tokens of index keys that were made meanwhile, too; likewise with another policy. Not while the evaluator looks at records.

        Returns:
            Whether there are such.

        Raises:
            QuerySyntaxError: The question can't be asked of tokens any more: the policy was changed.
        """
        before = self.asked
        if before.revised is not None:
            self.asked = before.revised(before)
        return self.asked is not before

    def close(self) -> None:
        """Nothing more will be found by the evaluator."""
        metrics.WATCH_GROUPS.dec(self._group_count)
        self._late_count = self._group_count = 0

    def told(self) -> None:
        """Values were told; the next time is an interval later."""
        self.due_s = time.monotonic() + self.request.interval_s

    def token(self) -> bytes:
        """Resume from here."""
        return self._token_at(self.asked, self.standing, self._sent_rows)

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(self.request.watch_id, self.token(), {SHARD: self.standing.cursor})

    def _token_at(self, asked: Asked, standing: Standing, sent_rows: int) -> bytes:
        place = Place(
            {SHARD: standing.cursor},
            standing.after,
            returned=sent_rows,
            now_ns=asked.now_ns,
            since_ns=self.since_ns,
            seam=self.seam,
            last_count=self.last_count,
        )
        if asked.evaluator.aggregates:
            place = replace(
                place,
                through={SHARD: self._counted_from},
                after=None,
                horizon_ns=self._horizon_ns,
                counted_through=max(standing.cursor, self.quiet_through),
            )
        return self._tokens.seal(place, bound_to=asked.bound_to)

    def events(self, found: Found) -> Iterator[Event]:
        """What is to be said of what was found, one by one; behind the last one, the watch stands behind it all."""
        if isinstance(found.evaluator, AggregateEvaluator):
            yield from self._value_events(found.evaluator, found)
        else:
            yield from self._row_events(found.evaluator, found)
        self.standing = found.end

    def _row_events(self, evaluator: RowEvaluator, found: Found) -> Iterator[Event]:
        matched = found.matched
        if matched is None or not matched.count:
            return
        if evaluator.limit is not None:
            matched = matched.slice(0, evaluator.limit - self._sent_rows)
        size_bytes = matched.size_bytes
        step = max(1, matched.count * _EVENT_BYTES // max(size_bytes, 1))
        history = found.end.cursor <= self.seam
        for start in range(0, matched.count, step):
            is_whole = step >= matched.count
            part = matched if is_whole else matched.slice(start, step)
            end = found.end if start + step >= matched.count else _behind(part, part.count)
            tokens = self._tokens_of(part, end)
            size = size_bytes if is_whole else part.size_bytes
            is_json = self.request.json
            batch = part.shown if is_json or part.packed is None else part.packed
            yield Rows(self.request.watch_id, batch, tokens, history=history, json=is_json, size_bytes=size)
            self.standing = end
            self._sent_rows += part.count
        if found.time_ns:
            metrics.WATCH_SECONDS.observe(max(0, self._clock.now_ns() - found.time_ns) / 1e9)

    def _tokens_of(self, part: Matched, end: Standing) -> TokenAfter:
        """Tokens of rows that are being sent; they stay what they are when the question is changed meanwhile."""
        asked, sent = self.asked, self._sent_rows

        def token_after(count: int) -> bytes:
            return self._token_at(asked, end if count == part.count else _behind(part, count), sent + count)

        return token_after

    def _value_events(self, evaluator: AggregateEvaluator, found: Found) -> Iterator[Event]:
        yield from self.upserts(found.closed, revision=found.end.cursor)
        metrics.WATCH_LATE.inc(evaluator.late_count - self._late_count)
        metrics.WATCH_GROUPS.inc(evaluator.group_count - self._group_count)
        self._late_count, self._group_count = evaluator.late_count, evaluator.group_count
        self._horizon_ns = evaluator.horizon_ns
        if evaluator.by_bucket:
            self._counted_from = evaluator.resume_position(found.end.cursor)
        self.standing = found.end
        if found.told:
            self.told()
            yield from self.upserts(found.told, revision=found.end.cursor)

    def upserts(self, upserts: Sequence[Upsert], *, revision: int) -> Iterator[Event]:
        """Upserts as events, with the token of where the watch stands now."""
        if not upserts:
            return
        token, watch_id, is_json = self.token(), self.request.watch_id, self.request.json
        for upsert in upserts:
            yield AggregateRows(watch_id, upsert.batch, upsert.bucket_ns, revision, token, json=is_json)


def _behind(part: Matched, count: int) -> Standing:
    """Behind the first so many rows."""
    position, row = (int(each[count - 1]) for each in part.keys)
    return Standing(position - 1, RowKey(0, SHARD, position, row))
