"""Values that the graph service's translation and logic share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from heimdall_server.domain.graph import Tlp
from heimdall_server.domain.graph_authored import Label, Merge, Note
from heimdall_server.domain.graph_dumps import DescribedDump
from heimdall_server.domain.graph_reading import Edge, Level, More, Path, SightingRow, Vertex, Witnesses

DUMP_TYPE = "dump"
"""Names a dump where a type is asked for."""


@dataclass(frozen=True, slots=True)
class Named:
    """A vertex as somebody names it: by its id, or by type and value."""

    id: bytes = b""
    type: str = ""
    value: str = field(default="", repr=False)
    """In any spelling; it may be personal."""


@dataclass(frozen=True, slots=True)
class Described:
    """A vertex with what is said about it and about what was merged into it."""

    vertex: Vertex
    evidence: Witnesses
    labels: Sequence[Label]
    notes: Sequence[Note]
    merges: Sequence[Merge] = ()
    warninglists: Sequence[str] = ()
    """Names of those that it is on now."""
    dump: DescribedDump | None = None
    """Its profile, if it is a dump or a field."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A level of a walk, with the labels of its vertices and, if they were asked for, who says its edges."""

    level: Level
    labels: Sequence[Label]
    evidence: Sequence[Witnesses] = ()
    """Of its first edges."""


@dataclass(frozen=True, slots=True)
class Connected:
    """How two vertices are connected."""

    paths: Sequence[Path]
    evidence: Sequence[tuple[Edge, Witnesses]]
    """Who says each edge, each edge once."""
    more: Sequence[More]


@dataclass(frozen=True, slots=True)
class Sighted:
    """Sightings of an entity."""

    rows: Sequence[SightingRow]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How far a reader may see: the caller's own, and what was asked for below it."""

    caller: Tlp
    asked: Tlp | None = None

    @property
    def tlp(self) -> Tlp:
        """The stricter of both."""
        return self.caller if self.asked is None else min(self.caller, self.asked)


@dataclass(frozen=True, slots=True)
class Curator:
    """Who decides something about the graph."""

    actor: str
    """The caller's identity."""
    request_id: str
    """Of the call."""
    method: str
    """Full name of the call's method."""
    ceiling: Tlp
    """What they may see, and how strict a marking they may give."""
