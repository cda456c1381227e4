from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_client import Client, ClosedError, Created, OffsetConflictError, QueryInvalidError, Rows
from heimdall_client.loop_thread import LoopThread
from tests.support.append_server import status_of
from tests.support.pki import Pki
from tests.support.sdk_server import FakeServer, client_config


@pytest.fixture
def portal() -> Iterator[LoopThread]:
    loop_thread = LoopThread()
    yield loop_thread
    loop_thread.close()


@pytest.fixture
def server(portal: LoopThread, pki: Pki) -> Iterator[FakeServer]:
    async def make() -> FakeServer:
        return FakeServer(pki)

    running = portal.run(make())
    portal.run(running.start())
    yield running
    portal.run(running.stop())


@pytest.fixture
def client(server: FakeServer, pki: Pki) -> Iterator[Client]:
    with Client(client_config(pki, address=server.address)) as connected:
        yield connected


def test_blocking_client_does_what_the_other_does(client: Client, tmp_path: Path) -> None:
    with client.ingester("s", service="api") as ingester:
        ingester.write(b"one\ntwo\n")
        assert ingester.flush() == ingester.offset == ingester.durable_offset == 8
        assert ingester.finish().accepted_count == 2
    path = tmp_path / "app.log"
    path.write_bytes(b"x\n" * 1000)
    assert client.ingest_file(path).accepted_count == 1000
    with client.ingester("a", format="arrow") as arrow:
        arrow.append_arrow(pa.table({"body": ["x"]}))
    assert client.get_source("s").next_offset == 8
    assert client.status().version == "1.2.3"
    assert len(client.datasets()) == 2
    assert client.explain("x").canonical_text == "x"
    assert [field.name for field in client.fields()] == ["f0", "f1", "f2"]
    assert client.field_values("host").values[0].record_count == 3
    assert client.list_dead_letters().total_count == 0
    assert len(client.retry_dead_letters(["1"]).outcomes) == 1
    assert len(client.delete_dead_letters(["1"]).outcomes) == 1


def test_search_is_an_iterator(server: FakeServer, client: Client) -> None:
    search = client.search("*")
    assert [row["body"] for row in search][:2] == ["line 0", "line 1"]
    assert search.statistics.result_row_count == 35
    assert client.search("*").to_arrow() == server.query.table
    assert client.search("*").to_polars().height == 35
    assert len(client.search("*").to_pandas()) == 35
    assert sum(batch.num_rows for batch in client.search("*").batches()) == 35
    assert len(list(client.search("*", encoding="json").json_rows())) == 35
    with client.search("*") as started:
        assert started.columns[0] == "time"
    with pytest.raises(QueryInvalidError):
        client.search("bad").start()


def test_leaving_a_loop_early_closes_the_answer(client: Client) -> None:
    for row in client.search("*"):
        assert row["body"] == "line 0"
        break
    assert client.status().version == "1.2.3"


def test_watch_is_an_iterator(server: FakeServer, client: Client, portal: LoopThread) -> None:
    async def arrive(*bodies: str) -> None:
        server.query.arrive(*bodies)

    portal.run(arrive("error 0"))
    events = client.watch("error", last=1)
    assert isinstance(next(events), Created)
    found = next(event for event in events if isinstance(event, Rows))
    assert found.rows == [{"body": "error 0"}]
    with client.watches() as watches:
        watch_id = watches.add("error")
        assert isinstance(next(watches), Created)
        watches.update(watch_id, "info")
        watches.cancel(watch_id)
        assert len(list(watches)) >= 1


def test_records_are_logged_from_many_threads(server: FakeServer, client: Client) -> None:
    with client.record_ingester("s", service="orders") as log:

        def work(name: int) -> None:
            for number in range(500):
                log.log("paid", attributes={"n": number, "worker": name})

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.ingest.sources["s"].accepted_count == 2000


def test_lone_record_goes_without_a_flush(server: FakeServer, client: Client) -> None:
    with client.record_ingester("s") as log:
        log.log("alone")
        deadline_s = time.monotonic() + 5
        while not server.ingest.source("s").accepted_count and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert server.ingest.sources["s"].accepted_count == 1


def test_failed_source_is_told_to_who_logs(server: FakeServer, client: Client) -> None:
    server.ingest.script.append(status_of(9, "OFFSET_CONFLICT"))

    def log_on() -> None:
        with client.record_ingester("s") as log:
            deadline_s = time.monotonic() + 5
            while time.monotonic() < deadline_s:
                log.log("x")
                time.sleep(0.01)

    with pytest.raises(OffsetConflictError):
        log_on()


def test_closed_client_leaves_no_thread_and_says_so(server: FakeServer, pki: Pki) -> None:
    before = threading.active_count()
    client = Client(client_config(pki, address=server.address))
    client.status()
    client.close()
    client.close()
    assert threading.active_count() <= before
    with pytest.raises(ClosedError):
        client.status()


def test_exception_in_the_waiting_thread_cancels_what_it_waits_for(portal: LoopThread) -> None:
    ended = threading.Event()

    async def wait_long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    def interrupt() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        portal.run(wait_long())
    assert ended.is_set()


@pytest.mark.parametrize("ending", ["pass", "client.close()"], ids=["forgotten", "closed"])
def test_program_that_is_interrupted_ends_at_once(server: FakeServer, pki: Pki, ending: str) -> None:
    config = client_config(pki, address=server.address)
    program = textwrap.dedent(
        f"""
        import sys
        import heimdall_client
        client = heimdall_client.connect({config.address!r}, ca_file={str(config.ca_file)!r},
                                         cert_file={str(config.cert_file)!r}, key_file={str(config.key_file)!r})
        print(client.status().version, flush=True)
        try:
            client.ingest_stream(sys.stdin.buffer, "stdin")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        {ending}
        """
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "1.2.3\n"
        process.stdin.write("a line\n")
        process.stdin.flush()
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(25) == 0, process.stderr.read()
        assert "Traceback" not in process.stderr.read()
