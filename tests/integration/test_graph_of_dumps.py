"""Dumps make the same graph whatever order they come in, however they are cut, and whatever of them comes again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from heimdall_server.domain.graph_making import Rebuild
from heimdall_server.projections.read_ahead import ReadLimits
from heimdall_server.storage.postgres.graph.rebuilds import PostgresGraphRebuilds
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graph_making import MakingBench, frame
from tests.support.graphs import DAY_NS
from tests.support.journal import opened, small_config
from tests.support.random_records import TIME_NS

PROVENANCE_ASIDE = "(p.source, p.method, p.dump, p.confidence, p.tlp)::text"
"""A provenance without the instance: each journal is another one's."""
CUT_FINELY = ReadLimits(batch_rows=6, linger_s=0.01, held_rows_max=12)
_COUNT = 9
"""Where a vertex of a canonical dump has it."""
Rows = list[dict[str, Any]]


def said(chance: random.Random) -> dict[str, Any]:
    """What a record says: of few values, so that records, fields and dumps share them."""
    texts = {
        "ip": f"192.0.2.{chance.randrange(4)}",
        "host": f"h{chance.randrange(3)}.example",
        "comment": chance.choice(["", "seen", f"192.0.2.{chance.randrange(4)} asked h{chance.randrange(3)}.example"]),
        "hash": f"{chance.randrange(3):064x}",
    }
    return {
        "time": TIME_NS + chance.randrange(3) * DAY_NS + chance.randrange(5) * DAY_NS // 24,
        "body": "",
        "attributes": {name: text for name, text in texts.items() if chance.random() < 0.7},
        "attributes_number": {"port": float(chance.randrange(3))} if chance.random() < 0.4 else {},
        "attributes_bool": {"valid": chance.random() < 0.5} if chance.random() < 0.3 else {},
    }


def random_dumps(chance: random.Random) -> list[Rows]:
    """Dumps of several sources and markings, some numbers of which stand for several records."""
    found: list[Rows] = []
    for name in ("forum", "shop", "forum"):
        who = {"dump": name, "source": chance.choice(["leak", "other"]), "dataset": "dumps"}
        rows: Rows = []
        for number in range(1, chance.randrange(4, 7)):
            tlp = chance.choice(["", "red"])
            for _ in range(chance.choice([1, 1, 1, 2, 3])):
                rows.append({**who, "tlp": tlp, "record_number": number, **said(chance)})
        found.append(rows)
    return found


def in_pieces(dumps: Sequence[Rows], chance: random.Random) -> list[Rows]:
    """The same records as frames: in another order of dumps, cut anywhere, pieces and single records again."""
    rows = [row for dump in chance.sample(dumps, len(dumps)) for row in dump]
    if chance.random() < 0.5:
        chance.shuffle(rows)
    pieces: list[Rows] = []
    while rows:
        size = chance.randrange(2, 14)
        piece, rows = rows[:size], rows[size:]
        pieces.append([*piece, *chance.sample(piece, chance.randrange(len(piece)))])
    for again in chance.sample(pieces, len(pieces) // 2):
        pieces.insert(chance.randrange(len(pieces) + 1), again)
    return pieces


@pytest.fixture
async def benches(
    tmp_path: Path, postgres_pool: PostgresPool, postgres_clean: None
) -> AsyncIterator[tuple[MakingBench, MakingBench]]:
    """Two journals, whose graphs are made in one database, one after the other."""
    del postgres_clean
    async with opened(small_config(tmp_path / "one")) as one, opened(small_config(tmp_path / "two")) as two:
        yield MakingBench(one, postgres_pool), MakingBench(two, postgres_pool)


@pytest.mark.parametrize("seed", range(4))
async def test_dumps_in_any_order_cut_and_repeated_make_the_graph_of_the_same_records_once(
    benches: tuple[MakingBench, MakingBench], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    plain, bench = benches
    dumps = random_dumps(chance)
    distinct = {repr(row): row for dump in dumps for row in dump}
    await plain.journal.append([frame(list(distinct.values()))])
    await plain.follow()
    expected = await plain.graph(who=PROVENANCE_ASIDE)
    counts: list[Any] = [row[_COUNT] for row in expected if row[0] == "Dump"]
    assert (len(counts), sum(counts)) == (2, len(distinct))
    await PostgresGraphWriter(plain.pool).forget()

    for rows in in_pieces(dumps, chance):
        await bench.journal.append([frame(rows)])
        if chance.random() < 0.2:
            await bench.follow()
    await bench.follow()
    assert await bench.graph(who=PROVENANCE_ASIDE) == expected
    await rebuild(bench, chance, monkeypatch)
    assert await bench.graph(who=PROVENANCE_ASIDE) == expected


@pytest.mark.parametrize("seed", range(2))
async def test_a_dump_that_lost_some_of_its_records_is_the_dump_of_those_that_are_left(
    benches: tuple[MakingBench, MakingBench], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    plain, bench = benches
    dumps = random_dumps(chance)
    left = {
        repr(row): row
        for dump in dumps
        for row in dump
        if row["attributes"].get("ip") not in ("192.0.2.1", "192.0.2.2")
    }
    await plain.journal.append([frame(list(left.values()))])
    await plain.follow()
    expected = await plain.graph(who=PROVENANCE_ASIDE)
    await PostgresGraphWriter(plain.pool).forget()

    for rows in in_pieces(dumps, chance):
        await bench.journal.append([frame(rows)])
    await bench.follow()
    await bench.delete("ip:192.0.2.1 OR ip:192.0.2.2", number=1)
    for rows in in_pieces([list(left.values())], chance):  # it is known what is left
        await bench.journal.append([frame(rows)])
    await bench.follow()
    assert await bench.graph(who=PROVENANCE_ASIDE) == expected
    await rebuild(bench, chance, monkeypatch)
    assert await bench.graph(who=PROVENANCE_ASIDE) == expected


async def rebuild(bench: MakingBench, chance: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the graph again, some of it from the store, in other batches."""
    head = bench.journal.head()[0]
    await PostgresGraphRebuilds(bench.pool).begin(Rebuild("a" * 32, "ann", "", head, 1))
    tail = chance.randrange(1, head)
    monkeypatch.setattr(bench.journal, "tail", lambda: {0: tail})
    await bench.follow(read=CUT_FINELY)
