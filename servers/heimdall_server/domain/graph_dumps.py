"""Dumps as they are described and compared: fields with their profiles, which fields share values, and which is which.

Two fields that are the same one share many of their values, whatever they are called. `matched_fields` measures each pair; `counterparts` then
chooses pairs so that no field is in two and all together have most in common (the assignment problem).

Source: H. W. Kuhn, "The Hungarian Method for the Assignment Problem", 1955, in the form with shortest augmenting paths (Jonker and Volgenant, 1987).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np

from heimdall_server.domain.graph_profiles import SKETCH_SIZE, Profile

FIELDS_MAX: Final = 500
"""Of a dump that are described or compared."""
_NAME_BONUS: Final = 0.01
"""For a name in common: of pairs that share about as much it decides."""
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


class MatchMethod(enum.Enum):
    """How values are compared."""

    BY_SIZE = "by_size"
    EXACT = "exact"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True)
class DumpField:
    """A field of a dump, as far as a reader sees it."""

    id: bytes
    name: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class DescribedDump:
    """A dump, or one of its fields alone."""

    row_count: int
    fields: Sequence[DumpField]
    """By name, `FIELDS_MAX` at most."""
    field_count: int


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """Two fields that share values."""

    a: DumpField
    b: DumpField
    distinct_a: int
    distinct_b: int
    shared: int
    similarity: float
    """Shared values among all that either has."""
    similarity_error: float = 0.0
    """One standard deviation; 0: it is exact."""
    is_counterpart: bool = False

    @property
    def containment_a(self) -> float:
        """Share of the first's values that the other has."""
        return min(1.0, self.shared / self.distinct_a) if self.distinct_a else 0.0

    @property
    def containment_b(self) -> float:
        """Share of the other's values that the first has."""
        return min(1.0, self.shared / self.distinct_b) if self.distinct_b else 0.0

    @property
    def score(self) -> float:
        """How likely they are the same field: a part of a dump is in it, so what is shared is held against both."""
        bonus = _NAME_BONUS if self.a.name.casefold() == self.b.name.casefold() else 0.0
        return math.sqrt(self.containment_a * self.containment_b) + bonus


def exact_matches(
    a: Sequence[DumpField],
    b: Sequence[DumpField],
    distinct: Mapping[bytes, int],
    shared: Mapping[tuple[bytes, bytes], int],
) -> list[FieldMatch]:
    """Pairs of fields whose values were compared one by one.

    Args:
        a: Fields of one dump.
        b: Of the other.
        distinct: How many values a field has, by its id.
        shared: How many values two fields share, by their ids; none for a pair that shares none.
    """
    by_id = {one.id: one for one in (*a, *b)}
    found = []
    for (id_a, id_b), count in shared.items():
        of_a, of_b = distinct[id_a], distinct[id_b]
        found.append(FieldMatch(by_id[id_a], by_id[id_b], of_a, of_b, count, count / (of_a + of_b - count)))
    return found


def estimated_matches(a: Sequence[DumpField], b: Sequence[DumpField]) -> list[FieldMatch]:
    """Pairs of fields that share values, by their sketches. About 60 µs a pair that shares any hash."""
    found = []
    for one, other in _candidates(a, b):
        first, second = one.profile.sketch, other.profile.sketch
        similarity = first.similarity(second)
        if similarity <= 0:
            continue
        exact = first.is_exact and second.is_exact
        error = 0.0 if exact else math.sqrt(similarity * (1 - similarity) / SKETCH_SIZE)
        shared = max(1, round(first.shared(second)))
        found.append(FieldMatch(one, other, first.distinct, second.distinct, shared, similarity, error))
    return found


def counterparts(matches: Sequence[FieldMatch]) -> list[FieldMatch]:
    """Mark those pairs that are most likely the same field.

    Returns:
        All of them, marked ones first, then by what they share.
    """
    rows = {id_: row for row, id_ in enumerate(dict.fromkeys(one.a.id for one in matches))}
    columns = {id_: column for column, id_ in enumerate(dict.fromkeys(one.b.id for one in matches))}
    scores = np.zeros((len(rows), len(columns)))
    for one in matches:
        scores[rows[one.a.id], columns[one.b.id]] = one.score
    chosen = set(best_pairs(scores))
    marked = [replace(one, is_counterpart=(rows[one.a.id], columns[one.b.id]) in chosen) for one in matches]
    return sorted(marked, key=lambda one: (not one.is_counterpart, -one.score, one.a.name, one.b.name))


def best_pairs(scores: Floats) -> list[tuple[int, int]]:
    """Pair rows with columns, each at most once, so that the scores of the pairs add up to most.

    Args:
        scores: Shape (row, column), none negative; 0: they may not be paired.

    Returns:
        The pairs, by row. Cost: O(n^3), 0.1 s for 200 by 200.
    """
    if scores.shape[0] > scores.shape[1]:
        return sorted((row, column) for column, row in best_pairs(scores.T))
    count, width = scores.shape
    cost = -scores
    # Potentials keep `cost - of_rows - of_columns` at or above 0, and at 0 where a row has its column.
    of_rows, of_columns = np.zeros(count), np.zeros(width)
    owner = np.full(width, -1)
    for row in range(count):
        _augment(cost, row, of_rows, of_columns, owner)
    return sorted(
        (int(owner[column]), column)
        for column in range(width)
        if owner[column] >= 0 and scores[owner[column], column] > 0
    )


def _augment(cost: Floats, row: int, of_rows: Floats, of_columns: Floats, owner: np.ndarray[Any, Any]) -> None:
    """Give a row a column, moving others on where that costs least: a shortest path by Dijkstra over the columns."""
    width = cost.shape[1]
    distance, before = np.full(width, np.inf), np.full(width, -1)
    done = np.zeros(width, bool)
    at, so_far, last = row, 0.0, -1
    while True:
        through = so_far + cost[at] - of_rows[at] - of_columns
        nearer = ~done & (through < distance)
        distance[nearer], before[nearer] = through[nearer], last
        last = int(np.argmin(np.where(done, np.inf, distance)))
        so_far = float(distance[last])
        done[last] = True
        if owner[last] < 0:
            break
        at = int(owner[last])
    of_rows[row] += so_far
    for column in np.flatnonzero(done):
        if owner[column] >= 0:
            of_rows[owner[column]] += so_far - distance[column]
        of_columns[column] -= so_far - distance[column]
    while last >= 0:
        previous = int(before[last])
        owner[last] = owner[previous] if previous >= 0 else row
        last = previous


def _candidates(a: Sequence[DumpField], b: Sequence[DumpField]) -> list[tuple[DumpField, DumpField]]:
    """Pairs whose sketches have a hash in common."""
    if not a or not b:
        return []
    hashes, fields = (
        np.concatenate(parts)
        for parts in zip(
            *(
                (one.profile.sketch.hashes, np.full(len(one.profile.sketch.hashes), at))
                for at, one in enumerate((*a, *b))
            ),
            strict=True,
        )
    )
    order = np.argsort(hashes, kind="stable")
    hashes, fields = hashes[order], fields[order]
    starts = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] + 1))
    pairs: set[tuple[int, int]] = set()
    for group in np.split(fields, starts[1:]):
        if len(group) > 1:
            of_a, of_b = group[group < len(a)], group[group >= len(a)]
            pairs.update((int(one), int(other) - len(a)) for one in of_a for other in of_b)
    return [(a[one], b[other]) for one, other in sorted(pairs)]
