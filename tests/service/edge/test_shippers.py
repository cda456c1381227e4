"""Every shipper's own requests, byte for byte (`tests/wire/shippers`), end as the right records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.edge_server import Edge, edge_server
from tests.support.pki import Pki

SHIPPERS = Path(__file__).parents[2] / "wire" / "shippers"
ACCEPTED = ("payment accepted", "shop", "web-1", 9)
REFUSED = ("payment refused", "shop", "web-1", 17)
EXPECTED = {
    "elasticsearch-py": [ACCEPTED, REFUSED, ("slow", "shop", "web-1", 13)],
    "filebeat": [ACCEPTED, REFUSED],
    "fluent-bit-es": [ACCEPTED, REFUSED],
    "fluent-bit-loki": [
        ('{"level":"info","msg":"payment accepted"}', *ACCEPTED[1:]),
        ('{"level":"error","msg":"payment refused"}', *REFUSED[1:]),
    ],
    "logstash": [ACCEPTED, REFUSED],
    "loki-client-go": [("payment refused: card 4111", *REFUSED[1:]), ACCEPTED, ("slow", "shop", "web-1", 13)],
    "promtail": [ACCEPTED, REFUSED],
    "python-logging-loki": [ACCEPTED, ("payment refused", "shop", "", 17)],
    "rsyslog": [("payment accepted", "", "vm", 10), ("payment refused", "", "vm", 10)],
    "vector-elasticsearch": [ACCEPTED, REFUSED],
    "vector-loki": [ACCEPTED, REFUSED],
}


@pytest.fixture
async def edge(pki: Pki, tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge_server(pki, tmp_path) as running:
        yield running


def test_every_folder_of_bytes_is_played() -> None:
    assert {path.name for path in SHIPPERS.iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize("shipper", sorted(EXPECTED))
async def test_a_shipper_ships(edge: Edge, shipper: str) -> None:
    host, _, port = edge.http.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=edge.context("admin"))
    for file in sorted((SHIPPERS / shipper).glob("*.http")):
        writer.write(file.read_bytes())  # on one connection, as shippers do
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode().lower()
        status = int(head.split()[1])
        assert status in (200, 204), f"{file.name}: {head}"
        lengths = [line.split(":")[1] for line in head.splitlines() if line.startswith("content-length:")]
        if lengths and not file.read_bytes().startswith(b"HEAD"):
            answer = await reader.readexactly(int(lengths[0]))
            assert b'"errors":true' not in answer
    writer.close()
    records = (await edge.ingest.records()).to_pylist()
    found = [(record["body"], record["service"], record["host"], record["severity"]) for record in records]
    assert sorted(found) == sorted(EXPECTED[shipper])
    assert all(record["time_flags"] == 0 for record in records)
