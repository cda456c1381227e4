"""One syslog connection: what is read is framed and offered; reading stops while too much of its sender's is held."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from typing import Final, Protocol, cast

from heimdall_server.domain.errors import HeimdallError, PermissionDeniedError
from heimdall_server.edge.syslog import metrics
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.framing import Framer, Piece
from heimdall_server.edge.syslog.gate import Gate
from heimdall_server.edge.syslog.tls import SyslogTls
from heimdall_server.services.ingest.logic.push import PushUseCase
from heimdall_server.services.ingest.logic.push_job import Origin, Push

LOG: Final = logging.getLogger(__name__)
SOURCE: Final = "syslog/"
_KEEPALIVE_S: Final = 60


class Door(Protocol):
    """The listener, as its connections see it."""

    transport: str
    """`tls` or `tcp`."""
    config: SyslogConfig
    gate: Gate
    push: PushUseCase
    tls: SyslogTls | None

    def admit(self, connection: Connection) -> str:
        """Count it; returns why it can't be, if so."""

    def gone(self, connection: Connection) -> None:
        """It is over."""


class Connection(asyncio.Protocol):
    """See the module."""

    def __init__(self, door: Door) -> None:
        self.address = ""
        """Of the other end, without the port."""
        self.last_s = time.monotonic()
        """When something came."""
        self.read_bytes = 0
        self.paused = False
        """It isn't read from for a while."""
        self._door = door
        self._origin: Origin | None = None
        self._framer = Framer()
        self._early = bytearray()
        """What came before the other end was known."""
        self._transport: asyncio.Transport | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._unfinished_since_s = 0.0
        self._over = self._counted = False

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that isn't complete."""
        return self._framer.held_bytes + len(self._early)

    def unfinished_s(self, now_s: float) -> float:
        """How long it has held a message that isn't complete."""
        return now_s - self._unfinished_since_s if self.held_bytes and not self.paused else 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = plain_address(peer[0]) if peer else ""
        refusal = self._door.admit(self)
        if refusal:
            self.end(refusal)
            return
        self._counted = True
        _keep_alive(transport.get_extra_info("socket"))
        if self._door.tls is None:
            self._origin = self._nameless()
        else:
            self._transport.pause_reading()
            self._handshake = asyncio.get_running_loop().create_task(self._secure(self._door.tls))

    async def _secure(self, tls: SyslogTls) -> None:
        """Shake hands and find out who it is."""
        plain = self._transport
        if plain is None:
            return
        config = self._door.config
        try:
            secured = await asyncio.get_running_loop().start_tls(
                plain, self, tls.context(), server_side=True, ssl_handshake_timeout=config.handshake_s
            )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            if not self._over:
                metrics.REFUSED.labels("handshake").inc()
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                LOG.warning("syslog handshake failed", extra={"peer": self.address, "problem": reason})
            self._finish()
            return
        if secured is None or self._over:
            self._finish()
            return
        self._transport = secured
        connection: ssl.SSLObject = secured.get_extra_info("ssl_object")
        try:
            principal = tls.principal_of(connection, peer=self.address)
        except HeimdallError as error:
            kind = "permission" if isinstance(error, PermissionDeniedError) else "certificate"
            LOG.warning("syslog sender refused", extra={"peer": self.address, "problem": str(error)})
            self.end(kind)
            return
        if principal is None:
            self._origin = self._nameless()
        else:
            self._origin = Origin(SOURCE + principal.name, self.address, principal.uri)
        early, self._early = bytes(self._early), bytearray()
        if early:
            self._take(early)

    def _nameless(self) -> Origin:
        name = self.address if self._door.config.name_by_address else self._door.transport
        return Origin(SOURCE + name, self.address)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.last_s = time.monotonic()
        self.read_bytes += len(data)
        metrics.RECEIVED.labels(self._door.transport).inc(len(data))
        if self._over:
            return
        if self._origin is None:
            self._early += data
            return
        self._take(data)

    def _take(self, data: bytes) -> None:
        held_before = self._framer.held_bytes
        pieces = self._framer.feed(data)
        if pieces or not held_before:
            self._unfinished_since_s = self.last_s
        self._offer(pieces)
        if self._linger is None and self._framer.holds_lines:
            delay_s = self._door.config.continuation_s
            self._linger = asyncio.get_running_loop().call_later(delay_s, self._flush)

    def _flush(self) -> None:
        self._linger = None
        self._offer(self._framer.flush())

    def _offer(self, pieces: list[Piece]) -> None:
        origin, door = self._origin, self._door
        if origin is None:
            return
        for piece in pieces:
            push = Push(origin, piece.framing, piece.payload, door.gate.release, piece.problem)
            door.gate.add(push)
            door.push.offer(push)
        if not self.paused and not self._over and (door.gate.full or door.gate.full_of(origin.sender)):
            self.paused = True
            metrics.PAUSED.inc()
            if self._transport is not None:
                self._transport.pause_reading()
            door.gate.wait(origin.sender, self._resume)

    def _resume(self) -> None:
        self.paused = False
        self.last_s = self._unfinished_since_s = time.monotonic()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`: the transport closes itself."""
        return None

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - as `asyncio.Protocol`
        """See `asyncio.Protocol`."""
        self._finish()

    def end(self, reason: str = "") -> None:
        """Close it. What was read is offered.

        Args:
            reason: Why, for the metric; empty: the server goes away.
        """
        if reason:
            metrics.REFUSED.labels(reason).inc()
        self._finish()
        if self._transport is not None:
            # Not `close`: it would wait for the other end's goodbye, and there is nothing of ours to send.
            self._transport.abort()

    def _finish(self) -> None:
        if self._over:
            return
        if self._origin is None:
            self._early.clear()
        self._offer(self._framer.finish())
        self._over = True
        if self._linger is not None:
            self._linger.cancel()
        self._door.gate.forget(self._resume)
        if self._counted:
            self._door.gone(self)

    async def settled(self) -> None:
        """Wait for what is still under way of it."""
        if self._handshake is not None:
            self._handshake.cancel()
            await asyncio.wait([self._handshake])


def plain_address(host: str) -> str:
    """An address without what depends on how it was reached: an IPv4 one mapped into IPv6, a zone."""
    return host.partition("%")[0].removeprefix("::ffff:")


def _keep_alive(connection: socket.socket) -> None:
    """Have the system find out when the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _KEEPALIVE_S), ("TCP_KEEPINTVL", _KEEPALIVE_S // 4), ("TCP_KEEPCNT", 4)):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
