"""`heimdall ingest --follow` on a real server: rotation, truncation, restarts; each line once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from heimdall_client import AsyncClient, HeimdallError, IngestOptions, InputError
from heimdall_client.cli.follow import Follower, FollowTimes
from tests.support import cli
from tests.support.server_process import ServerProcess

# ruff: noqa: ASYNC240 - small files of the test's own
# Retention works by the records' time, so an old one would go at the server's next start.
TODAY = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"
QUICK = FollowTimes(poll_s=0.02, idle_flush_s=0.05, rotated_quiet_s=0.3)


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.client_config()) as client:
        yield client


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


class Writer:
    """Writes numbered lines, as a program that logs does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = 0

    def lines(self, count: int, *, path: Path | None = None) -> None:
        """Append so many."""
        with (path or self.path).open("a") as file:
            for _ in range(count):
                self.written += 1
                file.write(
                    f"{TODAY}T00:00:00.{self.written:06d}Z INFO line {self.written} of {self.path.parent.name}\n"
                )


@contextlib.asynccontextmanager
async def following(client: AsyncClient, path: Path) -> AsyncIterator[list[str]]:
    """While it is entered, the file is followed."""
    told: list[str] = []

    def retrying(error: HeimdallError, _delay_s: float) -> None:
        told.append(f"break: {error}")

    options = IngestOptions(give_up_after_s=float("inf"))
    follower = Follower(client, path, {}, options, told.append, retrying, QUICK)
    task = asyncio.create_task(follower.run())
    try:
        yield told
        follower.stop()
        await asyncio.wait_for(task, 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def numbers(client: AsyncClient, path: Path) -> Counter[int]:
    """Lines that are stored, with how often."""
    rows = client.search(f'"of {path.parent.name}" | fields body', consistent=True)
    return Counter([int(row["body"].split()[1]) async for row in rows])


async def until(client: AsyncClient, path: Path, count: int, *, timeout_s: float = 20) -> None:
    """Wait until the lines from 1 to `count` are stored, each once."""
    deadline_s = time.monotonic() + timeout_s
    expected = Counter(range(1, count + 1))
    while (stored := await numbers(client, path)) != expected:
        extra, missing = stored - expected, expected - stored
        assert time.monotonic() < deadline_s, (
            f"twice {sorted(extra)[:5]}, missing {sorted(missing)[:5]} of {len(missing)}"
        )
        await asyncio.sleep(0.05)


async def eventually(holds: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


async def test_lines_that_are_written_later_are_taken_in(client: AsyncClient, log: Path) -> None:
    writer = Writer(log)
    async with following(client, log) as told:
        await eventually(lambda: any("isn't there yet" in line for line in told))
        writer.lines(3)
        await until(client, log, 3)
        writer.lines(100)
        await until(client, log, 103)


async def test_a_line_is_taken_in_when_it_is_whole(client: AsyncClient, log: Path) -> None:
    writer = Writer(log)
    async with following(client, log):
        writer.lines(2)
        with log.open("a") as file:
            file.write(f"{TODAY}T00:00:01Z INFO line 3 of ")
        await until(client, log, 2)
        await asyncio.sleep(0.3)
        with log.open("a") as file:
            file.write(f"{log.parent.name}\n")
        await until(client, log, 3)


async def test_a_renamed_file_is_read_to_its_end_beside_the_new_one(client: AsyncClient, log: Path) -> None:
    writer = Writer(log)
    old = log.with_name("app.log.1")
    async with following(client, log) as told:
        writer.lines(5)
        await until(client, log, 5)
        log.rename(old)
        writer.lines(5)
        await eventually(lambda: any("rotated" in line for line in told))
        writer.lines(2, path=old)  # the writer still has the old one open
        await until(client, log, 12)
    async with following(client, log):
        writer.lines(1)
        await until(client, log, 13)


async def test_a_copied_and_truncated_file_begins_anew(client: AsyncClient, log: Path) -> None:
    writer = Writer(log)
    async with following(client, log) as told:
        writer.lines(20)
        await until(client, log, 20)
        shutil.copy(log, log.with_name("app.log.1"))
        os.truncate(log, 0)
        writer.lines(3)
        await eventually(lambda: any("truncated" in line for line in told))
        await until(client, log, 23)


async def test_a_truncated_file_that_is_longer_again_is_noticed(client: AsyncClient, log: Path) -> None:
    writer = Writer(log)
    async with following(client, log):
        writer.lines(3)
        await until(client, log, 3)
        with log.open("r+") as file:
            file.truncate()
            writer.written = 3
            file.seek(0)
            text = "".join(f"{TODAY}T00:00:02Z INFO line {n} of {log.parent.name}\n" for n in range(4, 50))
            file.write(text)
        await until(client, log, 49)


async def test_a_restart_goes_on_where_it_was_even_if_the_file_was_rotated_meanwhile(
    client: AsyncClient, log: Path
) -> None:
    writer = Writer(log)
    async with following(client, log):
        writer.lines(10)
        await until(client, log, 10)
    writer.lines(5)
    log.rename(log.with_name("app.log.1"))
    writer.lines(5)
    log.with_name("app.log.1").rename(log.with_name("app.log.2"))
    log.rename(log.with_name("app.log.1"))
    writer.lines(5)
    with log.with_name("app.log.2").open("rb") as plain, gzip.open(log.with_name("app.log.2.gz"), "wb") as packed:
        shutil.copyfileobj(plain, packed)
    log.with_name("app.log.2").unlink()
    os.utime(log.with_name("app.log.2.gz"), (time.time() - 60, time.time() - 60))
    async with following(client, log):
        await until(client, log, 25)
    async with following(client, log):
        await asyncio.sleep(0.2)
        assert await numbers(client, log) == Counter(range(1, 26))


async def test_rotated_files_from_before_the_first_start_are_left_alone(client: AsyncClient, log: Path) -> None:
    log.with_name("app.log.1").write_text(f"{TODAY}T00:00:00Z INFO line 99 of {log.parent.name}\n")
    writer = Writer(log)
    writer.lines(2)
    async with following(client, log):
        await until(client, log, 2)


async def test_a_file_that_was_ingested_once_is_followed_from_there(
    server: ServerProcess, client: AsyncClient, log: Path
) -> None:
    writer = Writer(log)
    writer.lines(1)
    outcome = await asyncio.to_thread(cli.run, "ingest", log, config=server.client_file)
    assert outcome.returncode == 0, outcome.stderr
    writer.lines(5)
    async with following(client, log):
        await until(client, log, 6)


async def test_a_folder_that_is_not_there_yet_is_waited_for(client: AsyncClient, log: Path) -> None:
    late = log.parent / "later" / "app.log"
    async with following(client, late) as told:
        await eventually(lambda: any("isn't there yet" in line for line in told))
        late.parent.mkdir()
        Writer(late).lines(2)
        await until(client, late, 2)


async def test_a_folder_cannot_be_followed(client: AsyncClient, log: Path) -> None:
    with pytest.raises(InputError, match="it is a directory"):
        async with following(client, log.parent):
            await asyncio.sleep(0.2)


async def test_identical_files_in_a_row_are_kept_apart(client: AsyncClient, log: Path) -> None:
    line = f"{TODAY}T00:00:01Z INFO line 1 of {log.parent.name}\n"
    async with following(client, log) as told:
        log.write_text(line * 3)
        await eventually(lambda: any("following" in text for text in told))
        await asyncio.sleep(0.3)
        os.truncate(log, 0)
        await eventually(lambda: any("truncated" in text for text in told))
        log.write_text(line)
        await eventually(lambda: sum("following" in text for text in told) == 2)
        deadline_s = time.monotonic() + 10
        while (await numbers(client, log))[1] != 4:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)


def test_ctrl_c_flushes_and_ends_without_a_traceback(server: ServerProcess, log: Path) -> None:
    writer = Writer(log)
    writer.lines(4)
    command = cli.line("ingest", "--follow", log, "-o", "json", config=server.client_file)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        with server.client() as client:
            deadline_s = time.monotonic() + 30
            while not list(client.search(f'"of {log.parent.name}"', consistent=True)):
                assert time.monotonic() < deadline_s
                assert process.poll() is None
                time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b'"accepted_count": 4' in out


async def test_it_goes_on_after_the_server_was_away(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    writer = Writer(log)
    server = ServerProcess(tmp_path / "own")
    await asyncio.to_thread(server.start)
    try:
        async with AsyncClient(server.client_config()) as client, following(client, log) as told:
            writer.lines(3)
            await until(client, log, 3)
            await asyncio.to_thread(server.kill)
            writer.lines(3)
            log.rename(log.with_name("app.log.1"))
            writer.lines(3)
            await eventually(lambda: any("break" in line for line in told))
            await asyncio.to_thread(server.start)
            # The follower's client may still wait before it connects again.
            async with AsyncClient(server.client_config()) as fresh:
                await until(fresh, log, 9, timeout_s=30)
    finally:
        if server.running:
            await asyncio.to_thread(server.stop)
