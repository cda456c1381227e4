"""Facts on their way into the graph: a batch, where it comes from, and which of its rows can't be kept.

A batch is known by its origin, the positions of a stream that it was made of, so one that comes again changes nothing. Its counts may be told
apart from that: records of a dump that is taken in a second time, at other positions, must not count twice. Whoever makes a batch
asks the store which of them were counted (`GraphWriter.missing`) and names in `counted` those that it counts now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.graph import (
    EDGE_KINDS,
    EDGE_SCHEMA,
    ENDS,
    ID_BYTES,
    NAME_LENGTH_MAX,
    VALUE_BYTES_MAX,
    VERTEX_KINDS,
    VERTEX_SCHEMA,
    EdgeKind,
    Provenance,
)
from heimdall_server.domain.graph_profiles import Hashes, Profile

ROWS_MAX: Final = 262_144
"""Vertices, and edges, of a batch."""
TYPED: Final = (EdgeKind.RELATED_TO, EdgeKind.ENRICHED_BY)
"""Edges that have a relation; others have none."""
_INTEGER_MAX: Final = 2**62
_Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Flags: TypeAlias = _Mask
Numbers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Positions of a stream, both inclusive."""

    stream: str
    """A journal's shard, or a dump's records by one provenance."""
    first: int
    last: int

    def __post_init__(self) -> None:
        if not self.stream or len(self.stream) > 512 or "\0" in self.stream:
            raise ValueError("stream: 1 to 512 characters without NUL")
        if not 0 <= self.first <= self.last < _INTEGER_MAX:
            raise ValueError("positions: first <= last, none negative")


@dataclass(frozen=True, slots=True)
class ProfilePart:
    """What a batch adds to the profile of a dump or a field."""

    id: bytes
    provenance: int
    """Of the batch's provenances: each has a profile of its own, and a reader is shown those that they may see, merged."""
    profile: Profile

    def __post_init__(self) -> None:
        if len(self.id) != ID_BYTES or self.provenance < 0:
            raise ValueError("profile: an id of 16 bytes, and a provenance of the batch")


@dataclass(frozen=True, slots=True)
class RecordMarks:
    """Records of a dump that a batch is made of: what they are known by when they come again. A number may stand for several."""

    provenance: Provenance
    """Theirs."""
    numbers: Numbers
    """Record numbers, from 1, ascending."""
    hashes: Hashes
    """Of what each says; never 0. Of one number ascending and distinct."""

    def __post_init__(self) -> None:
        if len(self.numbers) != len(self.hashes) or not bool((self.hashes != 0).all()):
            raise ValueError("records: as many hashes as numbers, none of them 0")
        steps = np.diff(self.numbers)
        rising = (steps > 0) | (steps == 0) & (self.hashes[1:] > self.hashes[:-1])
        if len(self.numbers) and (self.numbers[0] < 1 or not bool(rising.all())):
            raise ValueError("records: numbers from 1, ascending, and of one number distinct hashes, ascending")


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """Facts that are kept together or not at all."""

    origin: Origin
    provenances: Sequence[Provenance]
    vertices: pa.RecordBatch
    """`VERTEX_SCHEMA`."""
    edges: pa.RecordBatch
    """`EDGE_SCHEMA`; both ends are among `vertices`."""
    counted: Sequence[Origin] = ()
    """What its counts are of, where that isn't its origin. None of it may have been counted."""
    profiles: Sequence[ProfilePart] = ()
    """Added to those that are there, like counts."""
    records: Sequence[RecordMarks] = ()
    """Kept with it; see `GraphWriter.knows`."""

    def __post_init__(self) -> None:
        if not self.vertices.schema.equals(VERTEX_SCHEMA) or not self.edges.schema.equals(EDGE_SCHEMA):
            raise ValueError("a batch of the graph has the columns of VERTEX_SCHEMA and EDGE_SCHEMA")
        if max(self.vertices.num_rows, self.edges.num_rows) > ROWS_MAX:
            raise ValueError(f"a batch of the graph has at most {ROWS_MAX} vertices and edges; split it")
        if any(one.provenance >= len(self.provenances) for one in self.profiles):
            raise ValueError("a profile's provenance is one of the batch's")

    @property
    def has_counts(self) -> bool:
        """Whether any of its rows counts something."""
        has_hours = self.vertices.column("hours").null_count < self.vertices.num_rows
        has_sums = has_hours or numbers(self.vertices, "count").any() or numbers(self.edges, "count").any()
        return bool(has_sums or self.profiles)


@dataclass(frozen=True, slots=True)
class RefusedFact:
    """A row that can't be kept. Its value isn't repeated: it may be personal."""

    is_vertex: bool
    row: int
    """Of the batch's vertices, or edges."""
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch."""

    repeated: bool
    """Its origin had been applied: nothing was changed."""
    new_vertex_count: int = 0
    new_edge_count: int = 0
    changed_count: int = 0
    """Vertices and edges that were there and are seen earlier, later or more often now, or by somebody else, too."""
    refused: Sequence[RefusedFact] = ()
    retry_count: int = 0
    """Times it was tried again, after a conflict or a lost connection."""


@dataclass(slots=True)
class CheckedBatch:
    """A batch with its bad rows marked and its edges' ends found."""

    batch: GraphBatch
    vertex_ok: _Mask
    edge_ok: _Mask
    start_rows: Numbers
    """For each edge, the first row of its start among the vertices; anything where `edge_ok` is false."""
    end_rows: Numbers
    refused: list[RefusedFact] = field(default_factory=list)

    def refuse(self, *, is_vertex: bool, rows: _Mask | Sequence[int], reason: str) -> None:
        """Mark rows, once each, and the edges of vertices with them."""
        ok = self.vertex_ok if is_vertex else self.edge_ok
        mask = rows if isinstance(rows, np.ndarray) else _mask(len(ok), rows)
        found = np.flatnonzero(mask & ok)
        ok[found] = False
        self.refused += [RefusedFact(is_vertex, int(row), reason) for row in found]

    def refuse_loose_edges(self) -> None:
        """Refuse the edges whose ends were."""
        for name, ends in (("start", self.start_rows), ("end", self.end_rows)):
            if len(ends) and len(self.vertex_ok):
                self.refuse(is_vertex=False, rows=~self.vertex_ok[ends], reason=f"its {name} was refused")


def checked(batch: GraphBatch) -> CheckedBatch:
    """Find the rows that no store could keep. A few ms for 65,536 rows.

    Args:
        batch: Any.

    Returns:
        The batch, with reasons for each row that is refused.
    """
    vertices, edges = batch.vertices, batch.edges
    # All at once: most of the time goes into making a table of the ids.
    asked = pa.concat_arrays([vertices.column("id"), edges.column("start"), edges.column("end")])
    found_rows = _first_rows(asked, vertices.column("id"))
    firsts, starts, ends = np.split(found_rows, [vertices.num_rows, vertices.num_rows + edges.num_rows])
    found = CheckedBatch(
        batch,
        np.ones(vertices.num_rows, bool),
        np.ones(edges.num_rows, bool),
        np.maximum(starts, 0),
        np.maximum(ends, 0),
    )
    for bad, reason in _faults(vertices, len(VERTEX_KINDS), len(batch.provenances)):
        found.refuse(is_vertex=True, rows=bad, reason=reason)
    for bad, reason in _vertex_faults(vertices, firsts):
        found.refuse(is_vertex=True, rows=bad, reason=reason)
    for bad, reason in _faults(edges, len(EDGE_KINDS), len(batch.provenances)):
        found.refuse(is_vertex=False, rows=bad, reason=reason)
    found.refuse(is_vertex=False, rows=starts < 0, reason="its start isn't among the batch's vertices")
    found.refuse(is_vertex=False, rows=ends < 0, reason="its end isn't among the batch's vertices")
    for bad, reason in _edge_faults(found):
        found.refuse(is_vertex=False, rows=bad, reason=reason)
    found.refuse_loose_edges()
    return found


def content_digest(batch: GraphBatch) -> bytes:
    """What a batch holds, but for where it comes from: 16 bytes. A ms for a MB."""
    state = hashlib.blake2b(digest_size=16, person=b"heimdall facts 1")
    for provenance in batch.provenances:
        state.update(provenance.digest)
    for profile in batch.profiles:
        state.update(profile.id + profile.provenance.to_bytes(4, "big") + profile.profile.encode())
    for rows in (batch.vertices, batch.edges):
        state.update(memoryview(rows.serialize()))
    return state.digest()


def numbers(batch: pa.RecordBatch, name: str) -> np.ndarray[Any, Any]:
    """A column of integers; not copied."""
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=True))


def _mask(count: int, rows: Sequence[int]) -> _Mask:
    mask = np.zeros(count, bool)
    mask[list(rows)] = True
    return mask


def _first_rows(wanted: pa.Array, ids: pa.Array) -> Numbers:
    """For each id the first row that has it; -1: none."""
    return np.asarray(pc.fill_null(pc.index_in(wanted, value_set=ids), -1).to_numpy(zero_copy_only=False), np.int64)


def _faults(rows: pa.RecordBatch, kind_count: int, provenance_count: int) -> Iterator[tuple[_Mask, str]]:
    yield numbers(rows, "kind") >= kind_count, "its kind isn't known"
    yield numbers(rows, "provenance") >= provenance_count, "its provenance isn't the batch's"
    first, last = numbers(rows, "first_ns"), numbers(rows, "last_ns")
    yield (first < 0) | (last < first), "its last time is before its first, or before 1970"
    first, last = numbers(rows, "first_place"), numbers(rows, "last_place")
    yield (first < 0) | (last < first), "its last place is before its first"
    count = numbers(rows, "count")
    yield (count < 0) | (count > _INTEGER_MAX), "its count is negative or over 2^62"


def _vertex_faults(vertices: pa.RecordBatch, first: Numbers) -> Iterator[tuple[_Mask, str]]:
    value, type_ = vertices.column("value"), vertices.column("type")
    yield _truth(pc.greater(pc.binary_length(value), VALUE_BYTES_MAX)), f"its value is over {VALUE_BYTES_MAX} bytes"
    yield _truth(pc.greater(pc.binary_length(type_), NAME_LENGTH_MAX)), f"its type is over {NAME_LENGTH_MAX} bytes"
    for column, name in ((value, "value"), (type_, "type")):
        yield _holds_nul(column), f"its {name} holds a NUL"
    kinds = numbers(vertices, "kind")
    if len(kinds):
        yield kinds != kinds[first], "its id is that of a vertex of another kind"
        hours = vertices.column("hours")
        if hours.null_count < len(hours):
            least = np.asarray(pc.fill_null(hours.flatten(), 0).to_numpy(zero_copy_only=False))
            bad = np.zeros(len(kinds), bool)
            bad[np.flatnonzero(_truth(hours.is_valid()))] = (least.reshape(-1, 24) < 0).any(axis=1)
            yield bad, "a count of its hours is negative"


def _edge_faults(found: CheckedBatch) -> Iterator[tuple[_Mask, str]]:
    edges, kinds = found.batch.edges, numbers(found.batch.edges, "kind")
    relation = edges.column("relation")
    is_typed = np.isin(kinds, [EDGE_KINDS.index(kind) for kind in TYPED])
    has_relation = _truth(pc.greater(pc.binary_length(relation), 0))
    yield is_typed != has_relation, "RELATED_TO and ENRICHED_BY have a relation, others have none"
    yield (
        _truth(pc.greater(pc.binary_length(relation), NAME_LENGTH_MAX)),
        f"its relation is over {NAME_LENGTH_MAX} bytes",
    )
    yield _holds_nul(relation), "its relation holds a NUL"
    if not found.batch.vertices.num_rows:
        return
    vertex_kinds = numbers(found.batch.vertices, "kind")
    start, end = (np.minimum(vertex_kinds[rows], 7) for rows in (found.start_rows, found.end_rows))
    yield ~_ALLOWED[np.minimum(kinds, 7), start, end], "an edge of its kind doesn't join vertices of these kinds"


def _allowed() -> _Mask:
    table = np.zeros((8, 8, 8), bool)
    for kind, pairs in ENDS.items():
        for start, end in pairs:
            table[EDGE_KINDS.index(kind), VERTEX_KINDS.index(start), VERTEX_KINDS.index(end)] = True
    return table


_ALLOWED: Final = _allowed()


def _holds_nul(texts: pa.StringArray) -> _Mask:
    octets = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    if octets.all():  # hardly ever is there one, and looking for an octet costs a hundredth of looking into each text
        return np.zeros(len(texts), bool)
    return _truth(pc.match_substring(texts, "\0"))


def _truth(column: pa.Array) -> _Mask:
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)
