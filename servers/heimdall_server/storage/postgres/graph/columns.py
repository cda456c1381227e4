"""Vertices and edges as a walk holds them: columns. An answer of PostgreSQL's is one row of arrays in binary, which NumPy reads as they are.

Values for the reader are made of the few rows that are told, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Self

import numpy as np

from heimdall_server.domain.graph import EDGE_KINDS, VERTEX_KINDS, Tlp, VertexKind
from heimdall_server.domain.graph_reading import Edge, EdgeKey, Seen, Vertex
from heimdall_server.storage.postgres.binary_copy import Octets, array_integers, array_octets
from heimdall_server.storage.postgres.graph.facts import Longs, Mask
from heimdall_server.storage.postgres.graph.labels import ENTRY_BITS

_TLPS: Final = tuple(Tlp)
_ENTITY: Final = VERTEX_KINDS.index(VertexKind.ENTITY)
_SIDE: Final = 1 << 24
_CLOSED: Final = 1 << 25
VERTEX: Final = "id, uid, type, day, length, first_ns, last_ns, count, mark"
"""What is asked of vertices, besides their values in one; `mark` as `marked` has it."""
_VERTEX_WIDTHS: Final = (8, 4, 4, 4, 8, 8, 8, 4)
"""Of all but their ids."""
EDGE: Final = "origin, far, id, relation, first_ns, last_ns, count, mark"
"""What is asked of edges: from which vertex each was found, and which it leads to."""
_EDGE_WIDTHS: Final = (8, 8, 8, 4, 8, 8, 8, 4)


def marked(of: str = "t", *, side: int = 0, open_if: str = "") -> str:
    """Confidence and markings of a row in one number: PostgreSQL takes longer for an element of an array than for the arithmetic.

    Args:
        of: The row.
        side: 1: the edge was found from its end.
        open_if: A condition on the vertex that the edge leads to; where it doesn't hold, the edge isn't followed. Empty: all are.
    """
    terms = [f"{of}.confidence * 65536 + {of}.tlp_min * 256 + {of}.tlp_max"]
    if side:
        terms.append(str(_SIDE))
    if open_if:
        terms.append(f"CASE WHEN {open_if} THEN 0 ELSE {_CLOSED} END")
    return " + ".join(terms)


@dataclass(slots=True)
class Columns:
    """When, how often, how surely, of rows of label tables; all of one length."""

    id: Longs
    """Of the row."""
    first_ns: Longs
    last_ns: Longs
    count: Longs
    confidence: Longs
    tlp: Longs
    """The least strict."""
    tlp_max: Longs

    def __len__(self) -> int:
        return len(self.id)

    def take(self, rows: Longs | Mask) -> Self:
        """Those of some rows."""
        return type(self)(*(getattr(self, name)[rows] for name in _NAMES[type(self)]))

    def seen(self) -> list[Seen]:
        """For the reader."""
        return [
            Seen(first_ns, last_ns, count, confidence, _TLPS[tlp])
            for first_ns, last_ns, count, confidence, tlp in zip(
                self.first_ns.tolist(),
                self.last_ns.tolist(),
                self.count.tolist(),
                self.confidence.tolist(),
                self.tlp.tolist(),
                strict=True,
            )
        ]


@dataclass(slots=True)
class VertexColumns(Columns):
    """Vertices."""

    kind: Longs
    """In `VERTEX_KINDS`."""
    uid: Octets
    """Their ids, shape (vertex, 16)."""
    type: Longs
    """Number of a term; 0: none."""
    day: Longs
    begin: Longs
    """Where the value begins in `values`, in octets."""
    length: Longs
    values: Octets
    """UTF-8 of all values, one after the other; shared by those that were taken out."""

    @classmethod
    def none(cls) -> VertexColumns:
        """Of no vertex."""
        return cls.of([None] * (len(_VERTEX_WIDTHS) + 2), np.empty(0, np.int64))

    @classmethod
    def of(cls, answer: Sequence[bytes | None], kinds: Longs) -> VertexColumns:
        """Read an answer: `VERTEX`, then the values in one.

        Args:
            answer: The octets of its arrays.
            kinds: In `VERTEX_KINDS`, by the label's number.
        """
        row, type_, day, length, first_ns, last_ns, count, mark = _integers([answer[0], *answer[2:9]], _VERTEX_WIDTHS)
        return cls(
            row,
            first_ns,
            last_ns,
            count,
            *_unmarked(mark),
            kinds[row >> ENTRY_BITS],
            np.ascontiguousarray(array_octets(answer[1], 16)),
            type_,
            day,
            np.cumsum(length) - length,
            length,
            np.frombuffer(answer[9] or b"", np.uint8),
        )

    def take(self, rows: Longs | Mask) -> VertexColumns:
        """Those of some rows."""
        taken = {name: getattr(self, name)[rows] for name in _NAMES[VertexColumns] if name != "values"}
        return VertexColumns(**taken, values=self.values)

    def joined(self, other: VertexColumns) -> VertexColumns:
        """Both, one after the other."""
        if not len(other) or not len(self):
            return other if len(other) else self
        joined = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in _NAMES[VertexColumns]}
        joined["begin"][len(self) :] += len(self.values)
        return VertexColumns(**joined)

    def gather(self, roots: Longs) -> None:
        """Let those that stand for others say what all of these say, in place.

        Args:
            roots: For each the row of the one that stands for it.
        """
        order = np.argsort(roots, kind="stable")
        groups, begins = np.unique(roots[order], return_index=True)
        if len(groups) == len(roots):
            return
        stands = np.flatnonzero(self.id == roots)
        group = np.searchsorted(groups, self.id[stands])
        for column, sum_ in (
            (self.first_ns, np.minimum),
            (self.last_ns, np.maximum),
            (self.count, np.add),
            (self.confidence, np.maximum),
            (self.tlp, np.minimum),
        ):
            column[stands] = sum_.reduceat(column[order], begins)[group]

    def doubted(self, confidence_min: int) -> Mask:
        """Which are entities that are believed less than that."""
        mask: Mask = (self.kind == _ENTITY) & (self.confidence < confidence_min)
        return mask

    def ids(self) -> list[bytes]:
        """Their ids."""
        return octets_of(self.uid)

    def told(self, names: Mapping[int, str]) -> list[Vertex]:
        """For the reader.

        Args:
            names: Of types, by number.
        """
        data = self.values.tobytes() if len(self) else b""
        return [
            Vertex(id_, VERTEX_KINDS[kind], names[type_], data[begin : begin + length].decode(), seen, day)
            for id_, kind, type_, begin, length, seen, day in zip(
                self.ids(),
                self.kind.tolist(),
                self.type.tolist(),
                self.begin.tolist(),
                self.length.tolist(),
                self.seen(),
                self.day.tolist(),
                strict=True,
            )
        ]


@dataclass(slots=True)
class EdgeColumns(Columns):
    """Edges."""

    kind: Longs
    """In `EDGE_KINDS`."""
    start: Longs
    """Row of the vertex."""
    end: Longs
    relation: Longs
    """Number of a term; 0: none."""

    @classmethod
    def of(cls, answer: Sequence[bytes | None], kinds: Longs, *, degree_max: int) -> tuple[EdgeColumns, Longs]:
        """Read an answer: `EDGE`, where edges of one origin, kind and side stand together, the most relevant first.

        Args:
            answer: With up to one edge more of an origin, kind and side than may be.
            kinds: In `EDGE_KINDS`, by the label's number.
            degree_max: How many may be.

        Returns:
            Those that may be, the same one perhaps twice, and the rows of the vertices that have more.
        """
        origin, far, row, relation, first_ns, last_ns, count, mark = _integers(answer, _EDGE_WIDTHS)
        is_in = mark & _SIDE != 0
        start, end = np.where(is_in, far, origin), np.where(is_in, origin, far)
        kind = kinds[row >> ENTRY_BITS]
        edges = cls(row, first_ns, last_ns, count, *_unmarked(mark), kind, start, end, relation)
        if not len(row):
            return edges, origin
        is_open = mark & _CLOSED == 0
        is_first = np.ones(len(row), bool)
        is_first[1:] = (origin[1:] != origin[:-1]) | (kind[1:] != kind[:-1]) | (is_in[1:] != is_in[:-1])
        begins = np.flatnonzero(is_first)
        place = np.arange(len(row)) - np.repeat(begins, np.diff(np.append(begins, len(row))))
        return edges.take(is_open & (place < degree_max)), np.unique(origin[place >= degree_max])

    def told(self, starts: Sequence[bytes], ends: Sequence[bytes], names: Mapping[int, str]) -> list[Edge]:
        """For the reader.

        Args:
            starts: Ids of the vertices that they begin at.
            ends: Of those that they end at.
            names: Of relations, by number.
        """
        return [
            Edge(EdgeKey(EDGE_KINDS[kind], start, end, names[relation]), seen)
            for kind, start, end, relation, seen in zip(
                self.kind.tolist(), starts, ends, self.relation.tolist(), self.seen(), strict=True
            )
        ]


_NAMES: Final[Mapping[type[Columns], tuple[str, ...]]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in (VertexColumns, EdgeColumns)
}


def _integers(answer: Sequence[bytes | None], widths: Sequence[int]) -> list[Longs]:
    return [array_integers(one, width) for one, width in zip(answer, widths, strict=True)]


def _unmarked(mark: Longs) -> tuple[Longs, Longs, Longs]:
    """Confidence, the least and the greatest marking."""
    return mark >> 16 & 255, mark >> 8 & 255, mark & 255


def octets_of(ids: Octets) -> list[bytes]:
    """Rows of 16 octets."""
    found: list[Any] = np.ascontiguousarray(ids).view("V16").reshape(-1).tolist()
    return found


class Met:
    """The vertices that a walk has met: for each row its id and the row of the vertex that stands for it. Looked up by the thousand."""

    def __init__(self) -> None:
        self.rows = np.empty(0, np.int64)
        """Rising."""
        self.roots = np.empty(0, np.int64)
        self.uids = np.empty((0, 16), np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, rows: Longs) -> tuple[Longs, Mask]:
        """Where rows stand here, and whether they do."""
        places = np.minimum(np.searchsorted(self.rows, rows), max(0, len(self.rows) - 1))
        return places, self.rows[places] == rows if len(self.rows) else np.zeros(len(rows), bool)

    def roots_of(self, rows: Longs) -> Longs:
        """Who stands for each row; -1: it wasn't met."""
        places, is_known = self.find(rows)
        return np.where(is_known, self.roots[places], -1) if len(self.rows) else np.full(len(rows), -1)

    def add(self, rows: Longs, roots: Longs, uids: Octets) -> None:
        """Meet some that weren't met."""
        every = np.concatenate([self.rows, rows])
        order = np.argsort(every)
        self.rows, self.roots = every[order], np.concatenate([self.roots, roots])[order]
        self.uids = np.concatenate([self.uids, uids])[order]

    def leave(self, roots: Longs) -> None:
        """Forget some, and all that they stand for."""
        kept = ~np.isin(self.roots, roots)
        self.rows, self.roots, self.uids = self.rows[kept], self.roots[kept], self.uids[kept]
