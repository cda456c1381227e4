"""Syslog over real sockets: what is sent is in the journal, with its sender; nobody is let in who mustn't be."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from heimdall_server.decode.octets import CUT_REASON, NO_FRAME_REASON, OVERSIZE_REASON
from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.edge.syslog.config import SyslogConfig
from heimdall_server.rpc.permissions import AccessPolicy
from heimdall_server.services.ingest.logic.pipeline import PipelineLimits
from tests.support.pki import TRUST_DOMAIN, Pki
from tests.support.syslog_edge import LOOPBACK, RunningEdge, closed, eventually, metric, syslog_edge

RFC5424 = (
    b'<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3" '
    b'eventSource="Application"] An application event log entry...'
)
RFC3164 = b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8"
BARE = b"<13>Use the BFG!"


def octets(*messages: bytes) -> bytes:
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


def everything(**more: object) -> SyslogConfig:
    return SyslogConfig(tls_address=LOOPBACK, tcp_address=LOOPBACK, udp_address=LOOPBACK, **more)  # type: ignore[arg-type]


async def test_octet_counted_messages_over_tls_carry_their_sender(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        await edge.send(octets(RFC5424, RFC3164, BARE), "tls")
        bodies = await edge.bodies(3)
        assert bodies == [
            "An application event log entry...",
            "'su root' failed for lonvick on /dev/pts/8",
            "Use the BFG!",
        ]
        first, second, third = await edge.records()
        assert {row["source"] for row in (first, second, third)} == {"syslog/admin"}
        assert {row["principal"] for row in (first, second, third)} == {f"spiffe://{TRUST_DOMAIN}/client/admin"}
        assert {row["attributes"]["network.peer.address"] for row in (first, second, third)} == {"127.0.0.1"}
        assert [row["host"] for row in (first, second, third)] == ["mymachine.example.com", "mymachine", "127.0.0.1"]
        assert [row["service"] for row in (first, second)] == ["evntslog", "su"]
        assert first["attributes"]["exampleSDID@32473.eventSource"] == "Application"
        assert (first["severity_text"], first["attributes"]["facility"]) == ("notice", "local4")
        assert first["dataset"] == "logs"


async def test_lines_over_tcp_carry_the_address(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        await edge.send(b"\n".join([RFC3164, BARE, b"<11>boom", b"  at here", b"  at there", b""]))
        bodies = await edge.bodies(3)
        assert bodies[2] == "boom\n  at here\n  at there"
        assert {row["source"] for row in await edge.records()} == {"syslog/127.0.0.1"}
        assert {row["principal"] for row in await edge.records()} == {""}, "nobody was proved to be there"


async def test_a_last_line_is_stored_although_the_connection_stays_open(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        writer = await edge.connect()
        writer.write(BARE + b"\n")
        assert await edge.bodies(1) == ["Use the BFG!"]
        await closed(writer)


async def test_a_stream_cut_at_every_byte_is_stored_once(pki: Pki, tmp_path: Path) -> None:
    stream = octets(RFC5424, BARE) + RFC3164 + b"\n" + octets(BARE) + BARE + b"\n"
    async with syslog_edge(pki, tmp_path, everything(connections_per_sender_max=512)) as edge:

        async def send(cut: int) -> None:
            writer = await edge.connect()
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            writer.write(stream[:cut])
            await asyncio.sleep(0.01)
            writer.write(stream[cut:])
            await writer.drain()
            await closed(writer)

        cuts = range(1, len(stream))
        for begin in range(0, len(cuts), 64):
            await asyncio.gather(*(send(cut) for cut in cuts[begin : begin + 64]))
        bodies = await edge.bodies(5 * len(cuts))
        assert len(bodies) == 5 * len(cuts)
        assert bodies.count("Use the BFG!") == 3 * len(cuts)
        assert not await edge.letters()


async def test_datagrams_are_messages_and_may_hold_line_ends(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for message in (RFC5424, RFC3164 + b"\n", b"<13>two\nlines\0", b"", b"\n", b"no header"):
                sender.sendto(message, edge.place("udp"))
            bodies = await edge.bodies(4)
        assert bodies[1:] == ["'su root' failed for lonvick on /dev/pts/8", "two\nlines", "no header"]
        assert {row["source"] for row in await edge.records()} == {"syslog/127.0.0.1"}


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
async def test_ipv6_is_listened_for_as_well(pki: Pki, tmp_path: Path) -> None:
    everywhere = "[::1]:0"
    config = SyslogConfig(tls_address=everywhere, tcp_address=everywhere, udp_address=everywhere)
    async with syslog_edge(pki, tmp_path, config) as edge:
        for transport in ("tls", "tcp"):
            await edge.send(octets(BARE), transport)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(BARE, edge.place("udp"))
        await edge.bodies(3)
        sources = {row["source"] for row in await edge.records()}
        assert sources == {"syslog/admin", "syslog/::1"}


async def test_senders_are_told_apart_in_one_frame(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything(gather_s=0.5)) as edge:
        for last in range(2, 7):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((f"127.0.0.{last}", 0))
                sender.sendto(b"<13>from %d" % last, edge.place("udp"))
        await edge.bodies(5)
        rows = await edge.records()
        assert {(row["body"], row["source"], row["host"]) for row in rows} == {
            (f"from {last}", f"syslog/127.0.0.{last}", f"127.0.0.{last}") for last in range(2, 7)
        }
        assert sum(frame.entry.batch is not None for frame in await edge.frames()) == 1


async def test_addresses_are_no_names_where_they_must_not_be(pki: Pki, tmp_path: Path) -> None:
    config = everything(client_certificate="optional", name_by_address=False)
    async with syslog_edge(pki, tmp_path, config) as edge:
        await edge.send(octets(BARE), "tls", None)
        await edge.send(octets(BARE), "tcp")
        await edge.send(octets(BARE), "tls")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(BARE, edge.place("udp"))
        await edge.bodies(4)
        sources = {row["source"] for row in await edge.records()}
        assert sources == {"syslog/tls", "syslog/tcp", "syslog/udp", "syslog/admin"}


async def test_garbage_and_cut_frames_become_dead_letters_of_their_sender(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        await edge.send(octets(BARE) + b"\xff\x00 garbage " + octets(RFC3164) + b"99 <13>cut", "tls")
        await edge.send(octets(b"<13>other"), "tcp")
        await edge.bodies(3)
        await eventually(lambda: edge.state.counts.rejected == 2)
        garbage, cut = await edge.letters()
        assert (garbage.reason, garbage.raw) == (NO_FRAME_REASON, b"\xff\x00 garbage ")
        assert (cut.reason, cut.raw) == (CUT_REASON, b"99 <13>cut")
        assert garbage.key.source == "syslog/admin"
        assert garbage.key.principal == f"spiffe://{TRUST_DOMAIN}/client/admin"
        assert len(edge.state.letters) == 2


async def test_a_message_over_the_limit_is_a_dead_letter_and_its_neighbours_are_stored(
    pki: Pki, tmp_path: Path
) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        long = b"<13>" + b"x" * (3 * RECORD_BYTES_MAX)
        await edge.send(octets(RFC3164, long, BARE), "tls")
        assert len(await edge.bodies(2)) == 2
        (letter,) = await edge.letters()
        assert letter.reason == OVERSIZE_REASON
        assert len(letter.raw) <= RECORD_BYTES_MAX


async def test_bytes_that_are_not_utf8_are_stored_and_marked(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        await edge.send(octets(b"<13>caf\xe9", BARE))
        assert await edge.bodies(2) == ["caf\ufffd", "Use the BFG!"]


@pytest.mark.parametrize("required", [True, False])
async def test_a_sender_without_a_certificate_is_let_in_only_if_that_is_configured(
    pki: Pki, tmp_path: Path, *, required: bool
) -> None:
    config = everything(client_certificate="required" if required else "optional")
    async with syslog_edge(pki, tmp_path, config) as edge:
        before = metric("heimdall_edge_syslog_refused_total", reason="handshake")
        try:
            await edge.send(octets(BARE), "tls", None)
        except (OSError, ssl.SSLError):
            assert required
        if required:
            await eventually(lambda: metric("heimdall_edge_syslog_refused_total", reason="handshake") == before + 1)
            await edge.send(octets(b"<13>known"), "tls")
            assert await edge.bodies(1) == ["known"]
        else:
            await edge.send(octets(b"<13>known"), "tls")
            await edge.bodies(2)
            sources = {row["body"]: row["source"] for row in await edge.records()}
            assert sources == {"Use the BFG!": "syslog/127.0.0.1", "known": "syslog/admin"}


async def test_a_certificate_of_another_authority_is_refused(
    pki: Pki, make_pki: Callable[[str], Pki], tmp_path: Path
) -> None:
    stranger = make_pki("stranger.example")
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        before = metric("heimdall_edge_syslog_refused_total", reason="handshake")
        host, port = edge.place("tls")
        context = edge.client_context("admin", pki=stranger)
        with pytest.raises((OSError, ssl.SSLError)):  # noqa: PT012 - TLS 1.3 tells it at the first read
            reader, _ = await asyncio.open_connection(host, port, ssl=context)
            assert await reader.read() == b"", "it was let in"
            raise ConnectionResetError
        await eventually(lambda: metric("heimdall_edge_syslog_refused_total", reason="handshake") == before + 1)


async def test_a_sender_without_the_permission_is_refused(pki: Pki, tmp_path: Path) -> None:
    access = AccessPolicy({f"spiffe://{TRUST_DOMAIN}/client/reader": ("reader",)})
    async with syslog_edge(pki, tmp_path, everything(), access=access) as edge:
        before = metric("heimdall_edge_syslog_refused_total", reason="permission")
        writer = await edge.connect("tls", "reader")
        writer.write(octets(BARE))
        await eventually(lambda: metric("heimdall_edge_syslog_refused_total", reason="permission") == before + 1)
        await closed(writer)
        assert not edge.state.counts.accepted


async def test_tls_1_2_is_refused(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        context = edge.client_context("admin")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        host, port = edge.place("tls")
        with pytest.raises((OSError, ssl.SSLError)):
            await asyncio.open_connection(host, port, ssl=context)


async def test_new_certificates_are_taken_up_while_it_runs(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        old = await _server_certificate(edge)
        pki.write(edge.tls_config.certificate_file.stem, pki.server_leaf())
        for _ in range(100):
            if await _server_certificate(edge) != old:
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the old certificate is still in force")
        await edge.send(octets(BARE), "tls")
        assert await edge.bodies(1) == ["Use the BFG!"]


async def _server_certificate(edge: RunningEdge) -> bytes:
    writer = await edge.connect("tls")
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = connection.getpeercert(binary_form=True)
    await closed(writer)
    assert certificate is not None
    return certificate


async def test_the_journal_refuses_for_a_while_and_nothing_is_lost_or_out_of_order(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything(gather_s=0.001)) as edge:
        edge.faucet.refusals_left = 3
        writer = await edge.connect("tls")
        for number in range(200):
            writer.write(octets(b"<13>number %d" % number))
            await writer.drain()
            if number % 20 == 0:
                await asyncio.sleep(0.01)
        assert await edge.bodies(200) == [f"number {number}" for number in range(200)]
        assert edge.faucet.refused_count == 3
        await closed(writer)


async def test_a_full_pipeline_is_waited_for(pki: Pki, tmp_path: Path) -> None:
    limits = PipelineLimits(queue_bytes_max=100_000)
    async with syslog_edge(pki, tmp_path, everything(), pipeline_limits=limits) as edge:
        messages = [b"<13>%d %b" % (number, b"x" * 5_000) for number in range(60)]
        await asyncio.gather(*(edge.send(octets(*messages[begin : begin + 10])) for begin in range(0, 60, 10)))
        assert len(await edge.bodies(60)) == 60


async def test_what_was_read_is_durable_after_the_drain(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything(gather_s=1.0)) as edge:
        writers = [await edge.connect("tls"), await edge.connect("tcp")]
        for writer in writers:
            writer.write(octets(BARE, BARE) + b"<13>a line\n<13>no line end")
            await writer.drain()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(2_000):
                sender.sendto(b"<13>datagram %d" % number, edge.place("udp"))
        await edge.edge.drain()
        assert edge.edge.push.held_bytes == 0
        assert edge.edge.gate.held_bytes == 0
        assert await edge.record_count() == 2_008
        assert edge.edge.push.lost_bytes == 0
        for writer in writers:
            await closed(writer)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await edge.connect("tcp")


async def test_what_can_not_be_made_durable_before_the_end_is_counted(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything(drain_s=0.2)) as edge:
        edge.faucet.refusals_left = 1_000
        await edge.send(octets(BARE))
        await eventually(lambda: edge.faucet.refused_count > 0)
        await edge.edge.drain()
        assert edge.edge.push.lost_bytes == len(octets(BARE))
        assert edge.edge.gate.held_bytes == 0
