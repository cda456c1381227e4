"""What the graph told for a query, for the wire: counts, and nothing of what is in a set."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from heimdall.query.v1 import entity_sets_pb2 as pb
from heimdall.types.v1 import position_pb2
from heimdall_server.domain.entity_sets import INDEXED_WORDS_MAX, EntitySet
from heimdall_server.services.query.set_model import FoundSets

_SHARD = 0


def entity_sets_out(found: FoundSets, *, journal_id: str) -> list[pb.EntitySetUse]:
    """One for each term, in the order of their names."""
    lag = Duration()
    lag.FromNanoseconds(int(found.position.lag_s * 1e9))
    through = position_pb2.Position(journal_id=journal_id, shards={_SHARD: found.position.applied})
    return [
        pb.EntitySetUse(
            field=term.name,
            value=term.value,
            entity_count=entities.entity_count,
            value_count=entities.value_count,
            word_count=len(entities.words),
            unsearched_count=entities.unsearched_count,
            pushed_down=pushed_down(entities),
            graph_through=through,
            graph_lag_duration=lag,
        )
        for term, entities in sorted(found.sets.items(), key=lambda item: str(item[0]))
    ]


def pushed_down(entities: EntitySet) -> str:
    """How a store is asked for a set, as a sentence."""
    ways = []
    if words := len(entities.words):
        by_index = words <= INDEXED_WORDS_MAX
        way = (
            "looked up in the indexes of words"
            if by_index
            else "as a sorted set that the words of every text are looked up in"
        )
        ways.append(f"{words} words of tokens {way}")
    if plain := entities.value_count - len(entities.words):
        ways.append(f"{plain} values as a sorted set that what is found in bodies and attributes is looked up in")
    return "; ".join(ways) if ways else "nothing to look for: no record is read"
