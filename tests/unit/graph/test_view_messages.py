"""Answers of views are messages that any client takes: none is as large as a MiB, whatever values hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.graph import Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label
from heimdall_server.domain.graph_reading import Seen, Vertex
from heimdall_server.domain.graph_views import (
    DumpsOf,
    EntityFilter,
    EntityPage,
    ListedEntity,
    SightingsBy,
    SightingSum,
    SightingSums,
)
from heimdall_server.services.graph.logic.viewing import GraphViewing
from heimdall_server.services.graph.model import Ceiling
from heimdall_server.services.graph.model_views import Cut, CutReason, Pivoted, PivotEntity
from heimdall_server.services.graph.translate_views import page_out, pivot_out, sums_out

MESSAGE_BYTES_MAX = 1 << 20
SEEN = Seen(1, 2, 3, 50, Tlp.CLEAR)


def vertex(number: int, value: str) -> Vertex:
    return Vertex(number.to_bytes(16, "big"), VertexKind.ENTITY, "user_agent", value, SEEN)


def test_a_pivot_comes_in_pieces_and_its_summary_last() -> None:
    entities = [
        PivotEntity(vertex(number, "x" * 30_000), True, (), DumpsOf(()), 1, 1, 2, [("app", 1)], 1)
        for number in range(100)
    ]
    pieces = list(pivot_out(Pivoted(entities, 100, 100, [Cut(CutReason.TIME, 100)], 1.5)))
    assert len(pieces) > 1
    assert all(piece.ByteSize() < MESSAGE_BYTES_MAX for piece in pieces)
    assert sum(len(piece.entities) for piece in pieces) == 100
    assert [piece.HasField("summary") for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].summary.graph_lag_duration.ToMilliseconds() == 1500
    (empty,) = pivot_out(Pivoted([], 0, 0, [], 0.0))
    assert empty.HasField("summary")


def test_sums_that_do_not_fit_are_said_to_be_more() -> None:
    groups = [SightingSum("s" * 1_000 + str(number), 1, 1, 5, 6) for number in range(2_000)]
    response = sums_out(SightingSums(groups, SightingSum(0, 2_000, 2_000, 5, 6)), SightingsBy.SOURCE)
    assert response.ByteSize() < MESSAGE_BYTES_MAX
    assert 0 < len(response.groups) < 2_000
    assert response.truncated
    assert response.total.count == 2_000
    hourly = sums_out(SightingSums([SightingSum(49, 1, 1, 5, 6)], SightingSum(0, 1, 1, 5, 6)), SightingsBy.HOUR)
    assert hourly.groups[0].start_time.seconds == 49 * 3600
    assert not hourly.groups[0].HasField("first_time"), "of an hour only the count is known"


class Large:
    """Entities whose values are as long as values may be."""

    async def entities(self, filter_: EntityFilter, *, after: bytes = b"", count_max: int = 100) -> EntityPage:
        del filter_
        first = int.from_bytes(after, "big") + 1 if after else 0
        told = range(first, min(first + count_max, 40))
        listed = [ListedEntity(vertex(number, "\U0001f600" * 30_000), number.to_bytes(2, "big")) for number in told]
        return EntityPage(listed, listed[-1].mark if told.stop < 40 else b"")

    async def labels(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Sequence[Label]:
        del ids, tlp_max
        return ()


async def test_a_page_ends_before_its_message_is_too_large_and_the_next_one_goes_on_there() -> None:
    large = Large()
    viewing = GraphViewing(large, large, None, frozenset())  # type: ignore[arg-type]  # what a list asks of them
    filter_, token, found = EntityFilter(Tlp.CLEAR), "", []
    while True:
        page = await viewing.entities(filter_, Ceiling(Tlp.RED), page_size=30, token=token)
        assert page_out(page).ByteSize() < MESSAGE_BYTES_MAX
        found += [one.vertex.id for one in page.entities]
        if not page.next_token:
            break
        token = page.next_token
    assert found == [number.to_bytes(16, "big") for number in range(40)]
    for wrong in (Ceiling(Tlp.RED, Tlp.GREEN), Ceiling(Tlp.AMBER)):
        with pytest.raises(TokenError):
            await viewing.entities(filter_, wrong, page_size=30, token=token)
    for damaged in ("!", "AAAA", token[:5]):
        with pytest.raises(TokenError):
            await viewing.entities(filter_, Ceiling(Tlp.RED), page_size=30, token=damaged)
