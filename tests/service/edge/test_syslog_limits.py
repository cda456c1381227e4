"""Syslog under more than it can take: memory is bounded, TCP waits, UDP drops and counts, nobody starves another."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from heimdall_server.domain.records import RECORD_BYTES_MAX
from heimdall_server.edge.syslog.config import SyslogConfig
from tests.support.pki import TRUST_DOMAIN, Pki
from tests.support.syslog_edge import LOOPBACK, RunningEdge, closed, eventually, metric, syslog_edge

ADMIN = f"spiffe://{TRUST_DOMAIN}/client/admin"
READ_BYTES_MAX = 256 * 1024
"""What the event loop reads at once; so much may come beyond a bound."""


def octets(*messages: bytes) -> bytes:
    return b"".join(b"%d %b" % (len(message), message) for message in messages)


def everything(**more: object) -> SyslogConfig:
    return SyslogConfig(tls_address=LOOPBACK, tcp_address=LOOPBACK, udp_address=LOOPBACK, **more)  # type: ignore[arg-type]


def numbered(count: int, *, size: int = 1_000) -> bytes:
    return octets(*(b"<13>%06d %b" % (number, b"x" * size) for number in range(count)))


async def test_a_stalled_pipeline_stops_reading_and_loses_nothing(pki: Pki, tmp_path: Path) -> None:
    bound = 1 << 20
    async with syslog_edge(pki, tmp_path, everything(sender_bytes_max=bound)) as edge:
        edge.faucet.open.clear()
        count = 12_000
        sending = [asyncio.create_task(edge.send(numbered(count), transport)) for transport in ("tls", "tcp")]
        paused = metric("heimdall_edge_syslog_pauses_total")
        await eventually(lambda: metric("heimdall_edge_syslog_pauses_total") >= paused + 2)
        await asyncio.sleep(0.3)
        # Two senders: a name and an address.
        assert edge.edge.gate.held_bytes <= 2 * (bound + 2 * READ_BYTES_MAX)
        assert not any(task.done() for task in sending)
        edge.faucet.open.set()
        await asyncio.gather(*sending)
        await eventually(lambda: edge.state.counts.accepted == 2 * count, str(edge.state.counts))
        bodies: dict[str, list[str]] = {}
        for row in await edge.records():
            bodies.setdefault(row["source"], []).append(row["body"][:6])
        assert bodies == {name: [f"{n:06d}" for n in range(count)] for name in ("syslog/admin", "syslog/127.0.0.1")}
        await eventually(lambda: edge.edge.gate.held_bytes == 0)


async def test_the_bound_of_all_senders_holds_all_of_them_up(pki: Pki, tmp_path: Path) -> None:
    bound = 512 * 1024
    async with syslog_edge(pki, tmp_path, everything(inflight_bytes_max=bound)) as edge:
        edge.faucet.open.clear()
        sending = [asyncio.create_task(edge.send(numbered(3_000), transport)) for transport in ("tls", "tcp")]
        paused = metric("heimdall_edge_syslog_pauses_total")
        await eventually(lambda: metric("heimdall_edge_syslog_pauses_total") >= paused + 2)
        assert edge.edge.gate.held_bytes <= bound + 4 * READ_BYTES_MAX
        edge.faucet.open.set()
        await asyncio.gather(*sending)
        await eventually(lambda: edge.state.counts.accepted == 6_000)


async def test_a_flood_of_datagrams_is_dropped_and_every_one_is_counted(pki: Pki, tmp_path: Path) -> None:
    bound = 64 * 1024
    async with syslog_edge(pki, tmp_path, everything(sender_bytes_max=bound)) as edge:
        edge.faucet.open.clear()
        before = _udp()
        sent = 5_000
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(sent):
                sender.sendto(b"<13>%06d %b" % (number, b"x" * 200), edge.place("udp"))
                if number % 100 == 0:
                    await asyncio.sleep(0)
        await eventually(lambda: sum(_since(before).values()) >= sent, f"{sent} decided, {_since(before)}")
        assert _since(before)["sender_bound"] > 0
        assert edge.edge.gate.held_bytes <= bound + 2 * READ_BYTES_MAX
        edge.faucet.open.set()
        await eventually(lambda: edge.edge.gate.held_bytes == 0)
        decided = _since(before)
        stored = await edge.record_count()
        assert stored + decided["sender_bound"] + decided["system"] == sent
        # The sender is listened to again.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"<13>after", edge.place("udp"))
        await eventually(lambda: edge.state.counts.accepted == stored + 1)


def _udp() -> dict[str, float]:
    drops = {r: metric("heimdall_edge_syslog_dropped_total", reason=r) for r in ("bound", "sender_bound", "system")}
    return {**drops, "read": metric("heimdall_edge_syslog_datagrams_total")}


def _since(before: dict[str, float]) -> dict[str, float]:
    """What became of datagrams: read (and perhaps dropped by us), or dropped by the system."""
    now = {name: value - before[name] for name, value in _udp().items()}
    return {**now, "read": now["read"] - now["bound"] - now["sender_bound"]}


async def test_one_sender_with_much_to_say_does_not_hold_up_another(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything()) as edge:
        edge.faucet.open.clear()
        loud = asyncio.create_task(edge.send(numbered(20_000), "tls"))
        await eventually(lambda: edge.edge.gate.full_of(ADMIN))
        await edge.send(octets(b"<13>quiet"), "tcp")
        await eventually(lambda: edge.edge.gate.full_of(ADMIN) and not edge.edge.gate.full)
        edge.faucet.open.set()
        await loud
        await eventually(lambda: edge.state.counts.accepted == 20_001)
        rows = [row["body"] for row in await edge.records()]
        # Two jobs may have been under way, and of the next one it gets its share.
        assert rows.index("quiet") * 1_000 < 3 * 4 * 1024 * 1024


async def test_connections_beyond_the_bounds_are_refused_and_the_others_served(pki: Pki, tmp_path: Path) -> None:
    config = everything(connections_per_sender_max=3, connections_max=4)
    async with syslog_edge(pki, tmp_path, config) as edge:
        refused = metric("heimdall_edge_syslog_refused_total", reason="sender_connections")
        writers = [await edge.connect() for _ in range(3)]
        await eventually(lambda: metric("heimdall_edge_syslog_connections", transport="tcp") >= 3)
        fourth = await edge.connect()
        await eventually(lambda: metric("heimdall_edge_syslog_refused_total", reason="sender_connections") > refused)
        for writer in writers:
            writer.write(octets(b"<13>still here"))
        assert len(await edge.bodies(3)) == 3
        for writer in (*writers, fourth):
            await closed(writer)
        await eventually(lambda: metric("heimdall_edge_syslog_connections", transport="tcp") == 0)
        await edge.send(octets(b"<13>again"))
        assert len(await edge.bodies(4)) == 4


async def test_connections_that_say_nothing_or_never_finish_are_ended(pki: Pki, tmp_path: Path) -> None:
    config = everything(idle_s=0.5, unfinished_s=0.5, handshake_s=0.5)
    async with syslog_edge(pki, tmp_path, config) as edge:
        reasons = ("idle", "unfinished", "handshake")
        before = {reason: metric("heimdall_edge_syslog_refused_total", reason=reason) for reason in reasons}
        silent = await edge.connect("tls")
        slow = await edge.connect("tcp")
        host, port = edge.place("tls")
        _, mute = await asyncio.open_connection(host, port)
        slow.write(b"100 <13>begun")

        async def trickle() -> None:
            while True:
                slow.write(b"x")
                await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        for reason in reasons:
            await eventually(
                lambda reason=reason: (  # type: ignore[misc]
                    metric("heimdall_edge_syslog_refused_total", reason=reason) > before[reason]
                ),
                reason,
            )
        trickling.cancel()
        await eventually(lambda: edge.state.counts.rejected == 1)
        for writer in (silent, slow, mute):
            await closed(writer)


async def test_memory_of_unfinished_messages_is_bounded(pki: Pki, tmp_path: Path) -> None:
    bound = 3 * RECORD_BYTES_MAX
    async with syslog_edge(pki, tmp_path, everything(inflight_bytes_max=bound)) as edge:
        before = metric("heimdall_edge_syslog_refused_total", reason="memory")
        writers = [await edge.connect() for _ in range(6)]
        for writer in writers:
            writer.write(b"%d <13>%b" % (RECORD_BYTES_MAX - 100, b"x" * (RECORD_BYTES_MAX - 1_000)))
        await eventually(lambda: metric("heimdall_edge_syslog_refused_total", reason="memory") >= before + 3)
        for writer in writers:
            await closed(writer)


async def test_many_silent_connections_cost_a_talking_one_nothing(pki: Pki, tmp_path: Path) -> None:
    async with syslog_edge(pki, tmp_path, everything(connections_per_sender_max=512)) as edge:
        host, port = edge.place("tls")
        silent = await asyncio.gather(*(asyncio.open_connection(host, port) for _ in range(300)))
        await edge.send(octets(*[b"<13>talk"] * 100), "tls")
        assert len(await edge.bodies(100)) == 100
        await _close_all(edge, silent)


async def _close_all(edge: RunningEdge, pairs: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in pairs:
        await closed(writer)
    await eventually(lambda: metric("heimdall_edge_syslog_connections", transport="tls") == 0)
    assert edge.edge.gate.held_bytes == 0
