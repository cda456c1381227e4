"""The listener of the HTTP edge: accepts, shakes hands, and lets uvicorn's protocol serve the application.

Connections are accepted here and not by uvicorn's server, because a handshake holds memory before any limit of
uvicorn's counts it: at most `connections_max` connections exist, and the next one waits in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.config import HttpConfig
from heimdall_server.edge.http import metrics
from heimdall_server.edge.http.protocol import EdgeProtocol, ProtocolLimits
from heimdall_server.edge.http.tls import TlsContexts
from heimdall_server.rpc.limits import RpcLimits
from heimdall_server.rpc.server import split_address
from heimdall_server.rpc.tls_files import TlsFiles

_LOG: Final = logging.getLogger(__name__)
_BACKLOG: Final = 256
_ACCEPT_RETRY_S: Final = 0.1
"""After accepting failed: no descriptor was left, or the client is gone already."""
_SHUTDOWN_S: Final = 2.0
"""For the goodbye of TLS, and for connections to end at `stop`."""


class HttpServer:
    """Serves an ASGI application. For one event loop."""

    def __init__(self, address: str, app: Any, files: TlsFiles, config: HttpConfig, limits: RpcLimits) -> None:  # noqa: ANN401 - uvicorn's many kinds of application
        """Prepare a server.

        Args:
            address: `host:port`; port 0: any.
            app: The ASGI application.
            files: Its certificates.
            config: Its settings.
            limits: Of the edge as a whole: size of a head, time of a handshake.
        """
        self._wanted = split_address(address)
        self._contexts = TlsContexts(files, client_certificate=config.client_certificate)
        self._handshake_s = limits.handshake_s
        self._limits = ProtocolLimits(limits.metadata_bytes_max, config.head_s, config.body_s)
        self._uvicorn = Config(
            app,
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=round(config.idle_s),
        )
        self._state = ServerState()
        self._room = asyncio.Semaphore(config.connections_max)
        self._emptied = asyncio.Event()
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self.address = ""
        """Where it listens, with the port it really got; after `start`."""

    @property
    def connection_count(self) -> int:
        """Connections whose handshake is done."""
        return len(self._state.connections)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The port is taken, or the address isn't ours.
        """
        host, port = self._wanted
        self._contexts.current()
        try:
            self._socket = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
            )
        except OSError as error:
            problem = f"can't listen on {host}:{port}: {error.strerror or error}; is another server running there?"
            raise ConfigurationError((problem,)) from error
        self._socket.setblocking(False)  # noqa: FBT003 - the method's only argument
        got = self._socket.getsockname()[1]
        self.address = f"[{host}]:{got}" if ":" in host else f"{host}:{got}"
        self._accepting = asyncio.create_task(self._accept(self._socket), name="http-accept")
        _LOG.info("listening for HTTP", extra={"address": self.address})

    async def stop(self) -> None:
        """Close the port, let requests that are being served end, and close what is left. Idempotent."""
        accepting, self._accepting = self._accepting, None
        for task in (*self._greeting, *((accepting,) if accepting else ())):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for connection in list(self._state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_S):
                while self._state.tasks:
                    await asyncio.wait(set(self._state.tasks))
                if self._state.connections:
                    self._emptied.clear()
                    await self._emptied.wait()
        for request in set(self._state.tasks):
            request.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
        # An aborted connection tells its protocol in the loop's next round.
        await asyncio.sleep(0)

    def _closed(self) -> None:
        """A connection that was served is gone."""
        self._room.release()
        if not self._state.connections:
            self._emptied.set()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:
                self._room.release()
                _LOG.warning("can't accept a connection", extra={"problem": error.strerror or str(error)})
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            except BaseException:
                self._room.release()
                raise
            task = asyncio.create_task(self._greet(connection), name="http-handshake")
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket) -> None:
        """Shake hands; from then on the protocol holds the room, and gives it back."""
        protocol = EdgeProtocol(self._uvicorn, self._state, self._limits, self._closed)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._contexts.current(),
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except BaseException as error:
            if protocol.transport is None:
                self._room.release()
            if not isinstance(error, OSError):
                raise
            metrics.HANDSHAKES_FAILED.inc()
            _LOG.info("handshake failed", extra={"problem": str(error)})
