"""The curation service's RPCs."""
# ruff: noqa: ARG002, N802 - gRPC fixes the names and the arguments

from __future__ import annotations

from typing import Any, Final, TypeAlias

import grpc

from heimdall.graph.v1 import curation_service_pb2 as pb
from heimdall.graph.v1 import curation_service_pb2_grpc as pb_grpc
from heimdall.graph.v1 import rebuild_pb2
from heimdall_server.services.graph import rebuild_translate, translate
from heimdall_server.services.graph.callers import curator
from heimdall_server.services.graph.logic.curating import GraphCurating
from heimdall_server.services.graph.logic.rebuilding import GraphRebuilding

AUDITS_ITSELF: Final = frozenset(
    {"AddLabel", "RemoveLabel", "AddNote", "ChangeNote", "RemoveNote", "MergeEntities", "SplitEntity", "RebuildGraph"}
)
"""Methods whose use case writes what was allowed, with what it was about; the interceptor writes what was denied or failed."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class CurationServicer(pb_grpc.CurationServiceServicer):
    """See the contract."""

    def __init__(self, curating: GraphCurating, rebuilding: GraphRebuilding) -> None:
        self._curating = curating
        self._rebuilding = rebuilding

    async def AddLabel(self, request: pb.AddLabelRequest, context: Context) -> pb.AddLabelResponse:
        """See the contract."""
        named, tlp = translate.named_in(request.vertex), translate.tlp_in(request.tlp)
        kept = await self._curating.add_label(curator(), named, request.label, tlp=tlp, reason=request.reason)
        return pb.AddLabelResponse(vertex_id=kept.id.hex(), label=kept.label)

    async def RemoveLabel(self, request: pb.RemoveLabelRequest, context: Context) -> pb.RemoveLabelResponse:
        """See the contract."""
        named = translate.named_in(request.vertex)
        id_, label = await self._curating.remove_label(curator(), named, request.label, reason=request.reason)
        return pb.RemoveLabelResponse(vertex_id=id_.hex(), label=label)

    async def AddNote(self, request: pb.AddNoteRequest, context: Context) -> pb.AddNoteResponse:
        """See the contract."""
        named, tlp = translate.named_in(request.vertex), translate.tlp_in(request.tlp)
        note = await self._curating.add_note(curator(), named, request.text, tlp=tlp, request_id=request.request_id)
        return pb.AddNoteResponse(note=translate.note_out(note))

    async def ChangeNote(self, request: pb.ChangeNoteRequest, context: Context) -> pb.ChangeNoteResponse:
        """See the contract."""
        note_id = bytes.fromhex(request.note_id)
        note = await self._curating.change_note(curator(), note_id, request.text, etag=request.etag)
        return pb.ChangeNoteResponse(note=translate.note_out(note))

    async def RemoveNote(self, request: pb.RemoveNoteRequest, context: Context) -> pb.RemoveNoteResponse:
        """See the contract."""
        note_id = bytes.fromhex(request.note_id)
        note = await self._curating.remove_note(curator(), note_id, etag=request.etag, reason=request.reason)
        return pb.RemoveNoteResponse(note=translate.note_out(note))

    async def MergeEntities(self, request: pb.MergeEntitiesRequest, context: Context) -> pb.MergeEntitiesResponse:
        """See the contract."""
        entity, into = translate.named_in(request.entity), translate.named_in(request.into)
        merge = await self._curating.merge(curator(), entity, into, etag=request.etag, reason=request.reason)
        return pb.MergeEntitiesResponse(merge=translate.merge_out(merge))

    async def SplitEntity(self, request: pb.SplitEntityRequest, context: Context) -> pb.SplitEntityResponse:
        """See the contract."""
        entity = translate.named_in(request.entity)
        merge = await self._curating.split(curator(), entity, etag=request.etag, reason=request.reason)
        return pb.SplitEntityResponse(merge=translate.merge_out(merge))

    async def RebuildGraph(
        self, request: rebuild_pb2.RebuildGraphRequest, context: Context
    ) -> rebuild_pb2.RebuildGraphResponse:
        """See the contract."""
        state = await self._rebuilding.rebuild(curator(), request.reason)
        return rebuild_pb2.RebuildGraphResponse(rebuild=rebuild_translate.rebuild_out(state))

    async def GetRebuild(
        self, request: rebuild_pb2.GetRebuildRequest, context: Context
    ) -> rebuild_pb2.GetRebuildResponse:
        """See the contract."""
        state = await self._rebuilding.state(request.rebuild_id)
        return rebuild_pb2.GetRebuildResponse(rebuild=rebuild_translate.rebuild_out(state))

    async def ListRefusedFacts(
        self, request: rebuild_pb2.ListRefusedFactsRequest, context: Context
    ) -> rebuild_pb2.ListRefusedFactsResponse:
        """See the contract."""
        found = await self._rebuilding.refused(request.count_max)
        return rebuild_pb2.ListRefusedFactsResponse(facts=map(rebuild_translate.refused_out, found))
