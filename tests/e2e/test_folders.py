"""The data folder as an operator may find it: in use, copied, without its store, of another version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from heimdall.admin.v1 import admin_service_pb2
from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess

EXIT_CANNOT_START = 2


def write(server: ServerProcess, first: int, count: int) -> None:
    """Numbered records, acknowledged."""
    with Client(server.client_config()) as client, client.ingester(f"folder/{first}", format="ndjson") as ingester:
        ingester.write(
            b"".join(
                b'{"n":%d,"pad":"%s"}\n' % (n, os.urandom(200).hex().encode()) for n in range(first, first + count)
            )
        )
        ingester.finish(timeout_s=30)


def numbers(server: ServerProcess) -> list[int]:
    with Client(server.client_config()) as client:
        table = client.search("* | fields n", consistent=True, limit=100_000).to_arrow()
    return sorted(int(number) for number in table.column("n").to_pylist())


def notices(server: ServerProcess) -> list[str]:
    with Client(server.client_config()) as client:
        return [one for one in client.status().notices if "services that don't run here" not in one]


@pytest.mark.timeout(120)
def test_a_second_server_on_a_folder_is_refused_and_told_the_first_and_a_killed_one_is_taken_over(
    tmp_path: Path,
) -> None:
    with ServerProcess(tmp_path) as server:
        write(server, 0, 100)
        second = subprocess.run(
            [sys.executable, "-m", "heimdall_server"],
            env={**server._variables(), "HEIMDALL_LISTEN__MESH_ADDRESS": "127.0.0.1:0"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == EXIT_CANNOT_START
        assert f"is in use by process {server.pid}" in second.stderr
        assert numbers(server) == list(range(100)), "the first one goes on"
        server.kill()
        server.start()
        assert numbers(server) == list(range(100))
        assert not notices(server)


@pytest.mark.timeout(120)
def test_a_folder_that_was_copied_while_a_server_was_at_work_says_so_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "first") as server:
        write(server, 0, 100)
        assert numbers(server) == list(range(100))
        pid = server.pid
        server.kill()
        shutil.copytree(tmp_path / "first" / "data", tmp_path / "second" / "data", symlinks=True)
    with ServerProcess(tmp_path / "second") as copy:
        assert numbers(copy) == list(range(100))
        assert any(f"copied while process {pid} was at work" in notice for notice in notices(copy))
    with copy:
        assert not notices(copy)


@pytest.mark.timeout(180)
def test_a_deleted_store_is_rebuilt_as_far_as_the_journal_reaches_and_status_says_how_far(tmp_path: Path) -> None:
    small = {"HEIMDALL_JOURNAL__SEGMENT_BYTES": str(64 * 1024), "HEIMDALL_JOURNAL__RETAIN_BYTES": "0"}
    server = ServerProcess(tmp_path, environment=small)
    with server:
        for first in range(0, 1000, 100):
            write(server, first, 100)
        assert numbers(server) == list(range(1000))
    shutil.rmtree(server.data_dir / "warm")
    with server:
        kept = numbers(server)
        assert len(kept) == len(set(kept)) < 1000
        assert kept == list(range(1000 - len(kept), 1000)), "what the journal still holds is there"
        (notice,) = notices(server)
        assert "inserted again" in notice
        assert "are gone" in notice
        with Client(server.client_config()) as client:
            health = {service.name: service.health for service in client.status().services}
        assert health["heimdall.query.v1.QueryService"] == admin_service_pb2.HEALTH_DEGRADED
        write(server, 1000, 100)
    with server:
        assert not notices(server)
        assert numbers(server) == [*kept, *range(1000, 1100)]
