"""The client's methods that decide about the graph: labels, notes, which entities are one."""

from __future__ import annotations

import uuid
from typing import Final

from heimdall.graph.v1 import curation_service_pb2 as pb
from heimdall.graph.v1 import graph_pb2, rebuild_pb2
from heimdall_client.connection import Connection
from heimdall_client.graph_calls import Tlp, VertexLike, to_tlp, to_vertex_ref

REBUILD_TIMEOUT_S: Final = 150.0
"""Until a rebuild has begun: readers of the graph are waited for."""


class CurationCalls(Connection):
    """See the module; a part of `AsyncClient`.

    Personal data in texts is masked by the server before they are kept; what is returned is what is kept.
    """

    async def add_label(
        self, vertex: VertexLike, label: str, *, tlp: Tlp = "", reason: str = ""
    ) -> pb.AddLabelResponse:
        """Put a label on a vertex; one that is there already stays as it is.

        Args:
            vertex: Which.
            label: A word or a few, one line.
            tlp: How far it may go; not stricter than you may see. Empty: amber.
            reason: Why; kept with it, and in the audit log.
        """
        request = pb.AddLabelRequest(vertex=to_vertex_ref(vertex), label=label, tlp=to_tlp(tlp), reason=reason)
        return await self._unary(self._curation.AddLabel, request)

    async def remove_label(self, vertex: VertexLike, label: str, *, reason: str = "") -> pb.RemoveLabelResponse:
        """Take a label off a vertex.

        Args:
            vertex: Which.
            label: As it was given or is shown.
            reason: Why, for the audit log.

        Raises:
            NotFoundError: It isn't there.
        """
        request = pb.RemoveLabelRequest(vertex=to_vertex_ref(vertex), label=label, reason=reason)
        return await self._unary(self._curation.RemoveLabel, request)

    async def add_note(
        self, vertex: VertexLike, text: str, *, tlp: Tlp = "", request_id: str | None = None
    ) -> graph_pb2.Note:
        """Write a note about a vertex.

        Args:
            vertex: Which.
            text: At most 4,096 bytes.
            tlp: How far it may go; not stricter than you may see. Empty: amber.
            request_id: A repeat with the same one makes no second note. None: one is made up for this call.
        """
        request = pb.AddNoteRequest(
            vertex=to_vertex_ref(vertex), text=text, tlp=to_tlp(tlp), request_id=request_id or uuid.uuid4().hex
        )
        return (await self._unary(self._curation.AddNote, request)).note

    async def change_note(self, note_id: str, text: str, *, etag: str) -> graph_pb2.Note:
        """Give a note another text.

        Args:
            note_id: Which.
            text: At most 4,096 bytes.
            etag: Of the version that it replaces.

        Raises:
            EtagMismatchError: It was changed meanwhile.
        """
        request = pb.ChangeNoteRequest(note_id=note_id, text=text, etag=etag)
        return (await self._unary(self._curation.ChangeNote, request)).note

    async def remove_note(self, note_id: str, *, etag: str = "", reason: str = "") -> graph_pb2.Note:
        """Delete a note; returns it as it was.

        Args:
            note_id: Which.
            etag: Of the version that may go; empty: any.
            reason: Why, for the audit log.

        Raises:
            EtagMismatchError: It was changed meanwhile.
        """
        request = pb.RemoveNoteRequest(note_id=note_id, etag=etag, reason=reason)
        return (await self._unary(self._curation.RemoveNote, request)).note

    async def merge_entities(
        self, entity: VertexLike, into: VertexLike, *, reason: str = "", etag: str = ""
    ) -> graph_pb2.Merge:
        """Say that an entity is another one: it is read as part of that from now on.

        Args:
            entity: The one that becomes a part.
            into: The one that it becomes a part of.
            reason: Why; kept with it, and in the audit log.
            etag: Of the merge that this one replaces; empty: the entity is part of none.

        Raises:
            EtagMismatchError: It is part of another one, by another merge.
        """
        request = pb.MergeEntitiesRequest(
            entity=to_vertex_ref(entity), into=to_vertex_ref(into), etag=etag, reason=reason
        )
        return (await self._unary(self._curation.MergeEntities, request)).merge

    async def split_entity(self, entity: VertexLike, *, reason: str = "", etag: str = "") -> graph_pb2.Merge:
        """Take an entity out of the one that it was merged into; returns the merge as it was.

        Args:
            entity: Which.
            reason: Why, for the audit log.
            etag: Of the merge that may go; empty: any.

        Raises:
            NotFoundError: It is part of none.
            EtagMismatchError: It is part of another one, by another merge.
        """
        request = pb.SplitEntityRequest(entity=to_vertex_ref(entity), etag=etag, reason=reason)
        return (await self._unary(self._curation.SplitEntity, request)).merge

    async def rebuild_graph(self, *, reason: str = "") -> rebuild_pb2.Rebuild:
        """Begin to make again what the graph was told by records; what is under way already is told instead.

        What people decided, imports and embeddings stay. It goes on without you; follow it with `graph_rebuild`.

        Args:
            reason: Why; kept with it, and in the audit log.
        """
        request = rebuild_pb2.RebuildGraphRequest(reason=reason)
        return (await self._unary(self._curation.RebuildGraph, request, timeout_s=REBUILD_TIMEOUT_S)).rebuild

    async def graph_rebuild(self, rebuild_id: str = "") -> rebuild_pb2.Rebuild:
        """How far a rebuild is.

        Args:
            rebuild_id: Which; empty: the newest one.

        Raises:
            NotFoundError: There is none.
        """
        request = rebuild_pb2.GetRebuildRequest(rebuild_id=rebuild_id)
        return (await self._unary(self._curation.GetRebuild, request)).rebuild

    async def refused_facts(self, *, limit: int = 0) -> list[rebuild_pb2.RefusedFact]:
        """Facts that the graph's store refused, the newest first, without their values.

        Args:
            limit: At most so many; 0: 100.
        """
        request = rebuild_pb2.ListRefusedFactsRequest(count_max=limit)
        return list((await self._unary(self._curation.ListRefusedFacts, request)).facts)
