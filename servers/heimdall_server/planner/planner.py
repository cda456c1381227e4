"""Which way a query goes: the cheapest path that gives the right answer, and why.

Knows the tree, the time range and what a store keeps; knows no engine. The store has the last word (a
rollup that isn't settled yet is no path), and its `Plan` tells what was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heimdall_server.domain.expression.needs import MINUTE_NS, Needs, covers_whole_minutes, query_needs
from heimdall_server.ports.log_store import Path, StoreQuery


@dataclass(frozen=True, slots=True)
class PathChoice:
    """The chosen path."""

    path: Path
    reason: str
    """A sentence for people, without values of the query."""


def choose_path(query: StoreQuery, rollups: Sequence[frozenset[str]], *, word_index: bool = True) -> PathChoice:
    """Choose a path.

    The order is by cost measured on a billion records: a rollup (milliseconds), a trace's bloom filter, the
    text index, the newest rows in order, the minute column (a third of reading `time`), a scan.

    Args:
        query: What is asked.
        rollups: The core columns of each per-minute rollup that the store keeps.
        word_index: The store has an index of words over all that is asked.

    Returns:
        The path and its reason.
    """
    needs = query_needs(query.query)
    refusal = _rollup_refusal(query, needs, rollups)
    if needs.aggregates and not refusal:
        return PathChoice(Path.ROLLUP, "counts by columns of a per-minute rollup; edges of part minutes from records")
    if needs.trace_id:
        return PathChoice(Path.TRACE_INDEX, "one trace: its bloom filter names the granules")
    if needs.words and word_index:
        return PathChoice(Path.TEXT_INDEX, "words: the text index names the granules")
    if not needs.aggregates:
        return PathChoice(Path.NEWEST_FIRST, "rows in time order: reading stops when there are enough")
    if covers_whole_minutes(query.time_range):
        return PathChoice(Path.MINUTE_COLUMN, f"{refusal}; whole minutes are told by the minute column")
    return PathChoice(Path.SCAN, f"{refusal}; records of the time range are read, up to the row limit")


def _rollup_refusal(query: StoreQuery, needs: Needs, rollups: Sequence[frozenset[str]]) -> str:
    """Why no rollup answers; empty if one does."""
    if not needs.aggregates:
        return "rows are wanted"
    if needs.dimensions is None:
        return "more than counts by core columns is wanted"
    if not any(needs.dimensions <= dimensions for dimensions in rollups):
        return "no rollup has the columns that are named"
    if needs.bucket_ns % MINUTE_NS:
        return "buckets are finer than the rollup's minute"
    if query.after_positions or query.after is not None:
        return "a part of the journal is wanted, and rollups have no positions"
    time_range = query.time_range
    bounded = time_range.start_ns_inclusive is not None or time_range.end_ns_exclusive is not None
    if bounded and not covers_whole_minutes(time_range):
        return "the time range holds no whole minute"
    return ""
