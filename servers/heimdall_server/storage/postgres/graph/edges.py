"""Edges of a batch into their label tables, once the graph ids of their ends are known."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from heimdall_server.domain.graph import EDGE_KINDS, EdgeKind
from heimdall_server.domain.graph_batches import TYPED, CheckedBatch, numbers
from heimdall_server.storage.postgres.binary_copy import Column
from heimdall_server.storage.postgres.graph.facts import Facts, Longs, Mask, Pairs, Weights, changed, incoming, merged
from heimdall_server.storage.postgres.graph.labels import Labels, table
from heimdall_server.storage.postgres.graph.properties import edge_properties
from heimdall_server.storage.postgres.graph.staging import (
    FACT_COLUMNS,
    Connection,
    MakeColumns,
    ask_facts,
    copy_in,
    fact_columns,
)
from heimdall_server.storage.postgres.graph.vertices import Kept, row_sums

_UPDATED: Final = ", ".join(f"{name} = c.{name}" for name in (*FACT_COLUMNS.split(", "), "rank"))


@dataclass(slots=True)
class EdgeGroup:
    """The edges of one kind of a batch."""

    kind: EdgeKind
    start: Longs
    """Graph ids."""
    end: Longs
    relation: Longs
    """Numbers of terms."""
    may_be_there: Mask
    """False where an end is new: then the edge is, too, and needn't be looked up."""
    pairs: Pairs
    facts: Facts


def group_edges(
    checked: CheckedBatch,
    kind: EdgeKind,
    provenances: Longs,
    weights: Weights,
    *,
    count: bool,
    vertex_ids: Longs,
    vertex_is_new: Mask,
    relations: Longs,
) -> EdgeGroup | None:
    """Take the good edges of a kind together by ends and relation.

    Args:
        checked: The batch.
        kind: Which.
        provenances: Numbers of the batch's provenances in the store.
        weights: Of provenances.
        count: False: counts are left out.
        vertex_ids: Graph id of the vertex of each row of vertices.
        vertex_is_new: Whether it is.
        relations: Number of each edge row's relation.

    Returns:
        None if there are none.
    """
    edges = checked.batch.edges
    rows = np.flatnonzero(checked.edge_ok & (numbers(edges, "kind") == EDGE_KINDS.index(kind)))
    if not len(rows):
        return None
    # Ends are named by rows of vertices (18 bits), relations by numbers among the batch's (the rest).
    starts, ends = checked.start_rows[rows], checked.end_rows[rows]
    _, relation_places = np.unique(relations[rows], return_inverse=True)
    keys = (starts << 40) | (ends << 20) | relation_places
    _, first, facts_of_rows = np.unique(keys, return_index=True, return_inverse=True)
    pairs = Pairs.of(
        facts_of_rows,
        provenances[numbers(edges, "provenance")[rows].astype(np.int64)],
        row_sums(edges, rows, count=count),
    )
    return EdgeGroup(
        kind,
        vertex_ids[starts[first]],
        vertex_ids[ends[first]],
        relations[rows][first],
        ~(vertex_is_new[starts[first]] | vertex_is_new[ends[first]]),
        pairs,
        incoming(pairs, len(first), weights),
    )


async def find_edges(connection: Connection, group: EdgeGroup, labels: Labels) -> Kept:
    """Ask which are there.

    Args:
        connection: Within the batch's transaction.
        group: The edges; gets their graph ids, those of new ones included.
        labels: Of the database.
    """
    number = EDGE_KINDS.index(group.kind)
    asked = np.flatnonzero(group.may_be_there)
    columns: list[Column] = [
        np.full(len(asked), number, np.int16),
        asked.astype(np.int32),
        group.start[asked],
        group.end[asked],
        group.relation[asked].astype(np.int32),
    ]
    await copy_in(connection, "graph_edge_key (kind, ordinal, start_id, end_id, relation)", columns)
    source = (
        f"FROM graph_edge_key k JOIN {table(group.kind)} t "
        f"ON t.start_id = k.start_id AND t.end_id = k.end_id AND t.relation = k.relation WHERE k.kind = {number}"
    )
    found, held, _ = await ask_facts(connection, source, further=())
    kept = await asyncio.to_thread(_compared, group, found, held)
    if len(kept.new):
        group.facts.id[kept.new] = await labels.allocate(connection, group.kind, len(kept.new))
    return kept


def _compared(group: EdgeGroup, found: Longs, held: Facts) -> Kept:
    is_new = np.ones(len(group.start), bool)
    is_new[found] = False
    new = np.flatnonzero(is_new)
    # In the order of the index by ends, so that each of its pages is visited once.
    first, second = (group.end, group.start) if group.kind is EdgeKind.HAS_VALUE else (group.start, group.end)
    new = new[np.lexsort((second[new], first[new]))]
    group.facts.id[found] = held.id
    together, several = merged(held, group.facts.take(found))
    differs = np.flatnonzero(changed(held, together))
    return Kept(new, held, found, together, differs, np.flatnonzero(several), np.empty(0, np.int64))


def new_edges(group: EdgeGroup, kept: Kept, terms: Mapping[int, str]) -> tuple[str, MakeColumns]:
    """What is to be inserted, for `copy_all`.

    Args:
        group: The edges, with their graph ids.
        kept: Which of them are new; at least one.
        terms: Names of relations by their numbers.
    """
    names = f"id, start_id, end_id, relation, rank, {FACT_COLUMNS}"
    if group.kind in TYPED:
        names += ", properties"
    return f"{table(group.kind)} ({names})", lambda: _new_columns(group, kept.new, terms)


async def change_edges(connection: Connection, group: EdgeGroup, kept: Kept) -> None:
    """Change those that aren't the same any more."""
    if len(kept.differs):
        await _update(connection, group, kept.were_there[kept.differs], kept.together.take(kept.differs))


def _new_columns(group: EdgeGroup, new: Longs, terms: Mapping[int, str]) -> list[Column]:
    facts = group.facts.take(new)
    columns: list[Column] = [
        facts.id,
        group.start[new],
        group.end[new],
        group.relation[new].astype(np.int32),
        facts.rank.astype(np.int32),
        *fact_columns(facts),
    ]
    if group.kind in TYPED:  # of others they are `{}`, as the table says by itself
        columns.append(edge_properties(group.relation[new], terms))
    return columns


async def _update(connection: Connection, group: EdgeGroup, rows: Longs, facts: Facts) -> None:
    number = EDGE_KINDS.index(group.kind)
    columns: list[Column] = [
        np.full(len(rows), number, np.int16),
        group.start[rows],
        group.end[rows],
        group.relation[rows].astype(np.int32),
        *fact_columns(facts),
        facts.rank.astype(np.int32),
    ]
    names = f"kind, start_id, end_id, relation, {FACT_COLUMNS}, rank"
    await copy_in(connection, f"graph_edge_change ({names})", columns)
    await connection.execute(
        f"UPDATE {table(group.kind)} t SET {_UPDATED} FROM graph_edge_change c WHERE c.kind = {number} "
        "AND t.start_id = c.start_id AND t.end_id = c.end_id AND t.relation = c.relation".encode(),
        prepare=False,
    )
