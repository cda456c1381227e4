"""Events of MISP become facts, once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from heimdall_server.domain.graph import Tlp
from heimdall_server.services.graph.model import Named
from heimdall_server.storage.postgres.pool import PostgresPool
from tests.integration.test_graph_importing import neighbours
from tests.support.interchange import Interchange, interchange

pytestmark = pytest.mark.usefixtures("postgres_clean")


@pytest.fixture
async def graph(postgres_pool: PostgresPool, tmp_path: Path) -> AsyncIterator[Interchange]:
    async with interchange(postgres_pool, tmp_path) as made:
        yield made


async def test_a_misp_event_becomes_facts(graph: Interchange) -> None:
    counts = await graph.take(json.dumps({"response": [MISP]}).encode(), format_="misp", source="circl")
    assert [one.ref for one in counts.refused] == [_uuid(6)]
    assert await neighbours(graph, "misp-event:OSINT on the crew") >= {
        ("network-activity", "ipv4", "203.0.113.7"),
        ("network-activity", "domain", "evil.example"),
        ("refers-to", "attack-pattern", "T1059"),
    }
    assert ("resolves-to", "ipv4", "198.51.100.9") in await neighbours(graph, "domain:evil.example")
    assert ("same-as", "md5", "d" * 32) in await neighbours(graph, "sha256:" + "e" * 64)
    assert ("drops", "ipv4", "203.0.113.7") in await neighbours(graph, "sha256:" + "e" * 64)
    id_, vertex = await graph.finder.find(Named(type="ip", value="203.0.113.7"), Tlp.RED)
    assert (vertex.seen.tlp, vertex.seen.confidence) == (Tlp.AMBER_STRICT, 70)
    (row,) = await graph.reader.sightings(id_, tlp_max=Tlp.RED)
    assert (row.source, row.seen.count) == ("circl", 1)
    _, mail = await graph.finder.find(Named(type="email", value="alice@example.com"), Tlp.RED)
    assert mail.value.startswith("[email:")
    assert (mail.seen.confidence, mail.seen.tlp) == (50, Tlp.GREEN)
    again = await graph.take(json.dumps([{"Event": MISP}]).encode(), format_="misp", source="circl")
    assert again.new_count == 0


def _uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


MISP = {
    "uuid": _uuid(1),
    "info": "OSINT on the crew",
    "date": "2026-03-01",
    "timestamp": "1772359200",
    "distribution": "3",
    "Tag": [
        {"name": "tlp:green"},
        {"name": 'misp-galaxy:mitre-attack-pattern="Command and Scripting Interpreter - T1059"'},
    ],
    "Attribute": [
        {
            "uuid": _uuid(2),
            "type": "ip-dst",
            "category": "Network activity",
            "value": "203.0.113.7",
            "to_ids": True,
            "distribution": "0",
            "timestamp": "1772359300",
            "Sighting": [{"uuid": _uuid(20), "type": "0", "date_sighting": "1772359400"}],
        },
        {
            "uuid": _uuid(3),
            "type": "domain|ip",
            "category": "Network activity",
            "value": "evil.example|198.51.100.9",
            "to_ids": True,
            "distribution": "5",
        },
        {
            "uuid": _uuid(4),
            "type": "email-src",
            "category": "Payload delivery",
            "value": "alice@example.com",
            "to_ids": False,
        },
        {"uuid": _uuid(5), "type": "comment", "category": "Other", "value": "nothing", "to_ids": False},
        {"uuid": _uuid(6), "type": "ip-src", "category": "Network activity", "value": "no address", "to_ids": True},
    ],
    "Object": [
        {
            "uuid": _uuid(7),
            "name": "file",
            "Attribute": [
                {"uuid": _uuid(8), "type": "md5", "category": "Payload delivery", "value": "d" * 32, "to_ids": True},
                {"uuid": _uuid(9), "type": "sha256", "category": "Payload delivery", "value": "e" * 64, "to_ids": True},
            ],
            "ObjectReference": [
                {"uuid": _uuid(10), "referenced_uuid": _uuid(2), "relationship_type": "drops"},
            ],
        }
    ],
}
