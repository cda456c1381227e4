"""Records that hold an entity of a set: the store, the predicate and the graph's own extraction find the same ones, whatever stands beside a value."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa
import pytest

from heimdall_server.canonical.entity_sets import entity_set
from heimdall_server.canonical.hashes import DIGITS
from heimdall_server.canonical.observables import TOKEN_TYPE, find_observables
from heimdall_server.domain.entity_sets import DIGEST_TYPES, INDEXED_WORDS_MAX, EntitySet
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import And, Expression, Holds, Not, Words
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.language.shared_fields import SharedFields
from heimdall_server.language.shared_filter import Evaluation, Interner, Plan
from heimdall_server.storage.clickhouse.compile import Parameters, compile_filter
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.remote import RemoteEngine, ServerAddress
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from tests.support.clickhouse_http import served
from tests.support.log_stores import asked, fill, frame, opened_store, rows_of

ROWS = 600
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
WORD = "1" + "abcdefghijklmnopqrstuvwxyz"
VALUES = {
    "ipv4": ["203.0.113.7", "10.0.0.1", "1.2.3.4"],
    "ipv6": ["2001:db8::1", "2001:db8::", "::ffff:1.2.3.4", "fe80::1:0:0:2", "2001:db8:0:1:1:1:1:1"],
    "domain": [
        "evil.example",
        "www.evil.co.uk",
        "xn--bcher-kva.example",
        "run.sh",
        "com.evil.net",
        "a_b.example",
        "evil.example.net",
    ],
    "cve": ["CVE-2021-44228", "CVE-2020-0001", "CVE-2014-123456"],
    "sha256": [SHA256],
    "sha512": ["ab" * 64],
    "md5": ["d41d8cd98f00b204e9800998ecf8427e"],
    "email": [f"[email:{WORD}]"],
}
SPELLED = (
    *(value for values in VALUES.values() for value in values),
    "1203.0.113.7", "203.0.113.70", "203.0.113.7:443", "203.0.113.7.", "-1.2.3.4", "x1.2.3.4", "1.2.3.4.5", "01.2.3.4",
    "2001:DB8::1", "2001:0db8:0:0:0:0:0:1", "2001:db8:0:0:0:0:0:0", "::ffff:102:304", "::FFFF:01.2.3.4", "[2001:db8::1]:80", "2001:db8::1%eth0",
    "fe80:0:0:0:1:0:0:2", "a::b", "2001:db8::1::", "2001:db8::00001",
    "EVIL.example", "not-evil.example", "evil.example.", "sub.evil.example", "evil.example.net", "https://evil.example/x?q=1", "HTTPS://EVIL.EXAMPLE/a.bc",
    "//evil.example./x.yz", "//user@evil.example/", "ftp://run.sh", "https://com.evil.net/a", "a@evil.example", "evil\\.example", "C:\\evil.example", "//EVIL.EXAMPLE",
    "http://evil.example:8080/", "$evil.example", "%evil.example", "evil.example-", "www.EVIL.co.uk", "//evil.EXAMPLE/x-.ab", "https://a_b.example/",
    "cve-2021-44228", "CVE-2021-0044228", "xCVE-2021-44228", "CVE-2021-44228a", "CVE_2021-44228", "cve-2020-00001", "CVE-2014-0000123456",
    SHA256.upper(), SHA256 + "0", "sha256:" + SHA256, "-" + SHA256, "D41D8CD98F00B204E9800998ECF8427E", "0d41d8cd98f00b204e9800998ecf8427e",
    "ab" * 60, f"[~email:{WORD}]", WORD, WORD + "x", f"[email:2{WORD[1:]}]",
)  # fmt: skip
BETWEEN = (" ", " ", " ", ",", "=", "\n", "\t", ":", "/", "(", ")", ".", "-", "_", "@", "é", "中", "\\", "\0", "")


def random_text(draw: random.Random) -> str:
    return "".join(
        draw.choice(SPELLED if draw.random() < 0.5 else BETWEEN) for _ in range(draw.choice((0, 1, 1, 2, 3, 5)))
    )


def random_map(draw: random.Random) -> list[tuple[str, str]]:
    return [(key, random_text(draw)) for key in draw.sample(("ip", "md5", "url", "x"), draw.choice((0, 0, 1, 2)))]


@pytest.fixture(scope="module")
def records() -> pa.RecordBatch:
    draw = random.Random(11)
    batch = frame(1, ROWS)
    hosts = [
        "",
        "web-1",
        *VALUES["ipv4"][:2],
        "203.0.113.7:22",
        "EVIL.example",
        *(random_text(draw) for _ in range(20)),
    ]
    columns = {
        "body": pa.array([random_text(draw) for _ in range(ROWS)]),
        "host": pa.array([draw.choice(hosts) for _ in range(ROWS)]),
        # Words of tokens that stand elsewhere: protection puts nothing else there.
        "tokens": pa.array([draw.choice(("", "", WORD, f"{WORD[::-1]} {WORD}")) for _ in range(ROWS)]),
        "attributes": pa.array([random_map(draw) for _ in range(ROWS)], batch.schema.field("attributes").type),
        "resource": pa.array([random_map(draw) for _ in range(ROWS)], batch.schema.field("resource").type),
    }
    for name, column in columns.items():
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(at), column)
    return batch


@pytest.fixture
async def store(chdb_engine: ChdbEngine, records: pa.RecordBatch) -> AsyncIterator[ClickHouseLogStore]:
    async with opened_store(chdb_engine, "contract_holding") as opened:
        await fill(opened, [records])
        yield opened
    connection = chdb_engine.connect()
    connection.command("DROP DATABASE contract_holding SYNC")
    connection.close()


def holding(entities: EntitySet) -> Holds:
    return Holds(FieldRef(Scope.GRAPH, "sighted_in"), "forum", entities)


def extracted(records: pa.RecordBatch) -> list[set[tuple[str, str]]]:
    """What the graph's extraction finds in the texts of each record."""
    texts: list[str] = []
    rows: list[int] = []
    for row, record in enumerate(records.select(["body", "host", "attributes", "resource"]).to_pylist()):
        own = [record["body"], record["host"], *(text for _, text in (*record["attributes"], *record["resource"]))]
        texts += own
        rows += [row] * len(own)
    found: list[set[tuple[str, str]]] = [set() for _ in range(len(records))]
    for one in find_observables(pa.array(texts, pa.string())).to_pylist():
        if one["type"] != TOKEN_TYPE:
            found[rows[one["row"]]].add((one["type"], one["value"]))
    return found


async def test_the_store_the_predicate_and_the_extraction_find_the_same_records(
    store: ClickHouseLogStore, records: pa.RecordBatch
) -> None:
    draw, seen = random.Random(12), extracted(records)
    every = [(name, value) for name, values in VALUES.items() for value in values]
    for number in range(30):
        some = draw.sample(every, len(every) if number == 0 else draw.randrange(1, 5))
        chosen: dict[str, list[str]] = {}
        for name, value in some:
            chosen.setdefault(name, []).append(value)
        tree: Expression = holding(entity_set(chosen))
        if draw.random() < 0.3:
            tree = Not(tree)
        mask = compile_predicate(tree)(records).to_numpy(zero_copy_only=False)
        by_predicate = set(np.flatnonzero(mask).tolist())
        stored = {row["row"] for row in await rows_of(store, asked(tree))}
        assert stored == by_predicate, (
            chosen,
            [records.slice(row, 1).to_pylist() for row in list(stored ^ by_predicate)[:2]],
        )
        node = Interner().node(And((Words(FieldRef(Scope.CORE, "body"), ("example",)), tree)))
        narrowed = node.rows(Evaluation(Plan([node]), SharedFields(records)))
        assert set(narrowed.tolist()) <= by_predicate
        if not chosen.keys() - {"ipv4", "ipv6", "domain", "cve", "sha256", "sha512"}:
            holding_rows = {row for row, held in enumerate(seen) if held & set(some)}
            assert by_predicate == (holding_rows if isinstance(tree, Holds) else set(range(ROWS)) - holding_rows)


async def test_every_spelling_is_judged_alike(chdb_engine: ChdbEngine) -> None:
    """Each spelling alone, so that none hides behind another."""
    records = frame(1, len(SPELLED))
    at = records.schema.get_field_index("body")
    records = records.set_column(at, records.schema.field(at), pa.array(SPELLED))
    everything = entity_set(VALUES)
    async with opened_store(chdb_engine, "contract_holding_spelled") as store:
        await fill(store, [records])
        stored = {SPELLED[row["row"]] for row in await rows_of(store, asked(holding(everything)))}
    mask = compile_predicate(holding(everything))(records).to_numpy(zero_copy_only=False)
    assert stored == {SPELLED[row] for row in np.flatnonzero(mask)}
    assert not stored & {
        "1203.0.113.7",
        "203.0.113.70",
        "sub.evil.example",
        "not-evil.example",
        "1.2.3.4.5",
        SHA256 + "0",
        WORD + "x",
    }
    assert {
        "2001:0DB8:0:0:0:0:0:1".lower(),
        "https://evil.example/x?q=1",
        "cve-2021-44228",
        SHA256.upper(),
        WORD,
    } <= stored


def test_a_set_tells_nothing_of_its_values_and_counts_what_it_leaves_out() -> None:
    made = entity_set({**VALUES, "url": ["https://evil.example/x"], "ipv4": ["203.0.113.7", "10.0.0.0/8"]})
    assert "203.0.113.7" not in repr(holding(made))
    assert "evil" not in repr(made)
    assert made.unsearched_count == 2
    assert made.token_count == 1
    assert made == entity_set({**VALUES, "url": [], "ipv4": ["203.0.113.7"]})
    assert made != entity_set(VALUES)
    assert frozenset(DIGITS) == DIGEST_TYPES


@pytest.mark.parametrize("engine_name", ["embedded", "remote"])
async def test_a_set_of_many_thousands_travels_in_pieces_and_finds_the_same(
    chdb_engine: ChdbEngine, engine_name: str
) -> None:
    """More than an index is asked for, and more than one parameter holds."""
    words = [f"1{number:04}".translate(str.maketrans("0189", "abcd"))[1:].rjust(26, "x") for number in range(10_050)]
    persons = sorted({f"[email:1{word}]" for word in words})
    many = entity_set(
        {
            "email": persons + [f"[phone:2{word}]" for word in words],
            "domain": [f"host{number}.evil.example" for number in range(8_000)],
            "ipv4": [f"10.{number // 250}.{number % 250}.9" for number in range(8_000)],
        }
    )
    assert len(many.words) > INDEXED_WORDS_MAX
    texts = [
        f"met {persons[7]} there",
        "host7999.evil.example",
        "x10.31.249.9",
        "to 10.31.249.9, é",
        "é" + persons[3][7:-1],
    ]
    records = frame(1, len(texts))
    at = records.schema.get_field_index("body")
    records = records.set_column(at, records.schema.field(at), pa.array(texts))
    parameters = Parameters()
    compile_filter(holding(many), parameters)
    assert max(len(str(value)) for value in parameters.values.values()) < 128 * 1024
    database = f"contract_holding_{engine_name}"
    with served(chdb_engine.target) as port:
        engine = chdb_engine if engine_name == "embedded" else RemoteEngine(ServerAddress("127.0.0.1", port))
        async with opened_store(engine, database) as store:
            await fill(store, [records])
            stored = {row["row"] for row in await rows_of(store, asked(holding(many)))}
    mask = compile_predicate(holding(many))(records).to_numpy(zero_copy_only=False)
    assert stored == set(np.flatnonzero(mask).tolist()) == {0, 1, 3}
