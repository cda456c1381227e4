"""A listener for connections, plain or TLS: who may connect, and which connections have gone bad."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from typing import Final

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.syslog import metrics
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.connection import Connection
from heimdall_server.edge.syslog.gate import Gate
from heimdall_server.edge.syslog.tls import SyslogTls
from heimdall_server.rpc.server import split_address
from heimdall_server.services.ingest.logic.push import PushUseCase

LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 1024
_DRAIN_PASS_S: Final = 0.02
_DRAIN_READ_S: Final = 1.0


class StreamListener:
    """See the module. A `Door`."""

    def __init__(
        self, config: SyslogConfig, address: str, *, gate: Gate, push: PushUseCase, tls: SyslogTls | None
    ) -> None:
        self.transport = "tcp" if tls is None else "tls"
        self.config = config
        self.gate = gate
        self.push = push
        self.tls = tls
        self.address = address
        """Where it listens, with the port it really got once started."""
        self._connections: set[Connection] = set()
        self._by_sender: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._draining = False
        self._gauge = metrics.CONNECTIONS.labels(self.transport)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address can't be had.
        """
        host, port = split_address(self.address)
        if self.tls is not None:
            self.tls.context()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self), host, port, backlog=_BACKLOG
            )
        except OSError as error:
            problem = f"syslog: can't listen on {self.address}: {error.strerror or error}"
            raise ConfigurationError((problem,)) from error
        self.address = address_of(self._server.sockets[0])

    def admit(self, connection: Connection) -> str:
        """See `Door`."""
        if self._draining or len(self._connections) >= self.config.connections_max:
            return "connections"
        if self._by_sender[connection.address] >= self.config.connections_per_sender_max:
            return "sender_connections"
        self._connections.add(connection)
        self._by_sender[connection.address] += 1
        self._gauge.inc()
        return ""

    def gone(self, connection: Connection) -> None:
        """See `Door`."""
        self._connections.discard(connection)
        self._by_sender[connection.address] -= 1
        if not self._by_sender[connection.address]:
            del self._by_sender[connection.address]
        self._gauge.dec()

    def check(self) -> None:
        """End connections that say nothing, never end what they say, or hold too much of it."""
        now_s = time.monotonic()
        for connection in list(self._connections):
            if connection.unfinished_s(now_s) > self.config.unfinished_s:
                self._end(connection, "unfinished")
            elif now_s - connection.last_s > self.config.idle_s and not connection.paused:
                self._end(connection, "idle")
        held = sum(connection.held_bytes for connection in self._connections)
        while held > self.config.inflight_bytes_max:
            largest = max(self._connections, key=lambda one: one.held_bytes)
            held -= largest.held_bytes
            self._end(largest, "memory")

    def _end(self, connection: Connection, reason: str) -> None:
        LOG.warning("syslog connection ended", extra={"peer": connection.address, "reason": reason})
        connection.end(reason)

    async def drain(self) -> None:
        """Accept nothing more, read what has arrived already, and close all connections."""
        self._draining = True
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        deadline_s = time.monotonic() + _DRAIN_READ_S
        before = -1
        while before != (now := sum(one.read_bytes for one in self._connections)) and time.monotonic() < deadline_s:
            before = now
            await asyncio.sleep(_DRAIN_PASS_S)
        open_ = list(self._connections)
        for connection in open_:
            connection.end()
        for connection in open_:
            await connection.settled()
        await server.wait_closed()


def address_of(listener: socket.socket) -> str:
    """`host:port` of a listener."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
