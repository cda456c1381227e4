"""Crowds at the door of a real server: thousands that say nothing, hundreds of handshakes, a hundred writers at once."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from heimdall_client import AsyncClient, ClientConfig, IngestOptions
from tests.support.kill_load import check_exactly_once, lines
from tests.support.server_process import ServerProcess, server_process

SILENT: Final = 5_000
HELLOS: Final = 500
"""Of the silent ones, those that say hello first."""
HANDSHAKES: Final = 1_000
HANDSHAKES_PER_S: Final = 200
HANDSHAKES_AT_ONCE: Final = 50
WRITERS: Final = 100
WRITER_RECORDS: Final = 600
MIB: Final = 1024 * 1024
WAIT_S: Final = 40.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * SILENT
    if hard != resource.RLIM_INFINITY and hard < 2 * needed:  # the server wants some for its other port, too
        pytest.skip(f"{hard} open files are too few for {SILENT} connections at both ends")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        with server_process(tmp_path_factory.mktemp("crowd"), LIMITS__HANDSHAKE_S="4") as running:
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _hello() -> bytes:
    """What a client sends first."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1").do_handshake()
    return outgoing.read()


@contextlib.contextmanager
def _crowd(address: str, count: int = SILENT) -> Iterator[list[socket.socket]]:
    """Connections that say nothing, and some that fall silent behind their hello."""
    host, _, port = address.rpartition(":")
    hello = _hello()
    with contextlib.ExitStack() as stack:
        crowd = []
        for number in range(count):
            one = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if number < HELLOS:
                one.sendall(hello)
            crowd.append(one)
        yield crowd


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {WAIT_S:g} s"
        time.sleep(0.05)


def test_thousands_that_say_nothing_keep_nobody_out_and_are_sent_away(server: ServerProcess) -> None:
    process = psutil.Process(server.pid)
    with server.client() as known:
        known.status()
        before, memory = process.num_fds(), process.memory_info().rss
        with _crowd(server.address):
            _until(lambda: process.num_fds() > SILENT // 2, "most of the crowd is in")
            for _ in range(5):
                known.status()
                with server.client() as newcomer:
                    newcomer.status()
            assert process.num_fds() < before + SILENT + 100
            # They still hold their ends: it is the server that gives its own up.
            _until(lambda: process.num_fds() < before + 50, "the crowd is sent away")
        known.status()
    assert process.memory_info().rss - memory < 600 * MIB


async def test_hundreds_of_handshakes_a_second_are_all_served_in_flat_memory(server: ServerProcess) -> None:
    process = psutil.Process(server.pid)
    at_once = asyncio.Semaphore(HANDSHAKES_AT_ONCE)
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = server.credentials()

    async def visit() -> None:
        async with at_once, grpc.aio.secure_channel(server.address, credentials, options=options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def visits(count: int) -> int:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(visit())
                await asyncio.sleep(1 / HANDSHAKES_PER_S)
        return int(process.memory_info().rss)

    warm = await visits(HANDSHAKES // 3)
    before = process.num_fds()
    grown = await visits(HANDSHAKES) - warm
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB more after {HANDSHAKES} connections"
    deadline_s = time.monotonic() + WAIT_S
    while process.num_fds() > before + 20:
        assert time.monotonic() < deadline_s, "connections that were hung up stay open"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def _clients(server: ServerProcess, count: int) -> AsyncIterator[list[AsyncClient]]:
    """Clients with connections of their own, of two principals in turn."""
    async with contextlib.AsyncExitStack() as stack:
        configs: list[ClientConfig] = [server.client_config(name) for name in ("admin", "writer")]
        yield [await stack.enter_async_context(AsyncClient(configs[number % 2])) for number in range(count)]


@pytest.mark.parametrize("connections", [4, WRITERS])
async def test_a_hundred_writers_at_once_are_all_served_fairly(server: ServerProcess, connections: int) -> None:
    # Everyone writes until everyone was acknowledged something: whom the server starves keeps all of them.
    served: Counter[int] = Counter()
    written: Counter[int] = Counter()
    deadline_s = time.monotonic() + WAIT_S

    async def write(number: int, client: AsyncClient) -> None:
        source = f"crowd-{connections}/{number}"
        options = IngestOptions(give_up_after_s=WAIT_S)
        async with client.ingester(source, format="ndjson", options=options) as ingester:
            while written[number] < WRITER_RECORDS or len(served) < WRITERS:
                assert time.monotonic() < deadline_s, f"only {len(served)} writers were served"
                first, written[number] = written[number], written[number] + WRITER_RECORDS // 3
                await ingester.write(lines(range(first, written[number])))
                await ingester.flush()
                served[number] += 1
            summary = await ingester.finish(timeout_s=WAIT_S)
        assert (summary.accepted_count, summary.rejected_count) == (written[number], 0)

    async with _clients(server, connections) as clients, asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(write(number, clients[number % connections]))
    question = f"source:crowd-{connections}/* | fields source, n"
    async with AsyncClient(server.client_config()) as client:
        table = await client.search(question, consistent=True, limit=500_000).to_arrow()
    sources = np.array(table.column("source").to_pylist())
    numbers = np.asarray(table.column("n").to_numpy(), np.int64)
    for number in range(WRITERS):
        source = f"crowd-{connections}/{number}"
        check_exactly_once(numbers[sources == source], written[number], source)


def test_a_crowd_is_bounded_by_the_limit(tmp_path: Path) -> None:
    with server_process(tmp_path, LIMITS__CONNECTIONS_MAX="100", LIMITS__HANDSHAKE_S="2") as small:
        process = psutil.Process(small.pid)
        with small.client() as known:
            known.status()
            before = process.num_fds()
            with _crowd(small.address, 1000):
                known.status()
                assert process.num_fds() <= before + 110
                _until(lambda: process.num_fds() < before + 20, "the crowd is sent away")
            with small.client() as newcomer:
                newcomer.status()
