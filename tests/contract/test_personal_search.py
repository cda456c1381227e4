"""Records that were protected with tokens are found by the values that stood in them, in a real store, however the values are spelt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from heimdall_server.domain.expression.tree import Query
from heimdall_server.domain.records import with_position
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.storage.clickhouse.connection import Engine
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.remote import RemoteEngine, ServerAddress
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from tests.support.clickhouse_http import served
from tests.support.log_stores import TIME_NS, asked, fill, opened_store, rows_of
from tests.support.personal_search import Search, keyring
from tests.unit.protect.reference import batch_of

RECORDS: Sequence[dict[str, Any]] = (
    {"body": "mail from Alice@Example.com to the queue failed"},
    {"body": "login", "attributes": {"mail": "alice@EXAMPLE.com"}},
    {"body": '{"user":{"email":"alice@example.com"},"ok":true}'},
    {"body": "nothing", "resource": {"owner": "for alice@example.com only"}},
    {"body": "nothing", "service": "alice@example.com"},
    {"body": "nothing", "attributes": {"alice@example.com": "admin"}},
    {"body": "mail from bob@example.com to the queue failed"},
    {"body": "called +49 151 12345678 twice"},
    {"body": "called", "attributes": {"phone": "+49 (151) 123-456-78"}},
    {"body": "called", "attributes_number": {"phone": 4915112345678.0}},
    {"body": "paid with 4111 1111 1111 1111"},
    {"body": "paid", "attributes_number": {"amount_of": 4111111111111111.0}},
    {"body": "paid", "attributes": {"credit_card": "4111-1111-1111-1111"}},
    {"body": "to DE89 3704 0044 0532 0130 00 today"},
    {"body": "to", "attributes": {"iban": "de89370400440532013000"}},
    {"body": "from 10.1.2.3 port 22"},
    {"body": "from", "attributes": {"client": "10.1.3.77"}},
    {"body": "from ::ffff:10.1.2.3 port 22"},
    {"body": "from 2001:db8:0:0:0:0:0:1 port 22"},
    {"body": "from", "attributes": {"client": "2001:DB8::1"}, "host": "10.1.2.3"},
    {"body": "first_name: Alice", "attributes": {"first_name": "Alice"}},
    {"body": "plain words, and nothing else"},
)
ALICE = {0, 1, 2, 3, 4, 5}
EPOCH_AT = 3
"""Records before it were protected under an older epoch."""

ASKED: Sequence[tuple[str, set[int]]] = (
    ("email:alice@example.com", ALICE),
    ("email:ALICE@EXAMPLE.COM", ALICE),
    ('personal.email:" alice@example.com"', ALICE),
    ("alice@example.com", ALICE),
    ('"<Alice@example.com>"', ALICE),
    ('body:"alice@example.com"', ALICE),
    ('"mail from alice@example.com to"', {0}),
    ('"mail from Alice@EXAMPLE.com to the queue"', {0}),
    ('"from bob@example.com to"', {6}),
    ("attributes.mail:alice@example.com", {1}),
    ("mail:Alice@example.com", {1}),
    ('owner:"for Alice@example.com only"', {3}),
    ("service:alice@example.com", {4}),
    ("email:(alice@example.com OR bob@example.com)", {*ALICE, 6}),
    ("email:(alice@example.com OR nobody@example.com)", ALICE),
    ("queue NOT email:alice@example.com", {6}),
    ("mail AND NOT bob@example.com", {0}),
    ("phone:+4915112345678", {7, 8, 9}),
    ("phone:4915112345678", {7, 8, 9}),
    ('phone:"+49 151 123 456 78"', {7, 8, 9}),
    ("phone:004915112345678", {7, 8, 9}),
    ("+4915112345678", {7, 8, 9}),
    ('"called +49 151 12345678 twice"', {7}),
    ("attributes.phone:4915112345678", {8, 9}),
    ("card:4111111111111111", {10, 11, 12}),
    ('card:"4111 1111 1111 1111"', {10, 11, 12}),
    ("4111-1111-1111-1111", {10, 11, 12}),
    ("amount_of:4111111111111111", {11}),
    ('credit_card:"4111 1111 1111 1111"', {12}),
    ('iban:"DE89 3704 0044 0532 0130 00"', {13, 14}),
    ("iban:DE89370400440532013000", {13, 14}),
    ('"to DE89 3704 0044 0532 0130 00 today"', {13}),
    ("ip:10.1.2.3", {15, 17, 19}),
    ("10.1.2.3", {15, 17, 19}),
    ("ip:::ffff:10.1.2.3", {15, 17, 19}),
    ('"from 10.1.2.3 port"', {15}),
    ("host:10.1.2.3", {19}),
    ("ip:10.1.2.0/24", {15, 19}),
    ("ip:10.1.2.0/23", {15, 16, 19}),
    ("ip:10.0.0.0/14", {15, 16, 19}),
    ("ip:2001:db8::1", {18, 19}),
    ('ip:"2001:0db8:0000:0000:0000:0000:0000:0001"', {18, 19}),
    ("ip:2001:db8::/48", {18, 19}),
    ("client:10.1.3.77", {16}),
    ("personal.name:Alice", {20}),
    ("first_name:Alice", {20}),
    ("email:nobody@example.com", set()),
    ("* | where email = alice@example.com", ALICE),
    (r"* | extract body /from (?P<sender>\S+)/ | where sender = alice@example.com", {0}),
    ("plain AND words", {21}),
)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return Search.of(keyring(tmp_path_factory.mktemp("keys")))


@pytest.fixture(scope="module")
def stored(search: Search) -> pa.RecordBatch:
    """The records as they are stored, the later ones under a second epoch."""
    batch = batch_of(list(RECORDS))
    times = pa.array(np.full(len(RECORDS), TIME_NS)).cast(batch.schema.field("time").type)
    for name in ("time", "observed_time"):
        batch = batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), times)
    dataset = batch.schema.get_field_index("dataset")
    batch = batch.set_column(dataset, batch.schema.field(dataset), pa.array(["logs"] * len(RECORDS)))
    before = search.protected(batch.slice(0, EPOCH_AT))
    asyncio.run(search.ring.new_epoch())
    after = search.protected(batch.slice(EPOCH_AT))
    (both,) = pa.Table.from_batches([before, after]).combine_chunks().to_batches()
    return with_position(both, shard=0, position=1)


@pytest.fixture(scope="module", params=["embedded", "server"])
def engine(request: pytest.FixtureRequest, chdb_engine: ChdbEngine) -> Iterator[Engine]:
    if request.param == "embedded":
        yield chdb_engine
    else:
        with served(chdb_engine.target) as port:
            yield RemoteEngine(ServerAddress("127.0.0.1", port))


@pytest.fixture
async def store(engine: Engine, chdb_engine: ChdbEngine, stored: pa.RecordBatch) -> AsyncIterator[ClickHouseLogStore]:
    async with opened_store(engine, "contract_personal") as opened:
        await fill(opened, [stored])
        yield opened
    connection = chdb_engine.connect()
    connection.command("DROP DATABASE contract_personal SYNC")
    connection.close()


async def found(store: ClickHouseLogStore, query: Query) -> set[int]:
    return {row["row"] for row in await rows_of(store, asked(query.filter, *query.stages))}


async def test_every_spelling_of_a_value_finds_the_records_that_held_it(
    store: ClickHouseLogStore, search: Search
) -> None:
    wrong = {}
    for text, rows in ASKED:
        got = await found(store, search.rewritten(text))
        if got != rows:
            wrong[text] = got
    assert wrong == {}


def test_no_value_is_left_in_what_is_stored(stored: pa.RecordBatch) -> None:
    texts = repr(stored.to_pylist())
    for value in (
        "alice@",
        "Alice",
        "15112345678",
        "4111111111111111",
        "1111-1111",
        "DE89",
        "de89",
        "10.1.2.3",
        "10.1.3.77",
        "2001:",
    ):
        assert value not in texts


def test_a_watch_sees_the_same_records_as_a_search(stored: pa.RecordBatch, search: Search) -> None:
    wrong = {}
    for text, rows in ASKED:
        query = search.rewritten(text)
        if query.stages:
            continue
        got = set(np.flatnonzero(compile_predicate(query.filter)(stored).to_numpy(zero_copy_only=False)).tolist())
        if got != rows:
            wrong[text] = got
    assert wrong == {}


async def test_what_a_policy_keeps_in_some_sources_is_found_beside_what_it_tokenises(
    chdb_engine: ChdbEngine, search: Search
) -> None:
    rules = (PrivacyRule("keep", source="edge-*"), PrivacyRule("tokenise"))
    mixed = Search.of(search.ring, PrivacyPolicy(rules=rules))
    rows = [
        {
            "source": source,
            "dataset": "logs",
            "body": "mail from alice@example.com",
            "attributes": {"mail": "alice@example.com"},
        }
        for source in ("edge-1", "core-1")
    ]
    async with opened_store(chdb_engine, "contract_mixed") as store:
        await fill(store, [with_position(mixed.protected(batch_of(rows)), shard=0, position=1)])
        for text in (
            "alice@example.com",
            '"from alice@example.com"',
            "mail:alice@example.com",
            "mail:Alice@example.com OR alice@example.com",
            "email:alice@example.com",
        ):
            assert await found(store, mixed.rewritten(text)) == {0, 1}, text
    connection = chdb_engine.connect()
    connection.command("DROP DATABASE contract_mixed SYNC")
    connection.close()


async def test_a_thousand_networks_under_several_epochs_are_one_question(
    store: ClickHouseLogStore, search: Search
) -> None:
    rewritten = search.asked("ip:10.0.0.0/14 AND NOT ip:10.4.0.0/14")
    assert [len(each.words) for each in rewritten.matched] == [2048, 2048]
    assert await found(store, rewritten.query) == {15, 16, 19}
