"""The blocking client's methods on the graph; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from heimdall.graph.v1 import curation_service_pb2 as curation_pb
from heimdall.graph.v1 import graph_pb2, rebuild_pb2, warninglists_pb2
from heimdall.graph.v1 import graph_service_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.graph_calls import Tlp, VertexLike
from heimdall_client.loop_thread import LoopThread
from heimdall_client.translate import TimeLike

_Result = TypeVar("_Result")


class SyncGraphCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def vertex(self, vertex: VertexLike, *, tlp: Tlp = "") -> pb.GetVertexResponse:
        """A vertex; see `AsyncClient.vertex`."""
        return self._run(self._twin.vertex(vertex, tlp=tlp))

    def neighbourhood(
        self,
        *starts: VertexLike,
        depth: int = 1,
        degree: int = 0,
        limit: int = 0,
        edges: Sequence[str] = (),
        types: Sequence[str] = (),
        relations: Sequence[str] = (),
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        sure: int | None = None,
        provenances: bool = False,
    ) -> list[pb.TraverseResponse]:
        """A walk; see `AsyncClient.traverse`."""
        return self._run(
            self._twin.neighbourhood(
                *starts,
                depth=depth,
                degree=degree,
                limit=limit,
                edges=edges,
                types=types,
                relations=relations,
                since=since,
                until=until,
                tlp=tlp,
                sure=sure,
                provenances=provenances,
            )
        )

    def paths(
        self,
        start: VertexLike,
        end: VertexLike,
        *,
        length: int = 0,
        limit: int = 0,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        tlp: Tlp = "",
        sure: int | None = None,
    ) -> pb.FindPathsResponse:
        """Ways between two vertices; see `AsyncClient.paths`."""
        found = self._twin.paths(start, end, length=length, limit=limit, since=since, until=until, tlp=tlp, sure=sure)
        return self._run(found)

    def sightings(
        self,
        entity: VertexLike,
        *,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        limit: int = 0,
        tlp: Tlp = "",
    ) -> pb.ListSightingsResponse:
        """Sightings of an entity; see `AsyncClient.sightings`."""
        return self._run(self._twin.sightings(entity, since=since, until=until, limit=limit, tlp=tlp))

    def warninglists(self) -> warninglists_pb2.ListWarninglistsResponse:
        """The warninglists in force; see `AsyncClient.warninglists`."""
        return self._run(self._twin.warninglists())

    def cypher(self, query: str, *, limit: int = 0) -> pb.RunCypherResponse:
        """Run Cypher; see `AsyncClient.cypher`."""
        return self._run(self._twin.cypher(query, limit=limit))

    def add_label(
        self, vertex: VertexLike, label: str, *, tlp: Tlp = "", reason: str = ""
    ) -> curation_pb.AddLabelResponse:
        """Put a label on a vertex; see `AsyncClient.add_label`."""
        return self._run(self._twin.add_label(vertex, label, tlp=tlp, reason=reason))

    def remove_label(self, vertex: VertexLike, label: str, *, reason: str = "") -> curation_pb.RemoveLabelResponse:
        """Take a label off a vertex; see `AsyncClient.remove_label`."""
        return self._run(self._twin.remove_label(vertex, label, reason=reason))

    def add_note(
        self, vertex: VertexLike, text: str, *, tlp: Tlp = "", request_id: str | None = None
    ) -> graph_pb2.Note:
        """Write a note about a vertex; see `AsyncClient.add_note`."""
        return self._run(self._twin.add_note(vertex, text, tlp=tlp, request_id=request_id))

    def change_note(self, note_id: str, text: str, *, etag: str) -> graph_pb2.Note:
        """Give a note another text; see `AsyncClient.change_note`."""
        return self._run(self._twin.change_note(note_id, text, etag=etag))

    def remove_note(self, note_id: str, *, etag: str = "", reason: str = "") -> graph_pb2.Note:
        """Delete a note; see `AsyncClient.remove_note`."""
        return self._run(self._twin.remove_note(note_id, etag=etag, reason=reason))

    def merge_entities(
        self, entity: VertexLike, into: VertexLike, *, reason: str = "", etag: str = ""
    ) -> graph_pb2.Merge:
        """Say that an entity is another one; see `AsyncClient.merge_entities`."""
        return self._run(self._twin.merge_entities(entity, into, reason=reason, etag=etag))

    def split_entity(self, entity: VertexLike, *, reason: str = "", etag: str = "") -> graph_pb2.Merge:
        """Take an entity out of another; see `AsyncClient.split_entity`."""
        return self._run(self._twin.split_entity(entity, reason=reason, etag=etag))

    def rebuild_graph(self, *, reason: str = "") -> rebuild_pb2.Rebuild:
        """Make the graph again; see `AsyncClient.rebuild_graph`."""
        return self._run(self._twin.rebuild_graph(reason=reason))

    def graph_rebuild(self, rebuild_id: str = "") -> rebuild_pb2.Rebuild:
        """How far a rebuild is; see `AsyncClient.graph_rebuild`."""
        return self._run(self._twin.graph_rebuild(rebuild_id))

    def refused_facts(self, *, limit: int = 0) -> list[rebuild_pb2.RefusedFact]:
        """What the graph's store refused; see `AsyncClient.refused_facts`."""
        return self._run(self._twin.refused_facts(limit=limit))
