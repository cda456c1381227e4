"""A file system that is full under the store alone: records are acknowledged all the same, and stored once it has room."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess

LINES = 20_000
WAIT_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path)
    warm = server.data_dir / "warm"
    warm.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(warm)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this account may not mount a file system")
    try:
        with server:
            yield server
    finally:
        subprocess.run(["umount", str(warm)], check=True)


def state_of(client: Client) -> str:
    (projection,) = client.status().projections
    return str(projection.problem) if projection.problem else "fine"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {WAIT_S:g} s"
        time.sleep(0.05)


@pytest.mark.timeout(180)
def test_a_full_store_is_tried_again_and_takes_everything_once_there_is_room(server: ServerProcess) -> None:
    with Client(server.client_config()) as client:
        written = 0
        while state_of(client) == "fine":
            with client.ingester(f"full/{written}", format="ndjson") as ingester:
                ingester.write(
                    b"".join(
                        b'{"n":%d,"pad":"%s"}\n' % (number, os.urandom(120).hex().encode())
                        for number in range(written, written + LINES)
                    )
                )
                assert ingester.finish(timeout_s=30).accepted_count == LINES
            written += LINES
            assert written <= 20 * LINES, "16 MiB hold all that"
        resize = ["mount", "-o", "remount,size=1g", str(server.data_dir / "warm")]
        subprocess.run(resize, check=True)
        wait_for(lambda: state_of(client) == "fine", "a store that works again")
        table = client.search("* | fields n", consistent=True, limit=1_000_000).to_arrow()
        assert sorted(map(int, table.column("n").to_pylist())) == list(range(written)), "each once"
        assert client.status().ingest.dead_letter_count == 0, "no record was blamed for it"
