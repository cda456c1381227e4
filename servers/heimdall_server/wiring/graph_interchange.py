"""Imports and exports of a process that runs the graph: the log of imports, what brings it into the graph, and the service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from heimdall.graph.v1 import interchange_service_pb2_grpc
from heimdall_server.config import Config
from heimdall_server.domain.errors import IntegrityError, KeyDestroyedError
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.ports.graph import GraphReader
from heimdall_server.projections.graph.imports import ImportProjection
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.graph.interchange_servicer import (
    AUDITS_ITSELF,
    MISP,
    STIX,
    InterchangeServicer,
    InterchangeUseCases,
)
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.logic.interchange.exporting import ExportPorts, GraphExporting
from heimdall_server.services.graph.logic.interchange.importing import GraphImporting, ImportPorts, ReaderFactory
from heimdall_server.services.graph.logic.interchange.misp_reader import MispImport
from heimdall_server.services.graph.logic.interchange.stix_import import StixImport
from heimdall_server.services.graph.model import Curator
from heimdall_server.services.privacy.logic.limits import CallerRates
from heimdall_server.storage.postgres.graph.import_log import PostgresImportLog
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.wiring.parts import Parts
from heimdall_server.wiring.privacy import PrivacyParts
from heimdall_server.wiring.tasks import cancel, follow

SERVICE: Final = "heimdall.graph.v1.InterchangeService"


def open_imports(privacy: PrivacyParts, stack: contextlib.AsyncExitStack) -> ImportProjection:
    """Begin to bring what was imported into the graph."""
    pool = privacy.postgres.pool.used_by("graph_imports")
    projection = ImportProjection(PostgresImportLog(pool), PostgresGraphWriter(pool))
    task = asyncio.create_task(follow(projection.run, "imports don't come into the graph"), name="graph-imports")
    stack.push_async_callback(cancel, [task])
    return projection


def add_interchange_service(
    config: Config,
    privacy: PrivacyParts,
    parts: Parts,
    server: RpcServer,
    *,
    imports: ImportProjection,
    mac: Callable[[bytes], bytes],
    classes: frozenset[str],
    reader: GraphReader,
    finder: VertexFinder,
) -> None:
    """Make the service and hand it to the server.

    Args:
        config: The process's.
        privacy: Protector, vault, keys.
        parts: Of the process.
        server: That serves it.
        imports: Brings the log into the graph.
        mac: Under the identity key.
        classes: Of personal data.
        reader: Of the graph.
        finder: Finds vertices by name.
    """
    log = PostgresImportLog(privacy.postgres.pool.used_by("graph_imports"))
    importing = GraphImporting(
        ImportPorts(
            log,
            parts.journal,
            privacy.keys.protector,
            imports.catch_up,
            privacy.audit,
            parts.clock,
            mac,
            classes,
            draining=lambda: server.drain_signal.draining,
        )
    )
    parts.barriers.append(importing.sections.barrier)
    exporting = GraphExporting(ExportPorts(reader, log, finder, privacy.audit, _Opening(config, privacy, parts).open))
    readers: dict[str, ReaderFactory] = {STIX: partial(StixImport, mask_text=parts.mask_text), MISP: MispImport}
    server.add(
        SERVICE,
        interchange_service_pb2_grpc.add_InterchangeServiceServicer_to_server,
        InterchangeServicer(InterchangeUseCases(importing, exporting, readers), server.drain_signal, server.inflight),
        audits_itself=AUDITS_ITSELF,
    )


class _Opening:
    """Opens the values behind tokens, at the rate at which a caller may have them revealed."""

    def __init__(self, config: Config, privacy: PrivacyParts, parts: Parts) -> None:
        self._privacy = privacy
        self._journal = parts.journal
        self._wait_s = config.privacy_limits.vault_wait_s
        self._rates = CallerRates(config.privacy_limits, parts.clock)

    async def open(self, exporter: Curator, names: Sequence[TokenName]) -> Mapping[TokenName, str]:
        """See `exporting.Reveal`."""
        self._rates.take(exporter.actor, len(names))
        # What was imported a moment ago may still be on its way into the vault.
        await self._privacy.follower.wait_applied(self._journal.head().get(0, 0), self._wait_s)
        return await asyncio.to_thread(self._opened, await self._privacy.vault.get(names))

    def _opened(self, sealed: Mapping[TokenName, SealedValue]) -> dict[TokenName, str]:
        found: dict[TokenName, str] = {}
        for name, value in sealed.items():
            # It can't be read by anybody any more; such an entity is left out like one of an erased value.
            with contextlib.suppress(KeyDestroyedError, IntegrityError):
                found[name] = self._privacy.keys.keyring.open(value)
        return found
