"""Watches by personal values: who may, and that every record is seen before, during and after an index key is rotated."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2

from heimdall_server.ports.audit import Act, AuditEntry
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.services.query.logic.matching import MatchLimits
from heimdall_server.services.query.logic.watch.meter import CostLimits
from heimdall_server.services.query.logic.watch.stream import WatchLimits
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.support.personal_server import ALICE, BOB, PersonalServer, personal_server
from tests.support.pki import Pki
from tests.support.query_client import Watching, values_of
from tests.support.query_server import SECOND_NS, TIME_NS

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAST = Duration(nanos=100_000_000)
LONG_AGO = Timestamp(seconds=TIME_NS // SECOND_NS - 1)


@pytest_asyncio.fixture(loop_scope="module")
async def server(pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine) -> AsyncIterator[PersonalServer]:
    async with personal_server(pki, tmp_path, chdb_engine, match_limits=MatchLimits(per_minute=2, burst=3)) as running:
        yield running


def numbers(watching: Watching, watch_id: str = "w") -> list[int]:
    return [row["record_number"] for row in watching.rows(watch_id)]


async def put(server: PersonalServer, number: int, *, of: str = ALICE, **columns: Any) -> None:
    """A record about somebody and one about nobody, not waited for."""
    bodies = [f"{number} login of {of}", f"{number} nothing"]
    await server.put(bodies, visible=False, record_number=[number, number], **columns)


async def test_a_watch_by_value_shows_history_and_what_comes_and_is_written_down_once(server: PersonalServer) -> None:
    await server.put([f"early {ALICE}", "early nobody"], record_number=[0, 1])
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE}", since_time=LONG_AGO)
        created = await watching.first("created")
        assert server.token("email", ALICE) in created.schema.canonical_text
        await watching.until_rows(1)
        await put(server, 2)
        await watching.until_rows(2)
        assert numbers(watching) == [0, 2]
    acts = await server.acts()
    assert [(act.action, act.outcome, act.details["method"]) for act in acts] == [
        ("privacy.match", "allowed", "heimdall.query.v1.QueryService/Watch")
    ]
    assert ALICE not in str(watching.messages)
    assert ALICE not in str(acts)


async def test_a_reader_is_refused_and_his_other_watches_go_on(server: PersonalServer) -> None:
    async with server.watching("reader") as watching:
        watching.create("plain", "login")
        watching.create("w", f"email:{ALICE}")
        refused = await watching.first("cancelled")
        assert refused.status.code == code_pb2.PERMISSION_DENIED
        assert "'privacy.match'" in refused.status.message
        await put(server, 1)
        await watching.until_rows(1, "plain")
        # Asking for it by an update is no way around.
        watching.update("plain", f"email:{ALICE}")
        refused = await watching.first("cancelled", "plain")
        assert refused.status.code == code_pb2.PERMISSION_DENIED
    assert {act.outcome for act in await server.acts()} == {"denied"}


async def test_too_many_values_end_the_watch_and_not_the_stream(server: PersonalServer) -> None:
    async with server.watching() as watching:
        watching.create("w", " OR ".join(f"email:a{number}@example.com" for number in range(2)))
        await watching.first("created")
        watching.update("w", " OR ".join(f"email:b{number}@example.com" for number in range(2)))
        refused = await watching.first("cancelled")
        assert refused.status.code == code_pb2.RESOURCE_EXHAUSTED
        watching.create("again", "email:a1@example.com")
        await watching.first("created", "again")


@pytest.mark.parametrize("start", ["live", "history", "last"])
async def test_records_of_every_epoch_are_seen_over_rotations(server: PersonalServer, start: str) -> None:
    await server.put([f"early {ALICE}"], record_number=[0])
    await server.keyring.new_epoch()
    await server.put([f"early {ALICE}"], record_number=[1])
    starts: dict[str, dict[str, Any]] = {"live": {}, "history": {"since_time": LONG_AGO}, "last": {"last_count": 1}}
    how = starts[start]
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE}", **how)
        watching.create("both", f"email:{ALICE} OR nothing", **how)
        watching.create("bob", f"email:{BOB}", **how)
        await watching.first("created", "bob")
        first = {"live": [], "history": [0, 1], "last": [1]}[start]
        await watching.until_rows(len(first))
        for number in range(2, 8):
            await put(server, number)
            await put(server, number, of=BOB)
            if number % 2:
                await server.keyring.new_epoch()
        await watching.until_rows(len(first) + 6)
        await watching.until_rows(6, "bob")
        await watching.until_rows(len(first) + 18, "both")
        assert numbers(watching) == [*first, *range(2, 8)]
        assert numbers(watching, "bob") == list(range(2, 8))
    assert [act.outcome for act in await server.acts()] == ["allowed"] * 3


async def test_records_that_were_made_right_behind_a_rotation_are_seen(server: PersonalServer) -> None:
    """The round that reads them has been told of the key, wherever it was when the key was made."""
    chance = random.Random(5)
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE}")
        watching.create("n", "login | stats count() as n", interval_duration=FAST)
        await watching.first("created", "n")
        for number in range(30):
            if chance.random() < 0.5:
                await server.keyring.new_epoch()
            await put(server, number)
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.03)))
        await watching.until_rows(30)
        assert numbers(watching) == list(range(30))


async def test_aggregates_keep_what_they_counted_when_a_key_is_made(server: PersonalServer) -> None:
    text = f"| where email:{ALICE} | stats count() as n by bucket(time, 1m), service"
    async with server.watching() as watching:
        watching.create("w", text, interval_duration=FAST)
        watching.create("all", f"email:{ALICE} | stats count() as n", interval_duration=FAST)
        await watching.first("created", "all")
        await put(server, 0, service="api")
        await watching.until(lambda: [row["n"] for row in watching.values("service").values()] == [1])
        await server.keyring.new_epoch()
        await put(server, 1, service="api")
        await put(server, 2, service="web")
        await watching.until(
            lambda: {key[0]: row["n"] for key, row in watching.values("service").items()} == {"api": 2, "web": 1}
        )
        await watching.until(lambda: [row["n"] for row in values_of(watching.of("aggregate", "all")).values()] == [3])


async def test_a_watch_is_resumed_over_a_rotation_and_by_nobody_who_may_not(server: PersonalServer) -> None:
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE}")
        await watching.first("created")
        await put(server, 0)
        await watching.until_rows(1)
        token = watching.of("rows")[-1].through
    await server.keyring.new_epoch()
    await put(server, 1)
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE}", resume_token=token)
        watching.create("other", f"email:{BOB}", resume_token=token)
        assert (await watching.first("cancelled", "other")).status.code == code_pb2.INVALID_ARGUMENT
        await put(server, 2)
        await watching.until_rows(2)
        assert numbers(watching) == [1, 2]
    async with server.watching("reader") as watching:
        watching.create("w", f"email:{ALICE}", resume_token=token)
        refused = await watching.first("cancelled")
        assert refused.status.code == code_pb2.PERMISSION_DENIED
        assert refused.through == token


async def test_a_watch_that_goes_apart_follows_the_keys_alone(
    pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine
) -> None:
    cost = CostLimits(share_together=0.0, together_burst_s=0.0, share_max=1e9)
    async with (
        personal_server(pki, tmp_path, chdb_engine, watch_limits=WatchLimits(cost=cost)) as server,
        server.watching() as watching,
    ):
        watching.create("w", f"email:{ALICE}")
        await watching.first("created")
        for number in range(6):
            await put(server, number)
            await watching.until_rows(number + 1)
            await server.keyring.new_epoch()
        assert numbers(watching) == list(range(6))


async def test_a_key_that_is_made_while_a_watch_begins_is_followed(
    server: PersonalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its question being read and its first look; those whom it joins have heard of the key before."""
    written, go_on, append = asyncio.Event(), asyncio.Event(), server.audit.append

    async def held(act: Act) -> AuditEntry:
        written.set()
        await go_on.wait()
        return await append(act)

    async with server.watching() as watching:
        watching.create("all", "* | stats count() as n", interval_duration=Duration(seconds=1))
        await watching.first("created", "all")
        await put(server, 0)
        monkeypatch.setattr(server.audit, "append", held)
        watching.create("n", f"email:{ALICE} | stats count() as n", interval_duration=FAST)
        watching.create("w", f"email:{ALICE}")
        await written.wait()
        await server.keyring.new_epoch()
        # A round in which nothing came: values were to be told.
        await watching.first("aggregate", "all")
        go_on.set()
        await watching.first("created")
        await put(server, 1)
        await watching.until_rows(1)
        await watching.first("aggregate", "n")
        assert numbers(watching) == [1]


async def test_a_policy_that_keeps_a_class_from_now_on_is_followed(server: PersonalServer) -> None:
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE} OR user:{ALICE}")
        await watching.first("created")
        await put(server, 0)
        await watching.until_rows(1)
        server.protector.replace(PrivacyPolicy(2, (PrivacyRule("keep", field="attributes.*"), PrivacyRule("tokenise"))))
        await server.put(["nothing"], visible=False, record_number=[1], attributes=[{"user": ALICE}])
        await watching.until_rows(2)
        assert numbers(watching) == [0, 1]


async def test_a_watch_by_value_goes_on_behind_an_erasure_and_ends_with_a_block(server: PersonalServer) -> None:
    async with server.watching() as watching:
        watching.create("w", f"email:{ALICE} OR email:{BOB}")
        watching.create("token", server.token("email", ALICE))
        await watching.first("created", "token")
        await put(server, 0)
        await watching.until_rows(1)
        # As if the next frame had been on its way when the value was erased.
        server.erase(ALICE, through=server.query.journal.head()[0] + 1)
        for number in (1, 2):
            await put(server, number)
        await watching.until_rows(2)
        server.erase(ALICE, through=0, blocked=True)
        await put(server, 3)
        await put(server, 4, of=BOB)
        await watching.until_rows(3)
        assert numbers(watching) == [0, 2, 4]
        await watching.until_rows(4, "token")
        assert numbers(watching, "token") == [0, 1, 2, 3]


async def test_a_watch_of_a_network_sees_addresses_of_every_epoch(server: PersonalServer) -> None:
    async with server.watching() as watching:
        watching.create("w", "ip:10.1.2.0/24")
        await watching.first("created")
        for number in range(4):
            await server.put(["from 10.1.2.9", "from 10.1.3.9"], visible=False, record_number=[number, 99])
            await server.keyring.new_epoch()
        await watching.until_rows(4)
        assert numbers(watching) == list(range(4))
