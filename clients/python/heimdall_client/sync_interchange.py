"""The blocking client's imports and exports of the graph; each method is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from heimdall.graph.v1 import interchange_service_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.graph_calls import Tlp, VertexLike
from heimdall_client.interchange_calls import Data, Format, OnImportProgress
from heimdall_client.loop_thread import LoopThread
from heimdall_client.sync_streams import iterate

_Result = TypeVar("_Result")


class SyncInterchangeCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def import_facts(
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
        """Import facts; see `AsyncClient.import_facts`."""
        return self._run(
            self._twin.import_facts(
                data,
                source,
                format=format,
                tlp=tlp,
                confidence=confidence,
                dry_run=dry_run,
                reason=reason,
                on_progress=on_progress,
            )
        )

    def export_stix(
        self,
        *starts: VertexLike,
        depth: int = 1,
        limit: int = 0,
        tlp: Tlp = "",
        reveal_personal: bool = False,
        reason: str = "",
    ) -> Iterator[pb.ExportStixResponse]:
        """A bundle in pieces; see `AsyncClient.export_stix`."""
        pieces = self._twin.export_stix(
            *starts, depth=depth, limit=limit, tlp=tlp, reveal_personal=reveal_personal, reason=reason
        )
        return iterate(self._portal, pieces)

    def export_stix_bundle(
        self,
        *starts: VertexLike,
        depth: int = 1,
        limit: int = 0,
        tlp: Tlp = "",
        reveal_personal: bool = False,
        reason: str = "",
    ) -> tuple[bytes, pb.ExportSummary]:
        """A bundle at once; see `AsyncClient.export_stix_bundle`."""
        return self._run(
            self._twin.export_stix_bundle(
                *starts, depth=depth, limit=limit, tlp=tlp, reveal_personal=reveal_personal, reason=reason
            )
        )
