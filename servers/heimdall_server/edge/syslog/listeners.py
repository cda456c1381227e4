"""All syslog listeners of a process, and what they share: bounds, identities, the way to the journal."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.datagrams import DatagramListener
from heimdall_server.edge.syslog.gate import Gate
from heimdall_server.edge.syslog.streams import StreamListener
from heimdall_server.edge.syslog.tls import SyslogTls
from heimdall_server.ports.clock import Clock
from heimdall_server.rpc.identity import IdentityVerifier
from heimdall_server.rpc.permissions import AccessPolicy, Authorizer
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles
from heimdall_server.services.ingest.logic.pipeline import Pipeline
from heimdall_server.services.ingest.logic.push import PushOptions, PushUseCase
from heimdall_server.services.ingest.logic.state import Counts

LOG: Final = logging.getLogger(__name__)
CHECK_S: Final = 1.0


class SyslogEdge:
    """See the module. For one event loop."""

    def __init__(
        self,
        config: SyslogConfig,
        *,
        files: TlsFiles,
        tls_config: TlsConfig,
        access: AccessPolicy,
        pipeline: Pipeline,
        counts: Counts,
        clock: Clock,
        keep_raw: bool,
    ) -> None:
        """Prepare the listeners that the configuration asks for.

        Args:
            config: See there.
            files: The server's certificates, as they are in force.
            tls_config: Where they are.
            access: Who may do what.
            pipeline: The way to the journal.
            counts: Of the process.
            clock: Of the process.
            keep_raw: Whether bytes of what can't be decoded are kept.
        """
        self._config = config
        self.gate = Gate(bytes_max=config.inflight_bytes_max, sender_bytes_max=config.sender_bytes_max)
        options = PushOptions(config.dataset, config.zone, keep_raw, config.gather_s)
        self.push = PushUseCase(pipeline=pipeline, counts=counts, clock=clock, options=options)
        tls = SyslogTls(
            files,
            tls_config,
            verifier=IdentityVerifier(files),
            authorizer=Authorizer(access),
            required=config.client_certificate == "required",
        )
        self._listeners: dict[str, StreamListener | DatagramListener] = {}
        if config.tls_address:
            self._listeners["tls"] = StreamListener(config, config.tls_address, gate=self.gate, push=self.push, tls=tls)
        if config.tcp_address:
            self._listeners["tcp"] = StreamListener(
                config, config.tcp_address, gate=self.gate, push=self.push, tls=None
            )
        if config.udp_address:
            self._listeners["udp"] = DatagramListener(config, gate=self.gate, push=self.push)
        self._checking: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> dict[str, str]:
        """Transport → where it listens; after `start` with the ports it really got."""
        return {transport: listener.address for transport, listener in self._listeners.items()}

    async def start(self) -> None:
        """Listen; without any address nothing is started.

        Raises:
            ConfigurationError: An address can't be had.
        """
        if not self._listeners:
            return
        self.push.start()
        for listener in self._listeners.values():
            await listener.start()
        self._checking = asyncio.create_task(self._check(), name="syslog-check")
        LOG.info("syslog listening", extra={"addresses": self.addresses})

    async def drain(self) -> None:
        """Listen no more, and make durable what was read. Idempotent."""
        checking, self._checking = self._checking, None
        if checking is not None:
            checking.cancel()
            await asyncio.wait([checking])
        for listener in self._listeners.values():
            await listener.drain()
        await self.push.close(self._config.drain_s)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            for listener in self._listeners.values():
                listener.check()
