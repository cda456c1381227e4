"""The client's methods that take facts of other programs into the graph, and give them out: STIX 2.1, MISP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, BinaryIO, Final, Literal, TypeAlias

import grpc.aio

from heimdall.graph.v1 import interchange_service_pb2 as pb
from heimdall.graph.v1 import interchange_service_pb2_grpc as pb_grpc
from heimdall_client import status
from heimdall_client.connection import Connection
from heimdall_client.graph_calls import Tlp, VertexLike, to_tlp, to_vertex_ref

IMPORT_TIMEOUT_S: Final = 3600.0
EXPORT_TIMEOUT_S: Final = 600.0
CHUNK_BYTES: Final = 512 * 1024
Format: TypeAlias = Literal["stix", "misp"]
Data: TypeAlias = bytes | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]
"""Bytes, an open file, or pieces."""
OnImportProgress: TypeAlias = Callable[[pb.ImportProgress], None]


class InterchangeCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def import_facts(
        self,
        data: Data,
        source: str,
        *,
        format: Format = "stix",  # noqa: A002 - as everywhere in this client
        tlp: Tlp = "",
        confidence: int = 0,
        dry_run: bool = False,
        reason: str = "",
        on_progress: OnImportProgress | None = None,
    ) -> pb.ImportSummary:
        """Import a bundle of STIX 2.1, or events of MISP's core format. The same again changes nothing.

        Args:
            data: UTF-8 JSON, at most 256 MiB.
            source: Who is said to say it: `[a-z0-9._-]`.
            format: Of the data.
            tlp: Marking of what has none; empty: amber.
            confidence: How sure is what doesn't say so, 1 to 100; 0: 70.
            dry_run: Nothing is kept; the answer says what would be.
            reason: Why, for the audit log.
            on_progress: Told how far it is.

        Returns:
            What was kept, and what was refused and why.
        """
        options = pb.ImportOptions(
            source=source, tlp=to_tlp(tlp), confidence=confidence, dry_run=dry_run, reason=reason
        )
        stub = pb_grpc.InterchangeServiceStub(self._open())
        if format == "misp":
            call: Any = stub.ImportMisp(_requests(pb.ImportMispRequest, options, data), timeout=IMPORT_TIMEOUT_S)
        else:
            call = stub.ImportStix(_requests(pb.ImportStixRequest, options, data), timeout=IMPORT_TIMEOUT_S)
        try:
            async for response in call:
                if response.WhichOneof("message") == "summary":
                    summary: pb.ImportSummary = response.summary
                    return summary
                if on_progress is not None:
                    on_progress(response.progress)
        except grpc.aio.AioRpcError as error:
            raise status.from_call(error, address=self._address) from error
        finally:
            call.cancel()
        problem = "the server ended an import without saying what became of it"
        raise EOFError(problem)

    async def export_stix(
        self,
        *starts: VertexLike,
        depth: int = 1,
        limit: int = 0,
        tlp: Tlp = "",
        reveal_personal: bool = False,
        reason: str = "",
    ) -> AsyncGenerator[pb.ExportStixResponse, None]:
        """The entities around some, their relations and sightings, as a bundle of STIX 2.1 in pieces; at last a summary.

        Args:
            starts: Where it begins.
            depth: Hops between entities, up to 6.
            limit: Entities in all; 0: 1,000.
            tlp: A lower ceiling than your own.
            reveal_personal: Personal values in plain; needs `privacy.reveal` and a reason. Otherwise they are left out.
            reason: Why, for the audit log.
        """
        request = pb.ExportStixRequest(
            starts=[to_vertex_ref(start) for start in starts],
            depth_max=depth,
            entity_count_max=limit,
            tlp_max=to_tlp(tlp),
            reveal_personal=reveal_personal,
            reason=reason,
        )
        call = pb_grpc.InterchangeServiceStub(self._open()).ExportStix(request, timeout=EXPORT_TIMEOUT_S)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise status.from_call(error, address=self._address) from error
        finally:
            call.cancel()

    async def export_stix_bundle(
        self,
        *starts: VertexLike,
        depth: int = 1,
        limit: int = 0,
        tlp: Tlp = "",
        reveal_personal: bool = False,
        reason: str = "",
    ) -> tuple[bytes, pb.ExportSummary]:
        """All of it at once; see `export_stix`."""
        pieces = self.export_stix(
            *starts, depth=depth, limit=limit, tlp=tlp, reveal_personal=reveal_personal, reason=reason
        )
        data, summary = bytearray(), pb.ExportSummary()
        async with aclosing(pieces):
            async for piece in pieces:
                data += piece.chunk
                if piece.WhichOneof("message") == "summary":
                    summary = piece.summary
        return bytes(data), summary


async def _requests(make: Any, options: pb.ImportOptions, data: Data) -> AsyncIterator[Any]:  # noqa: ANN401 - either message
    yield make(open=options)
    async for piece in _pieces(data):
        for start in range(0, len(piece), CHUNK_BYTES):
            yield make(chunk=piece[start : start + CHUNK_BYTES])


async def _pieces(data: Data) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            yield piece
    else:
        read = getattr(data, "read", None)
        pieces = iter(lambda: read(CHUNK_BYTES), b"") if callable(read) else iter(data)
        # Files block.
        while (next_piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield next_piece
