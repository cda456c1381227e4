"""Whole servers whose key-encryption key is in a service: they start, go on, change it, and refuse another one or none."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from heimdall.privacy.v1 import operation_pb2
from heimdall_server.crypto.key_encryption.config import KekConfig
from tests.support.remote_keks import kms_config, kms_server, new_kms_key, transit_server, variables
from tests.support.server_process import START_S, ServerProcess

ALICE = "alice.lovelace@example.com"
SERVICES = {"HEIMDALL_SERVICES": '["ingest","query","admin","privacy"]'}


@contextlib.contextmanager
def folder_of(tmp_path: Path) -> Iterator[Path]:
    """A folder for servers, whose PostgreSQL is cleared away, too."""
    yield tmp_path
    place = tmp_path / "data" / "postgres" / "place"
    if place.is_file():
        shutil.rmtree(place.read_text().strip(), ignore_errors=True)


def server_with(folder: Path, *settings: Mapping[str, str]) -> ServerProcess:
    environment = dict(SERVICES)
    for one in settings:
        environment |= one
    return ServerProcess(folder, environment=environment)


def refused(server: ServerProcess) -> str:
    """Why a server doesn't start."""
    offset = server.launch()
    assert server._wait(START_S) == 2
    return server.log_text(offset)


def takes_in(server: ServerProcess, folder: Path) -> str:
    """Send a record that names Alice; her token."""
    file = folder / "in.ndjson"
    file.write_text(json.dumps({"message": f"login of {ALICE}"}) + "\n")
    with server.client() as client:
        client.ingest_file(file, source_id="people")
        rows = json.dumps(list(client.search("*", consistent=True)), default=str)
    (token,) = re.findall(r"\[email:[0-9a-z]{27}\]", rows)
    return str(token)


def reveals(server: ServerProcess, token: str) -> None:
    with server.client() as client:
        (revealed,) = client.reveal([token], reason="ticket 4711")
    assert revealed.value == ALICE


def wrapped_by(server: ServerProcess) -> set[str]:
    with server.client() as client:
        return {key.wrapped_by for key in client.keys().keys if key.wrapped_by}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["aws_kms", "vault_transit"])
def test_a_server_lives_under_a_services_key_and_refuses_another_one_or_none(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_of(tmp_path))
        if kind == "aws_kms":
            address, key = stack.enter_context(kms_server())
            config, other = kms_config((address, key)), kms_config((address, new_kms_key(address)))
            away = replace(config, aws_endpoint_url="http://127.0.0.1:1", deadline_s=1.0)
        else:
            config, _ = stack.enter_context(transit_server(folder))
            (folder / "other").mkdir()
            other, _ = stack.enter_context(transit_server(folder / "other"))
            away = replace(config, vault_address="http://127.0.0.1:1", deadline_s=1.0)
        with server_with(folder, variables("KEK", config)) as server:
            token = takes_in(server, folder)
            assert {name.rpartition(":v")[0] or name for name in wrapped_by(server)} in (
                {f"aws-kms:{config.aws_key_id}"},
                {"vault-transit:transit/heimdall"},
            )
            assert not (server.data_dir / "keys" / "root.key").exists()
            server.kill()
        told = refused(server_with(folder, variables("KEK", other)))
        # moto says of another key's wrap what KMS says where the key may not be used.
        assert "the data was written under key" in told or "AccessDeniedException" in told
        told = refused(server_with(folder, variables("KEK", away)))
        assert "failed: decrypt with" in told
        assert "Traceback" not in told
        with server_with(folder, variables("KEK", config)) as server:
            reveals(server, token)


@pytest.mark.timeout(300)
def test_a_key_file_is_left_for_kms_by_a_rotation_over_kills_and_changed_settings(tmp_path: Path) -> None:
    with folder_of(tmp_path) as folder, kms_server() as kms:
        config = kms_config(kms)
        with server_with(folder, variables("NEXT", config)) as server:
            token = takes_in(server, folder)
            assert all(name.startswith("local:") for name in wrapped_by(server))
            with server.client() as client:
                operation_id = client.rotate_key("kek", reason="moved to KMS").operation_id
                (*_, last) = client.watch_operation(operation_id)
            assert last.state == operation_pb2.Operation.STATE_DONE, last.problem
            assert last.affected_count > 15
            assert wrapped_by(server) == {f"aws-kms:{kms[1]}"}
            server.kill()
            (server.data_dir / "keys" / "root.key").unlink()
            server.start()
            reveals(server, token)
            with server.client() as client:
                assert any("keys.next" in notice for notice in client.status().notices)
        with server_with(folder, variables("KEK", config)) as server:
            reveals(server, token)
        alone = ServerProcess(
            folder, environment={"HEIMDALL_SERVICES": '["ingest","query","admin"]', **variables("KEK", config)}
        )
        with alone, alone.client() as client:
            assert token in json.dumps(list(client.search("*", consistent=True)), default=str)
        assert "restore the right key" in refused(server_with(folder))


def test_settings_of_keys_that_cannot_be_are_all_told_at_once(tmp_path: Path) -> None:
    settings = {
        "HEIMDALL_KEYS__KEK__KIND": "aws_kms",
        "HEIMDALL_KEYS__NEXT__KIND": "vault_transit",
        "HEIMDALL_KEYS__NEXT__VAULT_ADDRESS": "http://vault.example.com",
    }
    told = refused(server_with(tmp_path, settings))
    for problem in ("aws_key_id: kind 'aws_kms' needs it", "vault_key: kind", "vault_token_file: kind", "use https"):
        assert problem in told
    assert KekConfig().kind == "file"
