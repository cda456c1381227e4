"""The graph: facts written in batches, walked under a ceiling, and what people decide about them.

Five roles, so that each user sees what it needs: a projection writes, services read and curate, an erasure takes out, a later job fills vectors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from heimdall_server.domain.graph import Provenance, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Embedding, Label, Merge, Note, Similar
from heimdall_server.domain.graph_batches import Applied, Flags, GraphBatch, Numbers, Origin
from heimdall_server.domain.graph_profiles import Hashes, Profile
from heimdall_server.domain.graph_reading import (
    CypherResult,
    EdgeKey,
    GraphFilter,
    GraphLimits,
    GraphState,
    Level,
    Paths,
    SightingRow,
    Vertex,
    Witnesses,
)


class GraphWriter(Protocol):
    """Observed facts.

    Guarantees: a batch is kept as a whole, together with the note of its origin, or not at all; an origin that was applied changes
    nothing; whatever the order, and however facts are cut into batches, the graph is the same. What `apply` returned from is visible to
    readers; after a crash of the engine's machine the last batches may be gone *together with their origins*, so whoever writes asks
    `missing` at each start.

    All methods raise StoreError when the engine fails or is too slow; a batch may be applied or not then, and is simply sent again.
    """

    async def missing(self, origin: Origin) -> Sequence[tuple[int, int]]:
        """The parts of a range that weren't applied (or counted), in order: (first, last), both inclusive."""
        ...

    async def rewind(self, stream: str, through: int, *, parts: str) -> Sequence[tuple[int, int]]:
        """Hear where a stream ended before anything new came in: nothing that is noted of later positions holds.

        After a journal was restored from a backup its next positions are other frames' than those that were applied, and would be taken
        for applied. Idempotent; facts stay.

        Args:
            stream: Whose positions.
            through: The last one.
            parts: What names of streams begin with that are a position's parts; the position follows.

        Returns:
            Positions that were applied and lost since facts were last forgotten, in order: (first, last), both inclusive.
        """
        ...

    async def knows(self, provenance: Provenance, numbers: Numbers, hashes: Hashes) -> Flags:
        """Which records of a dump were applied (`GraphBatch.records`). They are a set: what came between, or in which order, doesn't matter.

        Args:
            provenance: Of the records.
            numbers: Their numbers, in any order, each any number of times.
            hashes: Of what each says; never 0.
        """
        ...

    async def apply(self, batch: GraphBatch) -> Applied:
        """Keep a batch.

        Rows that can't be kept are refused one by one, and the rest is kept. Conflicts with others are tried again.

        Raises:
            InvalidArgumentError: Its origin, or what it counts, was applied in part: send what is missing.
        """
        ...

    async def forget(self) -> None:
        """Drop all observed facts, their provenances, and the notes of what was applied, so that they can be made again.

        What people decided, and embeddings, stay.
        """
        ...


class GraphEraser(Protocol):
    """Takes out what was erased."""

    async def erase(self, tokens: Collection[str]) -> int:
        """Delete the entities that tokens stand for, and all that hangs on them.

        Their sightings, the fields' values that are them, every edge of these, and what people or later jobs said about them. Idempotent; facts
        that come later make them anew.

        Args:
            tokens: In brackets, as vertices have them.

        Returns:
            Vertices that were deleted.

        Raises:
            StoreError: The engine failed; some may be gone.
        """
        ...


class GraphReader(Protocol):
    """Walks. Whatever is found is visible under the filter's ceiling, and was walked to through visible facts only.

    All methods raise StoreError when the engine fails, QueryTimeoutError when the time of `GraphLimits` is over.
    """

    async def get(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Vertex]:
        """The vertices that are there; of merged ones the one that they are part of, under the id that was asked for."""
        ...

    async def profiles(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Mapping[bytes, Profile]:
        """Profiles of dumps and fields, of those that have one and are visible: what visible provenances tell, merged."""
        ...

    async def evidence(
        self, facts: Sequence[bytes | EdgeKey], *, tlp_max: Tlp, count_max: int | None = None
    ) -> Sequence[Witnesses]:
        """The provenances of each fact, the surest first, of these the latest; none for one that isn't there.

        Args:
            facts: Ids of vertices, keys of edges.
            tlp_max: The reader's ceiling.
            count_max: Of each fact at most so many; None: all.
        """
        ...

    def traverse(self, starts: Sequence[bytes], filter_: GraphFilter, limits: GraphLimits) -> AsyncIterator[Level]:
        """Walk level by level from some vertices; each level is given as soon as it is there.

        A vertex is given once, at its least distance. Merged vertices are one.
        """
        ...

    async def paths(
        self, start: bytes, end: bytes, filter_: GraphFilter, limits: GraphLimits, *, count_max: int = 5
    ) -> Paths:
        """The shortest ways between two vertices, of at most `limits.depth_max` edges."""
        ...

    async def sightings(
        self,
        entity: bytes,
        *,
        tlp_max: Tlp,
        first_day: int = 0,
        last_day: int = 2**31 - 1,
        count_max: int = 1_000,
    ) -> Sequence[SightingRow]:
        """Sightings of an entity and of those that it is merged with, the newest day first; days since 1970, both inclusive."""
        ...

    async def state(self) -> GraphState:
        """Sizes. Cheap."""
        ...


class CypherRunner(Protocol):
    """Cypher for people: read-only, under a role of its own."""

    async def run(self, text: str, *, tlp_max: Tlp, row_count_max: int = 1_000, time_s: float = 10.0) -> CypherResult:
        """Run a query.

        Args:
            text: One statement that ends with RETURN.
            tlp_max: The reader's ceiling; what lies above isn't there.
            row_count_max: Rows at most; more are left out, and the result says so.
            time_s: It is cancelled after this long.

        Raises:
            QuerySyntaxError: It isn't Cypher, it writes, or it uses what can't be bounded; says what and where.
            QueryTimeoutError: It took too long.
            QueryCostError: It needs more memory than one query gets, or one row is too large for an answer.
            StoreError: The engine failed, or has no such role.
        """
        ...


class GraphCuration(Protocol):
    """What people decide. Survives `GraphWriter.forget`."""

    async def add_label(self, label: Label) -> None:
        """Put a label on a vertex.

        One that is there already stays as it is, unless it is marked stricter: then this one takes its place, so that all who may see it do.
        """
        ...

    async def remove_label(self, id_: bytes, label: str, *, tlp_max: Tlp) -> bool:
        """Take a label off. False: it wasn't there, or is marked stricter than the ceiling."""
        ...

    async def labels(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Sequence[Label]:
        """Labels of vertices."""
        ...

    async def labelled(
        self, label: str, *, tlp_max: Tlp, after: bytes = b"", count_max: int = 1_000
    ) -> Sequence[bytes]:
        """Vertices with a label, in the order of their ids."""
        ...

    async def add_note(self, note: Note) -> None:
        """Keep a new note. Idempotent by its id."""
        ...

    async def note(self, note_id: bytes) -> Note | None:
        """A note; None: there is none of this id."""
        ...

    async def change_note(self, note_id: bytes, body: str, *, etag: str, actor: str, time_ns: int) -> Note:
        """Give a note another text. Whoever changes it is its actor then.

        Raises:
            NotFoundError: There is no such note.
            EtagMismatchError: It was changed meanwhile.
        """
        ...

    async def remove_note(self, note_id: bytes, *, etag: str = "") -> bool:
        """Delete a note. False: it wasn't there.

        Args:
            note_id: Which.
            etag: Of the version that may go; empty: any.

        Raises:
            EtagMismatchError: It was changed meanwhile.
        """
        ...

    async def notes(self, ids: Collection[bytes], *, tlp_max: Tlp) -> Sequence[Note]:
        """Notes on vertices, the oldest first."""
        ...

    async def merge(self, merge: Merge, *, etag: str = "") -> Merge:
        """Let a vertex, and what was merged into it, be part of another.

        Args:
            merge: What is said.
            etag: Of the merge that it replaces; empty: the vertex is part of none.

        Returns:
            The merge that is kept: the earlier one where the vertex is part of this one already.

        Raises:
            InvalidArgumentError: It is the same one, the other is part of it, or the merges would be more or deeper than `GROUP_MAX` and
                `MERGE_DEPTH_MAX` of `graph_authored`.
            EtagMismatchError: It is part of another, and not by the merge that was named.
        """
        ...

    async def split(self, id_: bytes, *, etag: str = "") -> Merge | None:
        """Take a vertex out of what it was merged into.

        Args:
            id_: Which.
            etag: Of the merge that may go; empty: any.

        Returns:
            The merge that is undone; None: there was none.

        Raises:
            EtagMismatchError: It is another merge.
        """
        ...

    async def merges(self, ids: Collection[bytes]) -> Sequence[Merge]:
        """The merges that some vertices take part in, on either side."""
        ...

    async def parts(self, id_: bytes) -> Sequence[Merge]:
        """The merges that made a vertex what it is: all that was merged into it, and into that."""
        ...


class GraphVectors(Protocol):
    """Embeddings of entities and of dumps' fields."""

    async def put(self, kind: VertexKind, model: str, embeddings: Sequence[Embedding]) -> None:
        """Keep embeddings, in place of older ones of the same model.

        Raises:
            InvalidArgumentError: Neither an entity's nor a field's, or a vector isn't of 384 numbers.
        """
        ...

    async def nearest(
        self, kind: VertexKind, model: str, vector: Sequence[float], *, tlp_max: Tlp, count_max: int = 10
    ) -> Sequence[Similar]:
        """The vertices that are nearest to a vector, the nearest first; found by an index, so one may be missed."""
        ...
