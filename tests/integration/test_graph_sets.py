"""Which entities a query means: by who tells of them, by label, by marking; never more than the reader may see, and whole where they are merged."""

from __future__ import annotations

import pytest

from heimdall_server.domain.graph import Provenance, Tlp
from heimdall_server.domain.graph_authored import Label, Merge
from heimdall_server.domain.graph_sets import GraphTerm, Members
from heimdall_server.storage.postgres.graph.curation import PostgresGraphCuration
from heimdall_server.storage.postgres.graph.sets import PostgresGraphSets
from heimdall_server.storage.postgres.graph.writer import PostgresGraphWriter
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.support.graphs import Facts, make_id

LEAK = Provenance(instance="here", source="osint", dump="forum", method="dump-field", tlp=Tlp.AMBER)
SECRET = Provenance(instance="here", source="osint", dump="forum", method="dump-field", tlp=Tlp.RED)
APP = Provenance(instance="here", source="app", method="log-observable", tlp=Tlp.GREEN)
BY_LEAK, BY_SECRET, BY_APP = range(3)


@pytest.fixture
async def curation(postgres_pool: PostgresPool, postgres_clean: None) -> PostgresGraphCuration:
    """Of a graph in which a dump, under two markings, and an application tell of entities."""
    del postgres_clean
    facts = Facts(provenances=[LEAK, SECRET, APP])
    for value, by in (("a.example", BY_LEAK), ("b.example", BY_LEAK), ("b.example", BY_APP), ("c.example", BY_APP)):
        facts.vertex(value, by=by)
    facts.vertex("hidden.example", by=BY_SECRET)
    facts.vertex("both.example", by=BY_SECRET)
    facts.vertex("both.example", by=BY_APP)
    facts.vertex("203.0.113.7", type="ipv4", by=BY_LEAK)
    await PostgresGraphWriter(postgres_pool).apply(facts.batch())
    return PostgresGraphCuration(postgres_pool)


async def members(
    pool: PostgresPool, name: str, value: str, *, tlp_max: Tlp = Tlp.AMBER, count_max: int = 100
) -> Members:
    return await PostgresGraphSets(pool).members(GraphTerm(name, value), tlp_max=tlp_max, count_max=count_max)


def flat(found: Members) -> set[str]:
    return {value for values in found.values.values() for value in values}


def entity(value: str) -> bytes:
    return make_id(f"Entity/{value}")


@pytest.mark.usefixtures("curation")
async def test_a_dump_or_a_source_means_what_it_tells_of_below_the_ceiling(postgres_pool: PostgresPool) -> None:
    found = await members(postgres_pool, "sighted_in", "forum")
    assert flat(found) == {"a.example", "b.example", "203.0.113.7"}
    assert found.values["ipv4"] == ["203.0.113.7"]
    assert found.entity_count == 3
    red = await members(postgres_pool, "sighted_in", "forum", tlp_max=Tlp.RED)
    assert flat(red) == flat(found) | {"hidden.example", "both.example"}
    assert flat(await members(postgres_pool, "sighted_in", "app")) == {"b.example", "c.example", "both.example"}
    assert flat(await members(postgres_pool, "sighted_in", "osint")) == set(), "a dump's source is no name of its own"
    assert flat(await members(postgres_pool, "sighted_in", "nowhere")) == set()


@pytest.mark.usefixtures("curation")
async def test_a_marking_means_what_is_told_under_just_that_one(postgres_pool: PostgresPool) -> None:
    assert flat(await members(postgres_pool, "entity_tlp", "green")) == {"b.example", "c.example", "both.example"}
    assert flat(await members(postgres_pool, "entity_tlp", "red")) == set(), "above the ceiling"
    red = await members(postgres_pool, "entity_tlp", "red", tlp_max=Tlp.RED)
    assert flat(red) == {"hidden.example", "both.example"}


async def test_a_label_means_the_whole_of_merged_entities_that_the_reader_may_see(
    postgres_pool: PostgresPool, curation: PostgresGraphCuration
) -> None:
    await curation.add_label(Label(entity("a.example"), "c2", "alice", 5))
    await curation.add_label(Label(entity("c.example"), "c2", "alice", 5, tlp=Tlp.RED))
    assert flat(await members(postgres_pool, "entity_label", "c2")) == {"a.example"}
    await curation.merge(Merge(entity("a.example"), entity("both.example"), "alice", 1, "one machine"))
    await curation.merge(Merge(entity("hidden.example"), entity("both.example"), "alice", 1, "one machine"))
    assert flat(await members(postgres_pool, "entity_label", "c2")) == {"a.example", "both.example"}
    assert "both.example" in flat(await members(postgres_pool, "sighted_in", "forum"))
    red = await members(postgres_pool, "entity_label", "c2", tlp_max=Tlp.RED)
    assert flat(red) == {"a.example", "both.example", "hidden.example", "c.example"}


@pytest.mark.usefixtures("curation")
async def test_more_than_may_be_carried_are_none(postgres_pool: PostgresPool) -> None:
    assert not (await members(postgres_pool, "sighted_in", "forum", count_max=3)).truncated
    cut = await members(postgres_pool, "sighted_in", "forum", count_max=2)
    assert cut.truncated
    assert not cut.values
