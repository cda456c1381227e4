"""A bad network between the SDK and a real server, by the real toxiproxy: clients resume, nothing is lost or doubled.

That these tests see a client that gets it wrong is itself tested: on ones that are broken on purpose.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import numpy as np
import pytest

from heimdall.query.v1.query_service_pb2 import SearchResponse
from heimdall_client import RpcError
from heimdall_client.append_protocol import AppendProtocol
from heimdall_client.backoff import Backoff
from heimdall_client.search import AsyncSearch
from heimdall_client.sync_client import Client
from heimdall_client.watch_state import Rows, WatchState
from tests.support.kill_load import Load, Writer, check_exactly_once, lines
from tests.support.server_process import ServerProcess, server_process
from tests.support.toxiproxy import Proxy, Toxiproxy

pytestmark = [pytest.mark.testbed, pytest.mark.timeout(120)]

WAIT_S: Final = 40.0
SEARCHED: Final = 40_000
WATCHED: Final = 50
_FIRST: Final = itertools.count(1_000_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Network:
    """A server and the bad ways to its two ports."""

    server: ServerProcess
    mesh: Proxy
    otlp: Proxy
    client: Client
    """The SDK, through the proxy, impatient."""
    direct: Client
    """The SDK, past it."""

    @property
    def both(self) -> tuple[Proxy, Proxy]:
        return self.mesh, self.otlp


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that soon asks silent connections for a sign of life, and lets clients ask often."""
    folder = tmp_path_factory.mktemp("network")
    with server_process(
        folder, LIMITS__KEEPALIVE_S="2", LIMITS__KEEPALIVE_TIMEOUT_S="2", LIMITS__CLIENT_PING_INTERVAL_S_MIN="0.2"
    ) as running:
        yield running


@pytest.fixture
def network(toxiproxy: Toxiproxy, server: ServerProcess) -> Iterator[Network]:
    with ExitStack() as stack:
        mesh, otlp = (stack.enter_context(toxiproxy.proxy(to)) for to in (server.address, server.otlp_address))
        config = replace(server.client_config(), address=mesh.address, keepalive_s=1.0, keepalive_timeout_s=1.0)
        client = stack.enter_context(Client(config))
        yield Network(server, mesh, otlp, client, stack.enter_context(server.client()))


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {WAIT_S:g} s"
        time.sleep(0.02)


def _slow(network: Network, load: Load) -> None:
    """Far away, and unsteady."""
    for proxy in network.both:
        proxy.latency(150, jitter_ms=100, stream="upstream")
        proxy.latency(150, jitter_ms=100, stream="downstream")
        proxy.cut()
    load.wait_for_progress()
    load.wait_for_progress()


def _cut(network: Network, load: Load) -> None:
    for _ in range(3):
        for proxy in network.both:
            proxy.cut()
        load.wait_for_progress()
    with network.mesh.disabled(), network.otlp.disabled():
        _wait_for_retries(load, load.writers, 2)


def _reset(network: Network, load: Load) -> None:
    """In the middle of what goes through, both ways."""
    for stream in ("upstream", "downstream"):
        toxics = [(proxy, proxy.reset(after_ms=100, stream=stream)) for proxy in network.both]
        _wait_for_retries(load, load.writers, 2)
        for proxy, toxic in toxics:
            proxy.remove(toxic)
        load.wait_for_progress()


def _deaf(network: Network, load: Load) -> None:
    """Half open: what the clients send never arrives."""
    for proxy in network.both:
        proxy.silence(stream="upstream")
    _wait_for_retries(load, load.writers, 1)


def _mute(network: Network, load: Load) -> None:
    """Half open: everything arrives, and no answer comes back."""
    for proxy in network.both:
        proxy.silence(stream="downstream")
    _wait_for_retries(load, load.writers, 1)


def _narrow(network: Network, load: Load) -> None:
    """Slow writers and slow readers, in small pieces."""
    for proxy in network.both:
        proxy.bandwidth(1024, stream="upstream")
        proxy.slices(1500, delay_us=10, stream="upstream")
        proxy.bandwidth(8, stream="downstream")
        proxy.slices(50, delay_us=10, stream="downstream")
    load.wait_for_progress()
    load.wait_for_progress()


def _wait_for_retries(load: Load, writers: list[Writer], count: int) -> None:
    before = [writer.retry_count for writer in writers]
    load.wait_for(
        lambda: all(w.retry_count >= known + count for w, known in zip(writers, before, strict=True)),
        "every writer notices",
    )


@pytest.mark.parametrize("spoil", [_slow, _cut, _reset, _deaf, _mute, _narrow])
def test_appends_and_exports_come_through_exactly_once(
    network: Network, spoil: Callable[[Network, Load], None]
) -> None:
    _append_and_export(network, spoil, spoil.__name__.strip("_"))


def _append_and_export(network: Network, spoil: Callable[[Network, Load], None], name: str) -> None:
    with Load(
        network.server,
        network.client,
        appender_count=1,
        users=("admin",),
        name=name,
        first_number=next(_FIRST),
        otlp_address=network.otlp.address,
        export_timeout_s=3.0,
    ) as load:
        load.wait_for_progress()
        spoil(network, load)
        for proxy in network.both:
            proxy.heal()
        load.wait_for_progress()
        load.finish()
        load.check_durable()
        load.check_exactly_once(network.direct)


def test_a_server_far_away_is_reached_at_once(network: Network) -> None:
    # A TLS handshake takes three round trips: a client that gives each try less would never get through.
    network.mesh.latency(400)
    network.client.status()


@pytest.fixture(scope="module")
def searched(server: ServerProcess) -> str:
    """Records to search, as a question."""
    with server.client() as client, client.ingester("network/searched", format="ndjson") as ingester:
        ingester.write(lines(range(SEARCHED)))
        ingester.finish(timeout_s=WAIT_S)
        found = client.search("source:network/searched | stats count()", consistent=True)
        assert next(iter(found))["count"] == SEARCHED
    return "source:network/searched | fields n, body"


def _check_searched(numbers: list[str]) -> None:
    check_exactly_once(np.array(numbers, np.int64), SEARCHED, "network/searched")


def _searching(network: Network, question: str, spoil: Callable[[], object]) -> list[str]:
    """Read an answer; spoil the network when the first batch is here."""
    numbers: list[str] = []
    with network.client.search(question, limit=SEARCHED) as search:
        batches = search.batches()
        numbers += next(batches).column("n").to_pylist()
        spoil()
        for batch in batches:
            numbers += batch.column("n").to_pylist()
    return numbers


def test_an_answer_goes_on_after_each_of_many_cuts(
    network: Network, searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks: list[Exception] = []
    next_delay_s = Backoff.next_delay_s

    def counted(self: Backoff, error: Exception) -> float:
        breaks.append(error)
        return next_delay_s(self, error)

    monkeypatch.setattr(Backoff, "next_delay_s", counted)
    _search_over_cuts(network, searched)
    assert len(breaks) > 1


def _search_over_cuts(network: Network, question: str) -> None:
    # Each connection carries a few batches at most: only by its token does the search ever come to an end. It is narrow, so that a
    # busy client has read some of them before the cut: what a broken stream still holds, gRPC throws away.
    network.mesh.bandwidth(4096)
    _check_searched(_searching(network, question, lambda: network.mesh.cut_after(3 << 20)))


def _search_over_a_cut(network: Network, question: str) -> None:
    network.mesh.bandwidth(4096)  # so that the rest of it isn't here yet
    _check_searched(_searching(network, question, network.mesh.renew))


def test_an_answer_goes_on_after_its_connection_fell_silent(network: Network, searched: str) -> None:
    healing = threading.Timer(2.5, network.mesh.heal)

    def spoil() -> None:
        network.mesh.silence()
        healing.start()

    _check_searched(_searching(network, searched, spoil))
    healing.join()


def test_an_answer_comes_through_a_narrow_and_slow_network(network: Network, searched: str) -> None:
    def spoil() -> None:
        network.mesh.latency(30, jitter_ms=20)
        network.mesh.bandwidth(4096)
        network.mesh.slices(1500, delay_us=10)

    _check_searched(_searching(network, searched, spoil))


def test_an_answer_without_an_order_to_resume_by_fails_clearly(network: Network, searched: str) -> None:
    def spoil() -> None:
        network.mesh.disable()

    network.mesh.bandwidth(2048)  # so that the rest of it isn't here yet
    with pytest.raises(RpcError) as caught:
        _searching(network, f"{searched} | sort n", spoil)
    assert caught.value.retryable


WATCH_FAULTS: Final[dict[str, Callable[[Proxy], object]]] = {
    "cut": Proxy.cut,
    "reset": lambda proxy: proxy.reset(after_ms=50),
    "deaf": lambda proxy: proxy.silence(stream="upstream"),
    "mute": lambda proxy: proxy.silence(stream="downstream"),
    "slow": lambda proxy: proxy.latency(200, jitter_ms=150),
}


@pytest.mark.parametrize("fault", WATCH_FAULTS)
def test_a_watch_shows_each_record_once(network: Network, fault: str) -> None:
    _watch(network, fault, f"network/watched-{fault}")


def _watch(network: Network, fault: str, source: str) -> None:
    mesh = network.mesh
    numbers: list[int] = []
    breaks: list[Exception] = []
    done = threading.Event()

    def follow() -> None:
        watch = network.client.watch(
            f"source:{source} | fields n",
            since=timedelta(minutes=1),
            on_retry=lambda error, _delay_s: breaks.append(error),
        )
        for event in watch:
            if isinstance(event, Rows):
                numbers.extend(int(row["n"]) for row in event.rows)
            if done.is_set() or len(numbers) >= 4 * WATCHED:
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    with network.direct.ingester(source, format="ndjson") as ingester:
        for part in range(4):
            ingester.write(lines(range(part * WATCHED, (part + 1) * WATCHED)))
            ingester.flush()
            if part == 0:
                _until(lambda: len(numbers) >= WATCHED, "the first rows")
            elif part == 1:
                breaks.clear()
                WATCH_FAULTS[fault](mesh)
                if fault != "slow":
                    _until(lambda: bool(breaks), "a break")
                mesh.heal()
    follower.join(WAIT_S)
    done.set()
    assert not follower.is_alive(), f"only {len(numbers)} rows came"
    check_exactly_once(np.array(numbers), 4 * WATCHED, source)


def _takes_what_it_sent_for_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    disconnect = AppendProtocol.disconnect

    def let_go(self: AppendProtocol) -> None:
        self._buffer.release(self._sent)
        disconnect(self)

    monkeypatch.setattr(AppendProtocol, "disconnect", let_go)


def _searches_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    one_stream = AsyncSearch._one_stream

    def begin_again(self: AsyncSearch) -> AsyncGenerator[SearchResponse.Batch, None]:
        self._token = b""
        return one_stream(self)

    monkeypatch.setattr(AsyncSearch, "_one_stream", begin_again)


def _takes_a_break_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    one_stream = AsyncSearch._one_stream

    async def end(self: AsyncSearch) -> AsyncGenerator[SearchResponse.Batch, None]:
        with contextlib.suppress(RpcError):
            async for batch in one_stream(self):
                yield batch

    monkeypatch.setattr(AsyncSearch, "_one_stream", end)


def _watches_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchState, "_take_token", lambda self, watch_id, _token: self._watches.get(watch_id))


@pytest.mark.parametrize(
    ("spoil", "use", "verdict"),
    [
        (
            _takes_what_it_sent_for_durable,
            lambda network, _: _append_and_export(network, _cut, "moved"),
            "SourceMovedError",
        ),
        (_searches_from_the_start, _search_over_a_cut, "are there twice"),
        (_takes_a_break_for_the_end, _search_over_a_cut, "are lost"),
        (_watches_from_the_start, lambda network, _: _watch(network, "cut", "network/again"), "are lost|there twice"),
    ],
)
def test_a_client_is_found_out_that(
    network: Network,
    searched: str,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    use: Callable[[Network, str], None],
    verdict: str,
) -> None:
    spoil(monkeypatch)
    with pytest.raises(AssertionError, match=verdict):
        use(network, searched)
