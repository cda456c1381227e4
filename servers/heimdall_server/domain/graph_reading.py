"""What the graph answers with, and what bounds an answer: vertices, edges, evidence, levels of a traversal, paths.

Whoever asks has a ceiling: what only stricter provenances tell isn't there for them, neither as a fact nor as a count, a time or a
confidence of one.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from heimdall_server.domain.graph import EdgeKind, Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_ids import edge_id


@dataclass(frozen=True, slots=True)
class Seen:
    """When, how often, how surely: of all provenances that the reader may see."""

    first_ns: int
    last_ns: int
    count: int
    confidence: int
    """The greatest of them."""
    tlp: Tlp
    """The least strict of them."""


@dataclass(frozen=True, slots=True)
class Vertex:
    """A vertex as a reader sees it."""

    id: bytes
    kind: VertexKind
    type: str
    value: str = field(repr=False)
    """Canonical, or the token of a personal value."""
    seen: Seen
    day: int = 0
    """Of a sighting: days since 1970."""


@dataclass(frozen=True, slots=True)
class EdgeKey:
    """What tells an edge from all others."""

    kind: EdgeKind
    start: bytes
    end: bytes
    relation: str = ""

    @property
    def id(self) -> bytes:
        """Its id, which follows from the rest."""
        return edge_id(self.kind, self.start, self.end, self.relation)


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge as a reader sees it. Its ends are those that it was told with, also where these were merged into others."""

    key: EdgeKey
    seen: Seen


@dataclass(frozen=True, slots=True)
class Evidence:
    """One provenance of a fact."""

    provenance: Provenance
    first_ns: int
    last_ns: int
    count: int
    first_place: int
    """Record number of the dump, or position of the journal; 0: none."""
    last_place: int


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Who says a fact."""

    told: Sequence[Evidence]
    """The surest first, as many as were asked for."""
    count: int
    """How many there are, of those whom the reader may hear."""


@dataclass(frozen=True, slots=True)
class SightingRow:
    """A sighting of an entity: a source, a day."""

    id: bytes
    source: str
    day: int
    seen: Seen
    hours: Sequence[int]
    """Count by hour of the day, UTC; 24, or none where they aren't known."""


class Direction(enum.Enum):
    """Which way edges are followed."""

    OUT = "out"
    IN = "in"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class GraphFilter:
    """Which facts are looked at. It holds at every step: what doesn't pass isn't walked through either."""

    tlp_max: Tlp
    """The reader's ceiling."""
    edge_kinds: frozenset[EdgeKind] = frozenset(EdgeKind)
    relations: frozenset[str] = frozenset()
    """Of typed edges; empty: all. Others have none and pass."""
    vertex_kinds: frozenset[VertexKind] = frozenset(VertexKind)
    types: frozenset[str] = frozenset()
    """Of entities; empty: all. Other vertices pass."""
    since_ns: int = 0
    """Edges that were seen at or after it."""
    until_ns: int = 2**63 - 1
    """Edges that were seen before it."""
    confidence_min: int = 0
    direction: Direction = Direction.BOTH
    walk_confidence_min: int = 0
    """Entities that are believed less are met, and not walked on through; those that a walk begins or ends at are."""


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """How far a walk goes."""

    depth_max: int = 2
    degree_max: int = 200
    """Edges followed from one vertex, of each kind and direction: the most relevant ones."""
    vertex_count_max: int = 1_000
    """Of the answer, without its starts."""
    edge_scan_max: int = 200_000
    """Edges read on the way."""
    time_s: float = 10.0

    def __post_init__(self) -> None:
        if (
            not 1 <= self.depth_max <= 6
            or not 1 <= self.degree_max <= 10_000
            or not 1 <= self.vertex_count_max <= 100_000
        ):
            raise ValueError("limits of a walk: depth 1 to 6, degree 1 to 10,000, vertices 1 to 100,000")


class MoreReason(enum.StrEnum):
    """Why something was left out."""

    DEGREE = "degree"
    """A vertex has more edges than may be followed from one; the least relevant weren't."""
    VERTEX_COUNT = "vertex_count"
    """The answer is full; the least relevant vertices were left out."""
    EDGE_SCAN = "edge_scan"
    """Enough edges were read."""
    DEPTH = "depth"
    """Vertices at the last level have edges that weren't looked at. Said of paths only."""
    CONFIDENCE = "confidence"
    """Entities are believed too little to be walked on through: warninglists know them."""


@dataclass(frozen=True, slots=True)
class More:
    """Something was left out."""

    reason: MoreReason
    id: bytes = b""
    """The vertex that has more; empty: the answer as a whole."""
    shown_count: int = 0
    """How many of them are there; of CONFIDENCE: entities that weren't walked through."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a traversal finds at one distance. Vertices come in the order of their relevance: confidence, recency, rarity."""

    depth: int
    """0: the starts."""
    vertices: Sequence[Vertex]
    edges: Sequence[Edge]
    """Those that led to these vertices, and those between them and vertices of earlier levels."""
    more: Sequence[More] = ()
    parts: Mapping[bytes, bytes] = field(default_factory=dict)
    """Ends of edges that were merged into a vertex that was met: its id."""


@dataclass(frozen=True, slots=True)
class Path:
    """A way from one vertex to another; `edges[i]` joins `vertices[i]` and `vertices[i + 1]`, in either direction."""

    vertices: Sequence[Vertex]
    edges: Sequence[Edge]


@dataclass(frozen=True, slots=True)
class Paths:
    """The shortest ways, the most trustworthy first."""

    paths: Sequence[Path]
    more: Sequence[More] = ()
    """Where the search was cut; empty and no path: there is none of that length."""


@dataclass(frozen=True, slots=True)
class CypherResult:
    """What a Cypher query answers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = field(repr=False)
    """Each value as JSON: a vertex is an object, an edge too, a path a list of both in turn."""
    truncated: bool = False
    """There are more rows than were asked for."""


@dataclass(frozen=True, slots=True)
class GraphState:
    """Sizes, for operators."""

    vertex_count: int
    """About: as of the last statistics."""
    edge_count: int
    size_bytes: int
    stream_count: int


def day_text(day: int) -> str:
    """A day since 1970 as ISO 8601 writes it."""
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
