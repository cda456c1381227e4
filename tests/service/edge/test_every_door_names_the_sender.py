"""Whatever way records come in: each says which identity brought it, as its certificate or token proved, not as its content claims."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall.ingest.v1 import source_pb2
from tests.service.edge.test_every_door_protects import DOORS
from tests.support.edge_server import Edge, edge_server
from tests.support.ingest_server import FINISH, batch, opening
from tests.support.pki import TRUST_DOMAIN, Pki

FORGED = "spiffe://forged/client/eve"


async def senders(edge: Edge) -> set[str]:
    """Of all records in the journal."""
    return {*(await edge.ingest.records())["principal"].to_pylist()}


def client(name: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/client/{name}"


@pytest.mark.parametrize("door", [name for name in DOORS if name != "a bad line"])
async def test_records_say_who_brought_them_in(pki: Pki, tmp_path: Path, door: str) -> None:
    async with edge_server(pki, tmp_path) as edge:
        await DOORS[door](edge)
        assert await senders(edge) == {client("program" if door == "sdk records" else "admin")}


async def test_where_there_is_no_certificate_the_token_says_it(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path, http={"client_certificate": "optional"}) as edge:
        token = f"Bearer {edge.tokens['agent']}"
        lines = b'{"create": {}}\n{"message": "m"}\n'
        await edge.send("POST", "/_bulk", lines, client=None, content_type="application/x-ndjson", authorization=token)
        assert await senders(edge) == {client("agent")}


async def test_content_that_names_another_identity_is_not_believed(pki: Pki, tmp_path: Path) -> None:
    async with edge_server(pki, tmp_path) as edge:
        line = json.dumps({"message": "m", "principal": FORGED}).encode() + b"\n"
        await edge.ingest.send("lines", line, kind=source_pb2.Format.KIND_NDJSON)
        await edge.send("POST", "/_bulk", b'{"create": {}}\n' + line, content_type="application/x-ndjson")
        (stored, *_) = [frame.entry.batch for frame in await edge.ingest.frames() if frame.entry.batch is not None]
        at = stored.schema.get_field_index("principal")
        forged = stored.set_column(at, stored.schema.field(at), pa.array([FORGED] * stored.num_rows))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, forged.schema) as writer:
            writer.write_batch(forged)
        columns = opening("columns", kind=source_pb2.Format.KIND_ARROW)
        await edge.ingest.append([columns, batch(0, sink.getvalue().to_pybytes(), next_offset=1), FINISH])
        assert edge.ingest.state.counts.accepted == 3
        assert await senders(edge) == {client("admin")}
