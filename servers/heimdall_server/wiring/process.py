"""One server process: built bottom up, run until a signal, taken down in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from heimdall_server.config import Config
from heimdall_server.rpc.metrics import MetricsServer
from heimdall_server.rpc.server import RpcServer, split_address
from heimdall_server.rpc.status_texts import mask_texts
from heimdall_server.services.query.logic.sets import SetFinder
from heimdall_server.wiring.parts import build
from heimdall_server.wiring.serving import make_export, make_http, make_syslog, serve
from heimdall_server.wiring.shutdown import drain

if TYPE_CHECKING:
    from heimdall_server.wiring.privacy import PrivacyParts

LOG: Final = logging.getLogger(__name__)


async def run(config: Config, config_files: Sequence[str], *, ready: asyncio.Event | None = None) -> None:
    """Run a server until SIGTERM or SIGINT; a second signal ends it at once.

    Args:
        config: Everything it needs to know.
        config_files: Where that was read from, for people.
        ready: Set when it serves.

    Raises:
        ConfigurationError, KeyMismatchError, CorruptionError, StoreError: It can't start; the sentence says why.
    """
    stopping = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts = await build(config, stack)
        mask_texts(parts.mask_text)
        privacy: PrivacyParts | None = None
        sets: SetFinder | None = None
        if parts.keys is not None:
            # Loaded where it is wanted, as in `parts`.
            from heimdall_server.wiring.graph import add_graph_services, graph_removal, open_graph
            from heimdall_server.wiring.privacy import add_privacy_service, open_privacy

            privacy = await open_privacy(config, parts.keys, parts, stack)
        audit = None if privacy is None else privacy.audit
        server = RpcServer(config.listen, parts.tls, config.access, limits=config.limits, audit=audit)
        export = make_export(config, parts)
        if privacy is not None:
            graph = open_graph(config, privacy, parts, stack) if "graph" in config.services else None
            sets = None if graph is None else graph.sets
            removal = graph_removal(config, privacy, parts, graph)
            projection = None if graph is None else graph.projection
            await add_privacy_service(config, privacy, parts, server, stack, removal, projection)
            if graph is not None:
                add_graph_services(config, privacy, graph, parts, server)
        instance = serve(config, config_files, parts, server, export, privacy, sets)
        instance.publish_gauges()
        if config.metrics_address:
            metrics = MetricsServer(*split_address(config.metrics_address))
            metrics.start()
            stack.callback(metrics.stop)
        await parts.warming
        await server.start()
        stack.push_async_callback(server.stop)
        http = make_http(config, parts, server, export)
        if http is not None:
            await http.start()
            stack.push_async_callback(http.stop)
        syslog = make_syslog(config, parts)
        stack.push_async_callback(syslog.drain)
        await syslog.start()
        for notice in instance.notices():
            LOG.warning("notice", extra={"notice": notice})
        LOG.info("started", extra={"services": list(config.services), "journal_id": parts.journal.journal_id})
        if ready is not None:
            ready.set()
        await stopping.wait()
        LOG.info("draining")
        await drain(server, syslog, parts.pipelines, parts.journal, parts.warm)
    LOG.info("stopped")


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            LOG.warning("second signal: leaving at once")
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping
