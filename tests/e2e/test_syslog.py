"""Syslog into a real server process: found by search, durable when the process is told to go, and gone from no restart."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from heimdall_client.sync_client import Client
from heimdall_server.crypto.certificate_files import key_path
from heimdall_server.rpc.server import split_address
from tests.support.server_process import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    environment = {f"HEIMDALL_SYSLOG__{name}_ADDRESS": "127.0.0.1:0" for name in ("TLS", "TCP", "UDP")}
    with ServerProcess(tmp_path, environment=environment, metrics=True) as process:
        yield process


def place(server: ServerProcess, transport: str) -> tuple[str, int]:
    addresses = [event["addresses"] for event in server.events() if event.get("event") == "syslog listening"]
    return split_address(addresses[-1][transport])


def connect(server: ServerProcess) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(server.pki.ca_file))
    certificate = server.certs / "writer.pem"
    context.load_cert_chain(certificate, key_path(certificate))
    host, port = place(server, "tls")
    return context.wrap_socket(socket.create_connection((host, port), timeout=10), server_hostname=host)


def metrics(server: ServerProcess) -> str:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def count(server: ServerProcess, question: str) -> int:
    with Client(server.client_config()) as client:
        (row,) = client.search(f"{question} | stats count()", consistent=True)
        return int(row["count"])


def test_what_was_sent_is_found_and_survives_the_end_of_the_process(server: ServerProcess) -> None:
    messages = [b"<13>1 - host%d shop %d - - order %d paid" % (n % 3, n, n) for n in range(5_000)]
    with connect(server) as connection:
        connection.sendall(b"".join(b"%d %b" % (len(message), message) for message in messages))
        connection.unwrap().close()
    with socket.create_connection(place(server, "tcp"), timeout=10) as connection:
        connection.sendall(b"<11>Nov  3 10:00:00 web1 nginx[12]: upstream timed out\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"<14>a datagram", place(server, "udp"))
    deadline_s = time.monotonic() + 30
    while count(server, "source:syslog*") < 5_002:
        assert time.monotonic() < deadline_s
    assert server.stop() == 0
    assert "ingest.push_lost" not in server.log_text()
    server.start()
    assert count(server, 'source:"syslog/writer" AND service:shop AND order') == 5_000
    assert count(server, 'service:nginx AND host:web1 AND "timed out" AND severity:>=ERROR') == 1
    assert count(server, 'source:"syslog/127.0.0.1" AND datagram') == 1


def test_a_process_that_is_told_to_go_stores_what_it_has_read_first(server: ServerProcess) -> None:
    messages = [b"<13>1 - - shop - - - last words %d" % n for n in range(20_000)]
    connection = connect(server)
    connection.sendall(b"".join(b"%d %b" % (len(message), message) for message in messages))
    # It has begun to read; nobody waits for anything to be stored.
    deadline_s = time.monotonic() + 30
    while 'heimdall_edge_syslog_received_bytes_total{transport="tls"}' not in metrics(server):
        assert time.monotonic() < deadline_s
    assert server.stop() == 0
    connection.close()
    assert "ingest.push_lost" not in server.log_text()
    server.start()
    assert count(server, '"last words"') == 20_000
