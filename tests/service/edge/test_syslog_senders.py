"""What real senders send arrives as they meant it: live where they are installed, and from their recorded bytes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from heimdall_server.crypto.certificate_files import key_path
from heimdall_server.domain.records import TimeFlag
from heimdall_server.edge.syslog.config import SyslogConfig
from tests.support.pki import Pki
from tests.support.syslog_edge import LOOPBACK, RunningEdge, eventually, syslog_edge
from tests.support.syslog_senders import Target, logger, rsyslog, syslog_ng

RECORDED = Path(__file__).parent / "recorded"
LINES = ["order 1 paid", "caf\u00e9: 2 \u20ac", "order 3 failed [code=7]", "  indented", "last one"]
EVERYWHERE = SyslogConfig(tls_address=LOOPBACK, tcp_address=LOOPBACK, udp_address=LOOPBACK)
Daemon = Callable[[Path, Path, Target], AbstractContextManager[None]]


def target(edge: RunningEdge, transport: str) -> Target:
    host, port = edge.place("tcp" if transport == "lines" else transport)
    certificate = edge.pki.write("sender", edge.pki.leaf("sender"))
    return Target(host, port, transport, edge.pki.ca_file, certificate, key_path(certificate))


async def check(edge: RunningEdge, sender: str, transport: str) -> None:
    """All lines are there once and in order, with what the sender says of them."""
    await eventually(lambda: edge.state.counts.accepted >= len(LINES), f"{edge.state.counts}")
    rows = await edge.records()
    assert [row["body"].strip() for row in rows] == [line.strip() for line in LINES]
    assert not edge.state.counts.rejected
    assert {row["service"] for row in rows} == {"shop"}
    assert {row["severity_text"] for row in rows} == {"notice"}
    assert {row["source"] for row in rows} == {"syslog/sender" if transport == "tls" else "syslog/127.0.0.1"}
    assert {row["attributes"]["network.peer.address"] for row in rows} == {"127.0.0.1"}
    assert {row["attributes"]["facility"] for row in rows} == {"user" if sender == "logger" else "local3"}
    assert all(row["host"] for row in rows)
    assert not any(row["time_flags"] & TimeFlag.MISSING for row in rows)


@pytest.mark.parametrize("transport", ["tls", "tcp", "lines", "udp"])
@pytest.mark.parametrize("daemon", [rsyslog, syslog_ng], ids=["rsyslog", "syslog_ng"])
async def test_a_real_daemon_is_understood(pki: Pki, tmp_path: Path, daemon: Daemon, transport: str) -> None:
    async with syslog_edge(pki, tmp_path, EVERYWHERE) as edge:
        source = tmp_path / "shop.log"
        source.write_text("\n".join([*LINES, ""]))
        folder = tmp_path / "sender"
        folder.mkdir()
        with daemon(folder, source, target(edge, transport)):
            await check(edge, "daemon", transport)


@pytest.mark.parametrize("transport", ["tcp", "lines", "udp"])
@pytest.mark.parametrize("style", ["--rfc5424", "--rfc3164"])
async def test_the_real_logger_is_understood(pki: Pki, tmp_path: Path, style: str, transport: str) -> None:
    async with syslog_edge(pki, tmp_path, EVERYWHERE) as edge:
        logger(target(edge, transport), LINES, style)
        await check(edge, "logger", transport)


@pytest.mark.parametrize("recording", sorted(path.name for path in RECORDED.glob("*.bin")))
async def test_recorded_bytes_of_real_senders_are_understood(pki: Pki, tmp_path: Path, recording: str) -> None:
    """Named `<sender>-<transport>[-<style>].bin`; datagrams are octet-counted in the file."""
    sender, transport, *_ = recording.removesuffix(".bin").split("-")
    data = (RECORDED / recording).read_bytes()
    async with syslog_edge(pki, tmp_path, EVERYWHERE) as edge:
        if transport == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                while data:
                    size, _, data = data.partition(b" ")
                    out.sendto(data[: int(size)], edge.place("udp"))
                    data = data[int(size) :]
        elif transport == "tcp":
            # What is octet-counted is the same over TLS.
            await edge.send(data, "tls", "sender")
            transport = "tls"
        else:
            await edge.send(data, "tcp")
        await check(edge, sender, transport)


def test_there_are_recordings_of_every_sender() -> None:
    assert {path.name.split("-")[0] for path in RECORDED.glob("*.bin")} == {"logger", "rsyslog", "syslog_ng"}
