"""Data folders that former versions left (`stored/`, made by `tests.support.stored_folder`): this one goes on in them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from heimdall_client.sync_client import Client
from tests.support.server_process import ServerProcess
from tests.support.stored_folder import COUNT, SOURCE, line

FOLDERS = sorted((Path(__file__).parent / "stored").glob("*.tar.gz"))


def test_there_are_folders_of_former_versions() -> None:
    assert FOLDERS


@pytest.mark.timeout(120)
@pytest.mark.parametrize("packed", FOLDERS, ids=lambda path: path.name.partition(".")[0])
def test_a_former_versions_folder_is_opened_and_gone_on_in(packed: Path, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    with tarfile.open(packed) as archive:
        archive.extractall(server.data_dir, filter="data")
    with server, Client(server.client_config()) as client:
        assert all("services that don't run here" in notice for notice in client.status().notices)
        old = client.search(f"source:{SOURCE} | fields n, body", consistent=True).to_arrow()
        assert sorted(map(int, old.column("n").to_pylist())) == list(range(COUNT))
        with client.ingester(SOURCE, format="ndjson") as ingester:
            assert ingester.offset == sum(len(line(number)) for number in range(COUNT)), "where its source stood"
            ingester.write(line(COUNT))
            assert ingester.finish(timeout_s=30).accepted_count == 1
        new = client.search(f"source:{SOURCE} | fields n, body", consistent=True).to_arrow()
        assert sorted(map(int, new.column("n").to_pylist())) == list(range(COUNT + 1))
        persons = {body.rpartition(" of ")[2] for body in new.column("body").to_pylist()}
        assert len(persons) == 1, "the same key still protects them alike"
        assert "alice" not in persons.pop()
        (row,) = client.search(f"source:{SOURCE} | stats count()", consistent=True)
        assert row["count"] == COUNT + 1, "rollups too"
