"""A whole server: what comes by HTTP, with a certificate or a token, is found by a query, and outlives a kill."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall_server.crypto.certificate_files import key_path
from tests.support.edge_server import write_tokens
from tests.support.server_process import ServerProcess

SHIPPERS = Path(__file__).parents[1] / "wire" / "shippers"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, environment=_environment(tmp_path)) as running:
        yield running


def _environment(folder: Path) -> dict[str, str]:
    return {
        "HEIMDALL_HTTP__CLIENT_CERTIFICATE": "optional",
        "HEIMDALL_HTTP__TOKENS_FILE": str(folder / "tokens.toml"),
    }


@pytest.fixture(autouse=True)
def tokens(tmp_path: Path) -> dict[str, str]:
    return write_tokens(tmp_path / "tokens.toml", "agent")


def connect(server: ServerProcess, client: str | None) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(server.certs / "ca.pem"))
    if client is not None:
        leaf = server.certs / f"{client}.pem"
        context.load_cert_chain(leaf, key_path(leaf))
    host, _, port = server.http_address.rpartition(":")
    return http.client.HTTPSConnection(host, int(port), context=context, timeout=20)


def play(connection: http.client.HTTPSConnection, file: Path, **further: str) -> int:
    """Send a recorded request."""
    head, _, body = file.read_bytes().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines) | further
    method, path, _ = first.split()
    connection.request(method, path, body or None, headers)
    response = connection.getresponse()
    response.read()
    return response.status


def test_what_comes_by_http_outlives_a_kill_and_is_found_by_a_query(
    server: ServerProcess, tokens: dict[str, str]
) -> None:
    connection = connect(server, None)
    for file in sorted(SHIPPERS.glob("*/*.http")):
        assert play(connection, file, Authorization=f"Bearer {tokens['agent']}") in (200, 204), file
    connection.close()
    record = {"timeUnixNano": "1795514400000000000", "body": {"stringValue": "kept"}, "severityNumber": 18}
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]})
    for again in (False, True):
        connection = connect(server, "writer")
        connection.request("POST", "/v1/logs", body, {"content-type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()
        if not again:
            server.kill()
            server.start()
    with server.client() as client:
        rows = client.search("severity:>=ERROR | stats count() by service, source", consistent=True)
        found = {(row["service"], row["source"]): row["count"] for row in rows}
    assert found == {("shop", "elastic/agent"): 5, ("shop", "loki/agent"): 5, ("", "otlp/writer"): 1}
    assert server.stop() == 0
