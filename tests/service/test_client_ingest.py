from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from google.rpc import code_pb2

from heimdall.ingest.v1 import source_pb2
from heimdall_client import (
    AsyncClient,
    AsyncIngester,
    GaveUpError,
    HandshakeError,
    IngestOptions,
    IngestProgress,
    InputError,
    OffsetConflictError,
    SourceFencedError,
    UnavailableError,
)
from tests.support.append_server import JOURNAL_FULL, Response, status_of
from tests.support.pki import Pki
from tests.support.sdk_server import FakeServer, client_config

QUICK = IngestOptions(chunk_bytes=1000, linger_s=0.01)


@pytest.fixture
async def server(pki: Pki) -> AsyncIterator[FakeServer]:
    async with FakeServer(pki) as running:
        yield running


@pytest.fixture
async def client(server: FakeServer, pki: Pki) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(client_config(pki, address=server.address)) as connected:
        yield connected


def lines(count: int) -> bytes:
    return b"".join(b'{"msg":"line %d"}\n' % number for number in range(count))


async def write_one(ingester: AsyncIngester) -> None:
    async with ingester:
        await ingester.write(b"a\n")
        await ingester.flush()


async def test_bytes_arrive_once_and_in_order(server: FakeServer, client: AsyncClient) -> None:
    data = lines(5000)
    async with client.ingester("s", format="ndjson", service="api", options=QUICK) as ingester:
        for start in range(0, len(data), 777):
            await ingester.write(data[start : start + 777])
        summary = await ingester.finish()
    source = server.ingest.sources["s"]
    assert bytes(source.stored) == data
    assert source.finished
    assert source.opens[0].defaults.service == "api"
    assert summary.accepted_count == 5000
    assert summary.next_offset == len(data)
    assert summary.position.shards[0] == 5000
    assert summary.break_count == 0


async def test_every_kind_of_break_is_healed(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.script.extend([None, "break", None, "lose ack", JOURNAL_FULL, None, "drain", "break", JOURNAL_FULL])
    told: list[str] = []
    data = lines(2000)
    async with client.ingester("s", options=QUICK, on_retry=lambda error, _: told.append(str(error))) as ingester:
        await ingester.write(data)
        summary = await ingester.finish()
    assert not server.ingest.script
    assert bytes(server.ingest.sources["s"].stored) == data
    assert summary.accepted_count == 2000, "a lost acknowledgement loses no counts"
    assert summary.break_count == 4
    assert len(told) == 6


async def test_server_restart_is_survived(server: FakeServer, client: AsyncClient) -> None:
    data = lines(3000)
    async with client.ingester("s", options=QUICK) as ingester:
        await ingester.write(data[:20000])
        await ingester.flush()
        await server.stop()
        await ingester.write(data[20000:40000])
        await asyncio.sleep(0.2)
        await server.start()
        await ingester.write(data[40000:])
        await ingester.finish(timeout_s=20)
    assert bytes(server.ingest.sources["s"].stored) == data


async def test_reopened_source_goes_on_at_its_offset(server: FakeServer, client: AsyncClient) -> None:
    async with client.ingester("s") as ingester:
        await ingester.write(b"one\ntwo\n")
    async with client.ingester("s") as ingester:
        assert ingester.offset == 8
        await ingester.write(b"three\n")
        summary = await ingester.finish()
    assert bytes(server.ingest.sources["s"].stored) == b"one\ntwo\nthree\n"
    assert (summary.start_offset, summary.accepted_count) == (8, 1)


async def test_flush_waits_for_whole_records_and_leaves_the_rest_held(server: FakeServer, client: AsyncClient) -> None:
    async with client.ingester("s") as ingester:
        await ingester.write(b"whole\npart")
        assert await ingester.flush() == 6
        await ingester.write(b"ly\n")
        assert await ingester.flush() == 13
        assert ingester.accepted_count == 2
    assert not server.ingest.sources["s"].finished


async def test_wait_that_the_server_asks_for_is_kept(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.script.append(status_of(code_pb2.RESOURCE_EXHAUSTED, "JOURNAL_FULL", retry_s=0.4))
    delays: list[float] = []
    async with client.ingester("s", on_retry=lambda _, delay_s: delays.append(delay_s)) as ingester:
        started = asyncio.get_running_loop().time()
        await ingester.write(b"a\n")
        await ingester.finish()
    assert asyncio.get_running_loop().time() - started >= 0.4
    assert 0.4 <= delays[0] <= 0.5


async def test_writer_waits_while_the_buffer_is_full(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.acks_allowed.clear()
    server.ingest.limits = Response.Limits(batches_in_flight=2, bytes_in_flight=2 << 20, payload_bytes_max=1 << 20)
    options = IngestOptions(buffer_bytes_max=8 << 20)
    block = b"x" * ((1 << 20) - 1) + b"\n"
    async with client.ingester("s", options=options) as ingester:
        for _ in range(8):
            await ingester.write(block)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ingester.write(block), 0.3)
        assert server.ingest.sources["s"].batch_count <= 2
        server.ingest.acks_allowed.set()
        await ingester.write(block)
        await ingester.finish()
    assert len(server.ingest.sources["s"].stored) == 9 << 20


async def test_refused_source_tells_its_writer_each_time(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.script.append(status_of(code_pb2.FAILED_PRECONDITION, "OFFSET_CONFLICT"))
    ingester = client.ingester("s")
    with pytest.raises(OffsetConflictError):
        await write_one(ingester)
    with pytest.raises(OffsetConflictError):
        await ingester.write(b"b\n")


async def test_status_that_ends_a_stream_for_good_ends_the_ingester(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.script.append(status_of(code_pb2.ABORTED, "SOURCE_FENCED"))
    with pytest.raises(SourceFencedError):
        await write_one(client.ingester("s"))


async def test_no_progress_gives_up_with_the_last_reason(server: FakeServer, client: AsyncClient) -> None:
    options = IngestOptions(give_up_after_s=0.5)
    ingester = client.ingester("s", options=options)
    await ingester.__aenter__()
    await server.stop()
    with pytest.raises(GaveUpError, match="nothing listens"):
        await ingester.finish()
    with pytest.raises(GaveUpError):
        await ingester.write(b"late")
    await ingester.aclose()


async def test_server_that_never_answers_is_given_up_soon(pki: Pki) -> None:
    config = client_config(pki, address="127.0.0.1:1")
    async with AsyncClient(config) as client:
        with pytest.raises(GaveUpError):
            async with client.ingester("s", options=IngestOptions(first_open_s=0.3)):
                pass


async def test_certificate_of_another_authority_is_explained_at_once(
    server: FakeServer, pki: Pki, tmp_path: Path
) -> None:
    stranger = Pki(tmp_path, "other.test")
    config = client_config(stranger, address=server.address, ca_file=pki.ca_file)
    async with AsyncClient(config) as client:
        with pytest.raises(HandshakeError, match="could not verify the client's certificate"):
            async with client.ingester("s"):
                pass
        with pytest.raises(HandshakeError, match="heimdall certs issue"):
            await client.status()
    config = client_config(pki, "trusts another", address=server.address, ca_file=stranger.ca_file)
    async with AsyncClient(config) as client:
        with pytest.raises(HandshakeError, match="can't be verified against ca_file"):
            await client.status()


async def test_nothing_that_listens_is_explained(pki: Pki) -> None:
    async with AsyncClient(client_config(pki, address="127.0.0.1:1")) as client:
        with pytest.raises(UnavailableError, match=r"nothing listens at 127\.0\.0\.1:1"):
            await client.status()


async def test_list_of_addresses_uses_those_that_answer(server: FakeServer, pki: Pki) -> None:
    address = f"{server.address},127.0.0.1:1"
    async with AsyncClient(client_config(pki, address=address)) as client:
        assert {(await client.status()).version for _ in range(4)} == {"1.2.3"}


async def test_arrow_records_are_counted_and_cut_on_resume(server: FakeServer, client: AsyncClient) -> None:
    table = pa.table({"body": [f"line {number} {'x' * 50}" for number in range(500)]})
    server.ingest.script.extend([None, "lose ack", None, "break"])
    async with client.ingester("s", format="arrow", options=QUICK) as ingester:
        await ingester.append_arrow(table)
        summary = await ingester.finish()
    payloads = server.ingest.sources["s"].payloads
    stored = pa.concat_tables([pa.ipc.open_stream(payload).read_all() for payload in payloads])
    assert stored == table
    assert summary.next_offset == 500
    assert all(len(payload) <= 1000 for payload in payloads)


async def test_arrow_source_refuses_bytes_and_the_other_way_round(client: AsyncClient) -> None:
    async with client.ingester("a", format="arrow") as ingester:
        with pytest.raises(TypeError, match="append_arrow"):
            await ingester.write(b"x")
    async with client.ingester("b") as ingester:
        with pytest.raises(TypeError, match="format='arrow'"):
            await ingester.append_arrow(pa.table({"body": ["x"]}))


async def test_program_logs_records(server: FakeServer, client: AsyncClient) -> None:
    async with client.record_ingester("s", service="orders") as log:
        for number in range(300):
            await log.log("paid", severity="WARN", attributes={"n": number, "level": "gold"})
        await log.flush()
        assert (await log.summary()).accepted_count == 300
    source = server.ingest.sources["s"]
    assert source.opens[0].format.kind == source_pb2.Format.KIND_NDJSON
    assert b'"msg":"paid","n":7,"attribute.level":"gold"}' in source.stored
    assert source.batch_count < 300


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
async def test_file_goes_on_where_the_source_is(
    server: FakeServer, client: AsyncClient, tmp_path: Path, pack: type[bytes]
) -> None:
    data = lines(20000)
    path = tmp_path / "app.log"
    path.write_bytes(pack(data))
    server.ingest.source("s").stored += data[: len(data) // 2 + 5]
    progress: list[IngestProgress] = []
    summary = await client.ingest_file(path, "s", on_progress=progress.append, options=QUICK)
    assert bytes(server.ingest.sources["s"].stored) == data
    assert summary.start_offset == len(data) // 2 + 5
    assert progress[-1].read_bytes == progress[-1].total_bytes == path.stat().st_size
    assert progress[-1].durable_offset == len(data)
    opened = server.ingest.sources["s"].opens[0]
    assert opened.file_name == "app.log"
    assert opened.defaults.reference_time.seconds == int(path.stat().st_mtime)


async def test_pipe_is_read_to_its_end(server: FakeServer, client: AsyncClient) -> None:
    read_fd, write_fd = os.pipe()
    data = lines(10000)

    def feed() -> None:
        with os.fdopen(write_fd, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=feed)
    writer.start()
    with os.fdopen(read_fd, "rb") as pipe:
        await client.ingest_stream(pipe, "s", finish=False)
    writer.join()
    assert bytes(server.ingest.sources["s"].stored) == data
    assert not server.ingest.sources["s"].finished


async def test_broken_gzip_keeps_what_came_before_and_says_so(server: FakeServer, client: AsyncClient) -> None:
    data = os.urandom(3 << 20).hex().encode() + b"\n"
    whole = gzip.compress(b"first\n" + data)
    with pytest.raises(InputError, match="not whole gzip"):
        await client.ingest_stream(io.BytesIO(whole[: len(whole) // 2]), "s", name="broken.gz")
    assert bytes(server.ingest.sources["s"].stored) == b"first\n"
    assert not server.ingest.sources["s"].finished


async def test_file_shorter_than_its_source_is_refused(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.source("s").stored += lines(10)
    with pytest.raises(InputError, match="another file under the same name"):
        await client.ingest_stream(io.BytesIO(b"short\n"), "s", name="short.log")


async def test_dump_is_hashed_by_its_content_and_taken_once(
    server: FakeServer, client: AsyncClient, tmp_path: Path
) -> None:
    data = lines(100)
    path = tmp_path / "dump.json.gz"
    path.write_bytes(gzip.compress(data))
    summary = await client.ingest_file(path, "s", dump="leak-1")
    opened = server.ingest.sources["s"].opens[0]
    assert opened.dump.name == "leak-1"
    assert opened.dump.content_sha256 == hashlib.sha256(data).digest()
    assert summary.accepted_count == 100
    server.ingest.dump_hashes.add(opened.dump.content_sha256)
    again = await client.ingest_file(path, "s2", dump="leak-1")
    assert again.already_complete
    assert server.ingest.sources["s2"].batch_count == 0


async def test_dump_from_a_pipe_is_refused(client: AsyncClient) -> None:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as pipe, pytest.raises(InputError, match="save it as one first"):
        await client.ingest_stream(pipe, "s", dump="leak")


@pytest.mark.parametrize("kind", ["stream", "file"])
async def test_arrow_file_goes_by_its_records(
    server: FakeServer, client: AsyncClient, tmp_path: Path, kind: str
) -> None:
    table = pa.table({"body": [f"line {number}" for number in range(1000)]})
    path = tmp_path / "records.arrow"
    make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    source = server.ingest.source("s")
    source.record_count = 250
    summary = await client.ingest_file(path, "s")
    stored = pa.concat_tables([pa.ipc.open_stream(payload).read_all() for payload in source.payloads])
    assert stored == table.slice(250)
    assert summary.next_offset == 1000


async def test_source_and_dead_letters_can_be_asked_for(server: FakeServer, client: AsyncClient) -> None:
    server.ingest.letters = [source_pb2.DeadLetter(dead_letter_id=str(number)) for number in range(5)]
    server.ingest.source("s").stored += b"abc\n"
    assert (await client.get_source("s")).next_offset == 4
    letters = await client.list_dead_letters(limit=3)
    assert [letter.dead_letter_id for letter in letters.dead_letters] == ["0", "1", "2"]
    assert letters.total_count == 5
    outcomes = (await client.retry_dead_letters(["1"], read_as="csv")).outcomes
    assert outcomes[0].accepted_count == 1
    assert [one.dead_letter_id for one in (await client.delete_dead_letters(["1", "3"])).outcomes] == ["1", "3"]
    assert [one.dead_letter_id for one in (await client.list_dead_letters()).dead_letters] == ["0", "2", "4"]
