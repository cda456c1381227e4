from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from heimdall_client import (
    AsyncClient,
    AsyncWatches,
    Cancelled,
    Created,
    GaveUpError,
    Progress,
    QueryInvalidError,
    Rows,
)
from tests.support.pki import Pki
from tests.support.sdk_server import FakeServer, client_config


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[FakeServer]:
    async with FakeServer(pki) as running:
        yield running


@pytest.fixture
async def client(server: FakeServer, pki: Pki) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(client_config(pki, address=server.address)) as connected:
        yield connected


async def bodies(watches: AsyncWatches, count: int, watch_id: str = "w") -> list[str]:
    """The next rows of a watch."""
    found: list[str] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            event = await anext(watches)
            if isinstance(event, Rows) and event.watch_id == watch_id:
                found += [row["body"] for row in event.rows]
    return found


async def started(watches: AsyncWatches) -> None:
    """Read up to the first token."""
    async with asyncio.timeout(10):
        while not isinstance(await anext(watches), Progress):
            pass


async def test_history_comes_first_then_what_arrives(server: FakeServer, client: AsyncClient) -> None:
    server.query.arrive("error 0", "info 1", "error 2", "error 3")
    events = client.watch("error", last=2, encoding="json")
    assert isinstance(await anext(events), Created)
    server.query.arrive("error 4")
    found: list[str] = []
    async for event in events:
        if isinstance(event, Rows):
            found += [row["body"] for row in event.rows]
        if len(found) == 3:
            break
    await events.aclose()
    assert found == ["error 2", "error 3", "error 4"]


async def test_breaks_leave_no_gap_and_no_repeat(server: FakeServer, client: AsyncClient) -> None:
    server.query.watch_script.extend(["", "break", "", "lag", "break"])
    async with client.watches() as watches:
        await watches.add("error", watch_id="w", encoding="json")
        await started(watches)
        server.query.arrive(*(f"error {number}" for number in range(12)))
        assert await bodies(watches, 12) == [f"error {number}" for number in range(12)]
    assert not server.query.watch_script


async def test_break_before_the_first_row_costs_nothing(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("error", watch_id="w")
        await started(watches)
        await server.stop()
        server.query.arrive("error while away")
        await server.start()
        assert await bodies(watches, 1) == ["error while away"]


async def test_several_watches_share_a_stream(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("error", watch_id="e")
        await watches.add("info", watch_id="i")
        await started(watches)
        await started(watches)
        server.query.arrive("error 1", "info 1", "error info")
        found = {"e": 0, "i": 0}
        async with asyncio.timeout(10):
            while sum(found.values()) < 4:
                event = await anext(watches)
                if isinstance(event, Rows):
                    found[event.watch_id] += 1
        assert found == {"e": 2, "i": 2}
        assert len(server.query.inboxes) == 1
        with pytest.raises(ValueError, match="already"):
            await watches.add("x", watch_id="e")


async def test_update_changes_the_question_where_the_watch_is(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("error", watch_id="w")
        await started(watches)
        server.query.arrive("error 1")
        assert await bodies(watches, 1) == ["error 1"]
        await watches.update("w", "info")
        await started(watches)
        server.query.arrive("error 2", "info 3")
        assert await bodies(watches, 1) == ["info 3"]
        await server.stop()
        server.query.arrive("info 4")
        await server.start()
        assert await bodies(watches, 1) == ["info 4"]


async def test_update_that_a_break_swallowed_is_sent_again(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("error", watch_id="w")
        await started(watches)
        await server.stop()
        await watches.update("w", "info")
        server.query.arrive("info 1")
        await server.start()
        await started(watches)
        await started(watches)
        server.query.arrive("info 2")
        assert await bodies(watches, 1) == ["info 2"]
    sent = [request.WhichOneof("message") for request in server.query.watch_requests]
    assert sent == ["create", "progress", "create", "update", "progress", "progress"]


async def test_cancelled_watch_ends_the_iteration(client: AsyncClient) -> None:
    async with client.watches() as watches:
        watch_id = await watches.add("error")
        await started(watches)
        await watches.cancel(watch_id)
        events = [event async for event in watches]
        assert isinstance(events[-1], Cancelled)
        assert events[-1].error is None
        with pytest.raises(KeyError):
            watches.resume_token(watch_id)


async def test_question_that_is_none_ends_its_watch_only(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("bad", watch_id="b")
        await watches.add("error", watch_id="w")
        event = await anext(watches)
        assert isinstance(event, Cancelled)
        assert isinstance(event.error, QueryInvalidError)
        await started(watches)
        server.query.arrive("error 1")
        assert await bodies(watches, 1) == ["error 1"]


async def test_single_watch_raises_what_refused_it(client: AsyncClient) -> None:
    with pytest.raises(QueryInvalidError):
        await anext(client.watch("bad"))


async def test_token_of_an_earlier_watch_goes_on(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("error", watch_id="w")
        await started(watches)
        token = watches.resume_token("w")
    server.query.arrive("error between")
    async with client.watches() as watches:
        await watches.add("error", watch_id="w", resume_token=token)
        assert await bodies(watches, 1) == ["error between"]


async def test_cancelled_reader_loses_nothing(server: FakeServer, client: AsyncClient) -> None:
    async with client.watches() as watches:
        await watches.add("error", watch_id="w")
        await started(watches)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(watches), 0.1)
        server.query.arrive("error 1")
        assert await bodies(watches, 1) == ["error 1"]


async def test_watch_may_give_up(server: FakeServer, client: AsyncClient) -> None:
    told: list[float] = []
    watches = client.watches(give_up_after_s=0.3, on_retry=lambda _, delay_s: told.append(delay_s))
    async with watches:
        await watches.add("error")
        await started(watches)
        await server.stop()
        with pytest.raises(GaveUpError):
            await anext(watches)
    assert told
