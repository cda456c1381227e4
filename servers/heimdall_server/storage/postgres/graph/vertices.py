"""Vertices of a batch into their label tables: which are there, what is new, what has changed."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.graph import HOURS, VERTEX_KINDS, VertexKind
from heimdall_server.domain.graph_batches import ROWS_MAX, CheckedBatch, numbers
from heimdall_server.domain.graph_ids import octets
from heimdall_server.storage.postgres.binary_copy import Column, Octets
from heimdall_server.storage.postgres.graph.facts import (
    Facts,
    Longs,
    Mask,
    Pairs,
    Sums,
    Weights,
    changed,
    incoming,
    merged,
)
from heimdall_server.storage.postgres.graph.labels import Labels, table
from heimdall_server.storage.postgres.graph.properties import token_marks, vertex_properties
from heimdall_server.storage.postgres.graph.staging import (
    FACT_COLUMNS,
    Connection,
    MakeColumns,
    ask_facts,
    copy_in,
    fact_columns,
    hours_column,
)

_UPDATED: Final = ", ".join(f"{name} = c.{name}" for name in FACT_COLUMNS.split(", "))


@dataclass(slots=True)
class VertexGroup:
    """The vertices of one kind of a batch."""

    kind: VertexKind
    rows: Longs
    """Of the batch, those of the kind."""
    facts_of_rows: Longs
    """For each of `rows` the index of its vertex here."""
    ids: Octets
    first_rows: Longs
    """For each vertex the row of the batch that tells its type and value."""
    marks: Longs
    pairs: Pairs
    facts: Facts
    """As the batch tells them; with graph ids once they are kept."""


@dataclass(slots=True)
class Kept:
    """What was done with facts of one kind."""

    new: Longs
    """Facts that weren't there, in the order in which they are inserted."""
    held: Facts
    """As they were: of those that were there, see `were_there`."""
    were_there: Longs
    together: Facts
    """As they are to be."""
    differs: Longs
    """Of them those that change."""
    several: Longs
    """Of them those whose provenances have rows of their own now."""
    newer: Longs
    """Of them those that get another text."""

    @property
    def is_new(self) -> Mask:
        """Of all facts, whether they weren't there."""
        mask = np.zeros(len(self.new) + len(self.were_there), bool)
        mask[self.new] = True
        return mask


def group_vertices(
    checked: CheckedBatch, kind: VertexKind, provenances: Longs, weights: Weights, *, count: bool
) -> VertexGroup | None:
    """Take the good vertices of a kind together by id.

    Args:
        checked: The batch.
        kind: Which.
        provenances: Numbers of the batch's provenances in the store.
        weights: Of provenances.
        count: False: counts are left out, since they were counted before.

    Returns:
        None if there are none.
    """
    vertices = checked.batch.vertices
    rows = np.flatnonzero(checked.vertex_ok & (numbers(vertices, "kind") == VERTEX_KINDS.index(kind)))
    if not len(rows):
        return None
    encoded = vertices.column("id").take(pa.array(rows)).dictionary_encode()
    facts_of_rows = encoded.indices.to_numpy().astype(np.int64)
    fact_count = len(encoded.dictionary)
    marks = token_marks(vertices.column("value").take(pa.array(rows)))
    # Of a vertex's rows the first of those with the newest token tells its value.
    best = np.zeros(fact_count, np.int64)
    np.maximum.at(best, facts_of_rows, (marks << 32) + ROWS_MAX - np.arange(len(rows)))
    sums = row_sums(vertices, rows, count=count, with_hours=kind is VertexKind.SIGHTING)
    pairs = Pairs.of(facts_of_rows, provenances[numbers(vertices, "provenance")[rows].astype(np.int64)], sums)
    return VertexGroup(
        kind,
        rows,
        facts_of_rows,
        octets(encoded.dictionary),
        rows[ROWS_MAX - (best & 0xFFFFFFFF)],
        best >> 32,
        pairs,
        incoming(pairs, fact_count, weights),
    )


def row_sums(batch: pa.RecordBatch, rows: Longs, *, count: bool, with_hours: bool = False) -> Sums:
    """The sums that rows of a batch tell."""
    first_ns, last_ns, counts, first_place, last_place = (
        numbers(batch, name)[rows] for name in ("first_ns", "last_ns", "count", "first_place", "last_place")
    )
    hours = None
    if with_hours:
        column = batch.column("hours").take(pa.array(rows))
        hours = np.zeros((len(rows), HOURS), np.int32)
        if count:
            told = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool)
            hours[told] = column.flatten().to_numpy().reshape(-1, HOURS)
    return Sums(first_ns, last_ns, counts if count else np.zeros_like(counts), first_place, last_place, hours)


def key_columns(group: VertexGroup) -> list[Column]:
    """What a vertex is looked up by, for `graph_vertex_key`."""
    count = len(group.ids)
    return [np.full(count, VERTEX_KINDS.index(group.kind), np.int16), np.arange(count, dtype=np.int32), group.ids]


async def find_vertices(connection: Connection, group: VertexGroup, labels: Labels) -> Kept:
    """Ask which are there; keys wait in `graph_vertex_key`.

    Args:
        connection: Within the batch's transaction.
        group: The vertices; gets their graph ids, those of new ones included.
        labels: Of the database.
    """
    kind, is_sighting = group.kind, group.kind is VertexKind.SIGHTING
    source = f"FROM graph_vertex_key k JOIN {table(kind)} t ON t.uid = k.uid WHERE k.kind = {VERTEX_KINDS.index(kind)}"
    found, held, (marks,) = await ask_facts(connection, source, further=(("t.mark", 2),), with_hours=is_sighting)
    kept = await asyncio.to_thread(_compared, group, found, held, marks)
    if len(kept.new):
        group.facts.id[kept.new] = await labels.allocate(connection, kind, len(kept.new))
    return kept


def _compared(group: VertexGroup, found: Longs, held: Facts, marks: Longs) -> Kept:
    is_new = np.ones(len(group.ids), bool)
    is_new[found] = False
    new = np.flatnonzero(is_new)
    # In the order of the index by id, so that each of its pages is visited once.
    new = new[np.argsort(np.ascontiguousarray(group.ids[new, :8]).view(">u8").reshape(-1))]
    group.facts.id[found] = held.id
    together, several = merged(held, group.facts.take(found))
    return Kept(
        new,
        held,
        found,
        together,
        np.flatnonzero(changed(held, together)),
        np.flatnonzero(several),
        np.flatnonzero(group.marks[found] > marks),
    )


def new_vertices(group: VertexGroup, kept: Kept, checked: CheckedBatch, types: Longs) -> tuple[str, MakeColumns]:
    """What is to be inserted, for `copy_all`.

    Args:
        group: The vertices, with their graph ids.
        kept: Which of them are new; at least one.
        checked: The batch.
        types: Number of each row's type.
    """
    names = f"id, properties, uid, type, day, mark, {FACT_COLUMNS}"
    if group.facts.sums.hours is not None:
        names += ", hours"
    return f"{table(group.kind)} ({names})", lambda: _new_columns(group, kept.new, checked, types)


async def change_vertices(connection: Connection, group: VertexGroup, kept: Kept, checked: CheckedBatch) -> None:
    """Change those that aren't the same any more."""
    if len(kept.differs):
        await _update(connection, group.kind, kept.together.take(kept.differs))
    if len(kept.newer):
        await _retell(connection, group, checked, kept.were_there[kept.newer])


def _new_columns(group: VertexGroup, new: Longs, checked: CheckedBatch, types: Longs) -> list[Column]:
    vertices, rows = checked.batch.vertices, group.first_rows[new]
    taken = pa.array(rows)
    texts = vertex_properties(group.kind, *(vertices.column(name).take(taken) for name in ("type", "value", "day")))
    facts = group.facts.take(new)
    columns: list[Column] = [
        facts.id,
        texts,
        group.ids[new],
        types[rows].astype(np.int32),
        numbers(vertices, "day")[rows],
        group.marks[new].astype(np.int16),
        *fact_columns(facts),
    ]
    if facts.sums.hours is not None:
        columns.append(hours_column(facts.sums.hours))
    return columns


async def _update(connection: Connection, kind: VertexKind, facts: Facts) -> None:
    number = VERTEX_KINDS.index(kind)
    columns: list[Column] = [np.full(len(facts.id), number, np.int16), facts.id, *fact_columns(facts)]
    names, updated = f"kind, id, {FACT_COLUMNS}", _UPDATED
    if facts.sums.hours is not None:
        columns.append(hours_column(facts.sums.hours))
        names, updated = f"{names}, hours", f"{updated}, hours = c.hours"
    await copy_in(connection, f"graph_vertex_change ({names})", columns)
    await connection.execute(
        f"UPDATE {table(kind)} t SET {updated} FROM graph_vertex_change c WHERE c.kind = {number} AND t.id = c.id".encode(),
        prepare=False,
    )


async def _retell(connection: Connection, group: VertexGroup, checked: CheckedBatch, facts: Longs) -> None:
    """Give vertices the value that their newest token is."""
    vertices, number = checked.batch.vertices, VERTEX_KINDS.index(group.kind)
    taken = pa.array(group.first_rows[facts])
    texts = vertex_properties(group.kind, *(vertices.column(name).take(taken) for name in ("type", "value", "day")))
    columns: list[Column] = [
        np.full(len(facts), number, np.int16),
        group.facts.id[facts],
        group.marks[facts].astype(np.int16),
        texts,
    ]
    await copy_in(connection, "graph_vertex_text (kind, id, mark, properties)", columns)
    await connection.execute(
        f"UPDATE {table(group.kind)} t SET properties = c.properties, mark = c.mark FROM graph_vertex_text c "
        f"WHERE c.kind = {number} AND t.id = c.id".encode(),
        prepare=False,
    )
