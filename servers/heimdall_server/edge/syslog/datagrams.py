"""The UDP listener (RFC 5426): a datagram is a message, and whoever sends doesn't wait.

When the socket is readable it is read until it is empty or the loop has had enough of it; what came is collected for a
few milliseconds, octet-counted, by sender. Nothing can be held back, so what is over the bounds is dropped and counted,
and so is what the system dropped before we came to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from typing import Final

from heimdall_server.decode.syslog import OCTET
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.edge.syslog import metrics
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.connection import SOURCE, plain_address
from heimdall_server.edge.syslog.gate import Gate
from heimdall_server.edge.syslog.streams import address_of
from heimdall_server.rpc.server import split_address
from heimdall_server.services.ingest.logic.push import PushUseCase
from heimdall_server.services.ingest.logic.push_job import Origin, Push

LOG: Final = logging.getLogger(__name__)
_COLLECT_S: Final = 0.005
_BATCH_BYTES_MAX: Final = 256 * 1024
_READS_MAX: Final = 256
"""Datagrams read at one go; then the event loop sees to others (about a millisecond)."""
_DATAGRAM_BYTES_MAX: Final = 65_536
_SENDERS_MAX: Final = 4096
"""Senders with a source of their own: addresses are easily made up, and each source is remembered by the stores."""
_SENDERS_FORGOTTEN_S: Final = 3600.0
NAMELESS: Final = f"{SOURCE}udp"
OTHERS: Final = f"{SOURCE}other"
"""Source of what comes from more senders than that."""
_LINE_ENDS: Final = b"\r\n\0"
_LOG_EVERY_S: Final = 10.0
_DRAIN_READ_S: Final = 1.0
_SO_MEMINFO: Final = 55
"""Linux: what the kernel knows of a socket's memory, as 32-bit numbers; the ninth counts what it dropped."""
_MEMINFO: Final = struct.Struct("9I")


class DatagramListener:
    """See the module."""

    def __init__(self, config: SyslogConfig, *, gate: Gate, push: PushUseCase) -> None:
        self.address = config.udp_address
        """Where it listens, with the port it really got once started."""
        self._config = config
        self._gate = gate
        self._push = push
        self._socket: socket.socket | None = None
        self._batch: dict[str, list[bytes]] = {}
        self._batch_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._origins: dict[str, Origin] = {}
        self._forget_s = time.monotonic() + _SENDERS_FORGOTTEN_S
        self._system_drops = 0
        self._dropped_count = self._logged_count = 0
        self._log_s = 0.0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address can't be had.
        """
        host, port = split_address(self.address)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, place = found[0]
            listener = socket.socket(family, kind, protocol)
            self._socket = listener
            listener.settimeout(0)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._config.udp_buffer_bytes)
            listener.bind(place)
        except OSError as error:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            problem = f"syslog: can't listen on {self.address}: {error.strerror or error}"
            raise ConfigurationError((problem,)) from error
        self.address = address_of(listener)
        asyncio.get_running_loop().add_reader(listener, self._readable)

    def _readable(self) -> bool:
        """Read what is there; returns whether all of it was."""
        listener = self._socket
        if listener is None:
            return True
        batch = self._batch
        size = count = 0
        emptied = False
        try:
            for _ in range(_READS_MAX):
                data, peer = listener.recvfrom(_DATAGRAM_BYTES_MAX)
                count += 1
                size += len(data)
                data = data.rstrip(_LINE_ENDS)
                if data:
                    batch.setdefault(peer[0], []).append(b"%d %b" % (len(data), data))
        except (BlockingIOError, InterruptedError):
            emptied = True
        except OSError as error:
            # An ICMP answer to something else than ours; nothing was read.
            LOG.warning("syslog datagram not read", extra={"problem": error.strerror or str(error)})
        metrics.DATAGRAMS.inc(count)
        metrics.RECEIVED.labels("udp").inc(size)
        self._batch_bytes += size
        if self._batch_bytes >= _BATCH_BYTES_MAX:
            self._flush()
        elif batch and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_COLLECT_S, self._flush)
        return emptied

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        for host, messages in batch.items():
            origin = self._origins.get(host) or self._origin_of(host)
            if self._gate.full:
                self._drop("bound", len(messages))
            elif self._gate.full_of(origin.sender):
                self._drop("sender_bound", len(messages))
            else:
                push = Push(origin, OCTET, b"".join(messages), self._gate.release)
                self._gate.add(push)
                self._push.offer(push)

    def _origin_of(self, host: str) -> Origin:
        address = plain_address(host)
        if not self._config.name_by_address:
            return Origin(NAMELESS, address)
        if len(self._origins) >= _SENDERS_MAX:
            return Origin(OTHERS, address)
        origin = self._origins[host] = Origin(SOURCE + address, address)
        return origin

    def _drop(self, reason: str, count: int) -> None:
        metrics.DROPPED.labels(reason).inc(count)
        self._dropped_count += count
        now_s = time.monotonic()
        if now_s >= self._log_s:
            self._log_s = now_s + _LOG_EVERY_S
            news, self._logged_count = self._dropped_count - self._logged_count, self._dropped_count
            LOG.warning("syslog datagrams dropped", extra={"reason": reason, "count": news})

    def check(self) -> None:
        """Once in a while: count what the system dropped, forget senders."""
        if self._socket is None:
            return
        now_s = time.monotonic()
        if now_s >= self._forget_s:
            self._origins.clear()
            self._forget_s = now_s + _SENDERS_FORGOTTEN_S
        with contextlib.suppress(OSError, struct.error):
            dropped = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1]
            # The kernel's counter has 32 bits.
            news = (dropped - self._system_drops) & 0xFFFF_FFFF
            self._system_drops = dropped
            if news:
                self._drop("system", news)

    async def drain(self) -> None:
        """Read what has arrived already, and close."""
        listener = self._socket
        if listener is None:
            return
        asyncio.get_running_loop().remove_reader(listener)
        deadline_s = time.monotonic() + _DRAIN_READ_S
        emptied = self._readable()
        while not emptied and time.monotonic() < deadline_s:
            await asyncio.sleep(0)
            emptied = self._readable()
        self._flush()
        self.check()
        self._socket = None
        listener.close()
