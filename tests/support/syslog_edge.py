"""Syslog listeners on a real journal, and senders of every kind; no store, since durability doesn't need one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from heimdall_server.crypto.certificate_files import key_path
from heimdall_server.domain.errors import JournalFullError
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.edge.syslog.listeners import SyslogEdge
from heimdall_server.ports.journal import Entry, Frame
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.rpc.server import split_address
from heimdall_server.rpc.tls_files import TlsConfig, TlsFiles
from heimdall_server.services.ingest.logic.pipeline import Pipeline, PipelineLimits
from heimdall_server.services.ingest.logic.state import IngestState
from heimdall_server.storage.journal.config import JournalConfig
from heimdall_server.storage.journal.journal import EmbeddedJournal
from heimdall_server.wiring.clock import SystemClock
from tests.support.journal import KEY
from tests.support.pki import TRUST_DOMAIN, Pki

WAIT_S = 20.0
LOOPBACK = "127.0.0.1:0"


@dataclass
class Faucet:
    """A real journal whose `append` can be held up, or refused a number of times."""

    journal: EmbeddedJournal
    open: asyncio.Event = field(default_factory=asyncio.Event)
    refusals_left: int = 0
    refused_count: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    async def append(self, entries: Sequence[Entry]) -> Sequence[int]:
        """As the journal's."""
        await self.open.wait()
        if self.refusals_left:
            self.refusals_left -= 1
            self.refused_count += 1
            raise JournalFullError(retry_after_s=0.5, bound="bytes_max")
        return await self.journal.append(entries)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)


@dataclass
class RunningEdge:
    """Listeners, and what came of what was sent to them."""

    edge: SyslogEdge
    faucet: Faucet
    state: IngestState
    pki: Pki
    tls_config: TlsConfig

    def place(self, transport: str) -> tuple[str, int]:
        """Where a transport is listened for."""
        return split_address(self.edge.addresses[transport])

    async def frames(self) -> list[Frame]:
        """Every frame of the journal."""
        journal = self.faucet.journal
        after, through = journal.tail()[0] - 1, journal.head()[0]
        return [frame async for frame in journal.read(0, after=after, through=through)]

    async def records(self) -> list[dict[str, Any]]:
        """Every record of the journal, in order."""
        rows: list[dict[str, Any]] = []
        for frame in await self.frames():
            if frame.entry.batch is not None:
                rows += frame.entry.batch.to_pylist()
        for row in rows:
            row["attributes"] = dict(row["attributes"])
        return rows

    async def record_count(self) -> int:
        """How many there are."""
        return sum(f.entry.batch.num_rows for f in await self.frames() if f.entry.batch is not None)

    async def letters(self) -> list[Any]:
        """Every dead letter of the journal."""
        return [letter for frame in await self.frames() for letter in frame.entry.dead_letters]

    async def bodies(self, count: int) -> list[str]:
        """The bodies of so many records, once they are there."""
        await eventually(lambda: self.state.counts.accepted >= count, f"{count} records, not {self.state.counts}")
        return [row["body"] for row in await self.records()]

    async def connect(self, transport: str = "tcp", client: str | None = "admin") -> asyncio.StreamWriter:
        """A connection.

        Args:
            transport: `tcp` or `tls`.
            client: Name in the certificate; None: none is shown.
        """
        host, port = self.place(transport)
        context = self.client_context(client) if transport == "tls" else None
        _, writer = await asyncio.open_connection(host, port, ssl=context)
        return writer

    async def send(self, data: bytes, transport: str = "tcp", client: str | None = "admin") -> None:
        """Send all of it on a connection of its own."""
        writer = await self.connect(transport, client)
        writer.write(data)
        await writer.drain()
        await closed(writer)

    def client_context(self, client: str | None, *, pki: Pki | None = None) -> ssl.SSLContext:
        """What a sender connects with.

        Args:
            client: Name in the certificate; None: none is shown.
            pki: Whose authority signed it, if not the server's.
        """
        context = ssl.create_default_context(cafile=str(self.pki.ca_file))
        context.check_hostname = False
        if client is not None:
            signer = pki or self.pki
            path = signer.write(f"syslog-{client}", signer.leaf(client))
            context.load_cert_chain(path, key_path(path))
        return context


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other end has made of it."""
    writer.close()
    try:
        await writer.wait_closed()
    except (OSError, ssl.SSLError):
        return


async def eventually(condition: Callable[[], bool], what: str = "", *, timeout_s: float = WAIT_S) -> None:
    """Wait until it is so."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110 - whatever it is, it sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"it didn't come to be: {what}") from None


def metric(name: str, **labels: str) -> float:
    """A metric of this process."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def syslog_edge(
    pki: Pki,
    folder: Path,
    config: SyslogConfig,
    *,
    pipeline_limits: PipelineLimits | None = None,
    access: AccessPolicy | None = None,
) -> AsyncIterator[RunningEdge]:
    """Running listeners on the journal in `folder`."""
    clock = SystemClock()
    journal_config = JournalConfig(
        path=folder / "journal", segment_bytes=8 << 20, bytes_max=1 << 30, retain_bytes=1 << 29, disk_reserve_bytes=0
    )
    async with AsyncExitStack() as stack:
        journal = await EmbeddedJournal.open(journal_config, key=KEY, clock=clock)
        stack.push_async_callback(journal.close)
        state = IngestState(source_count_max=100)
        await journal.maintain(state)
        faucet = Faucet(journal)
        pipeline = Pipeline(
            journal=faucet, protector=PolicyProtector(), clock=clock, limits=pipeline_limits or PipelineLimits()
        )
        pipeline.start()
        stack.push_async_callback(pipeline.close)
        tls_config = pki.tls_config(folder=f"syslog-{folder.name}")
        edge = SyslogEdge(
            config,
            files=TlsFiles(tls_config),
            tls_config=tls_config,
            access=access or AccessPolicy.default(TRUST_DOMAIN),
            pipeline=pipeline,
            counts=state.counts,
            clock=clock,
            keep_raw=True,
        )
        stack.push_async_callback(edge.drain)
        stack.callback(faucet.open.set)
        await edge.start()
        yield RunningEdge(edge, faucet, state, pki, tls_config)
