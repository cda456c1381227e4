"""uvicorn's HTTP/1.1 protocol with what a server that faces strangers needs besides.

It puts the client's certificate into the scope (ASGI's TLS extension, which uvicorn leaves out), bounds a request's
head, and gives a client only so long for a head and for a body. Waiting between requests is uvicorn's own timer.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from heimdall_server.edge.http import metrics

_PIPELINED_MAX: Final = 16
"""Requests that one connection may have sent ahead: each holds memory, and nobody knows yet who sends them."""
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ProtocolLimits:
    """What one connection may do."""

    head_bytes_max: int
    head_s: float
    body_s: float


class EdgeProtocol(HttpToolsProtocol):
    """One connection. See the module."""

    def __init__(
        self, config: Config, state: ServerState, limits: ProtocolLimits, on_closed: Callable[[], None]
    ) -> None:
        super().__init__(config, state, {})
        self._limits = limits
        self._on_closed = on_closed
        self._leaf_pem: str | None = None
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        metrics.CONNECTIONS.inc()
        secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        der = secured.getpeercert(binary_form=True) if secured is not None else None
        self._leaf_pem = None if der is None else ssl.DER_cert_to_PEM_cert(der)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        metrics.CONNECTIONS.dec()
        self._on_closed()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        # Between requests anything may come that begins none (line ends): a timer must run all the same.
        idle = self.timeout_keep_alive_task is None and self._timer is None
        if idle and (self.cycle is None or self.cycle.response_complete):
            self._await_head()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_bytes = 0
        self._await_head()
        chain: list[str] = [] if self._leaf_pem is None else [self._leaf_pem]
        self.scope["extensions"] = {"tls": {"client_cert_chain": chain}}

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        if self._count_head(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._count_head(len(name) + len(value)):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        if self.transport.is_closing():
            return
        if len(self.pipeline) >= _PIPELINED_MAX:
            self.transport.abort()
            return
        self._start_timer(self._limits.body_s, self._body_is_late)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is whole."""
        self._stop_timer()
        if not self.transport.is_closing():
            super().on_message_complete()

    def _count_head(self, size: int) -> bool:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes_max and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        return not self.transport.is_closing()

    def _await_head(self) -> None:
        self._start_timer(self._limits.head_s, self._head_is_late)

    def _head_is_late(self) -> None:
        metrics.TIMEOUT_HEAD.inc()
        self.transport.abort()

    def _body_is_late(self) -> None:
        metrics.TIMEOUT_BODY.inc()
        self.transport.abort()

    def _start_timer(self, seconds: float, late: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
