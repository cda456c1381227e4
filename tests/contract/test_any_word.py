"""One of many words: a list to the engine, and the same records as each word asked for by itself."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa
import pytest

from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.literals import words_of
from heimdall_server.domain.expression.tree import And, Expression, Not, Or, Words
from heimdall_server.language.parser import parse
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.storage.clickhouse.compile import Parameters, compile_filter
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from heimdall_server.storage.clickhouse.store import ClickHouseLogStore
from tests.support.log_stores import asked, fill, frame, opened_store, rows_of

PIECES = (
    "time",
    "Timeout",
    "time-out",
    "é",
    "éa",
    "aé",
    "中文",
    "中",
    "x1",
    "1",
    "-",
    "_",
    " ",
    "[",
    "]",
    ".",
    "\\",
    "'",
    "\n",
    "a" * 30,
)
ROWS = 200


@pytest.fixture(scope="module")
def texts() -> list[str]:
    draw = random.Random(7)
    return ["".join(draw.choices(PIECES, k=draw.randrange(1, 7))) for _ in range(ROWS)]


@pytest.fixture
async def store(chdb_engine: ChdbEngine, texts: list[str]) -> AsyncIterator[ClickHouseLogStore]:
    async with opened_store(chdb_engine, "contract_any_word") as opened:
        batch = frame(1, ROWS)
        for name in ("body", "tokens"):
            at = batch.schema.get_field_index(name)
            batch = batch.set_column(at, batch.schema.field(at), pa.array(texts))
        await fill(opened, [batch])
        yield opened
    connection = chdb_engine.connect()
    connection.command("DROP DATABASE contract_any_word SYNC")
    connection.close()


def rows_with(texts: list[str], words: set[str]) -> set[int]:
    return {row for row, text in enumerate(texts) if words & set(words_of(text))}


async def test_one_of_many_words_finds_what_each_finds_by_itself(store: ClickHouseLogStore, texts: list[str]) -> None:
    draw = random.Random(8)
    every = [*sorted({word for text in texts for word in words_of(text)}), "nowhere", "tim", "timeou", "zé"]
    batch = pa.RecordBatch.from_arrays([pa.array(texts)] * 2, names=["body", "tokens"])
    for _ in range(25):
        chosen = set(draw.choices(every, k=draw.randrange(2, 6)))
        ref = resolve(draw.choice(("body", "tokens")))
        tree: Expression = Or(tuple(Words(ref, (word,)) for word in sorted(chosen)))
        wanted = rows_with(texts, chosen)
        if draw.random() < 0.3:
            tree, wanted = Not(tree), set(range(ROWS)) - wanted
        assert {row["row"] for row in await rows_of(store, asked(tree))} == wanted, chosen
        mask = compile_predicate(tree)(batch).to_numpy(zero_copy_only=False)
        assert set(np.flatnonzero(mask).tolist()) == wanted, chosen


async def test_words_phrases_and_fields_stand_in_one_or(store: ClickHouseLogStore, texts: list[str]) -> None:
    body, tokens = resolve("body"), resolve("tokens")
    alone = Or((Words(body, ("x1",)), Words(tokens, ("中文",)), Words(body, ("1",)), Words(body, ("time", "out"))))
    found = {row["row"] for row in await rows_of(store, asked(And((alone, Not(Words(body, ("é",)))))))}
    phrase = {row["row"] for row in await rows_of(store, asked(Words(body, ("time", "out"))))}
    assert found == (rows_with(texts, {"x1", "1", "中文"}) | phrase) - rows_with(texts, {"é"})


async def test_several_thousand_words_are_one_list(store: ClickHouseLogStore, texts: list[str]) -> None:
    words = tuple(Words(resolve("tokens"), (f"{'0' * 20}{number:07}",)) for number in range(5000))
    found = {row["row"] for row in await rows_of(store, asked(Or((*words, Words(resolve("tokens"), ("x1",))))))}
    assert found == rows_with(texts, {"x1"})


def test_a_list_of_words_is_one_parameter() -> None:
    parameters = Parameters()
    sql = compile_filter(
        parse("red OR green OR tokens:blue OR tokens:grey OR service:api", now_ns=0).filter, parameters
    )
    assert sql.count("hasAnyTokens") == 2
    assert set(parameters.values.values()) == {"red green", "blue grey", "api"}
