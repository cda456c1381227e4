"""What is held is counted, of all and of each sender, and whoever waits is woken once there is room."""

from __future__ import annotations

import asyncio

from heimdall_server.edge.syslog.gate import PUSH_OVERHEAD_BYTES, Gate
from heimdall_server.services.ingest.logic.push_job import Origin, Push


def push(gate: Gate, sender: str, size: int) -> Push:
    made = Push(Origin("s", sender), "octet", b"x" * (size - PUSH_OVERHEAD_BYTES), gate.release)
    gate.add(made)
    return made


async def test_a_sender_is_full_before_all_are() -> None:
    gate = Gate(bytes_max=10_000, sender_bytes_max=4_000)
    first = push(gate, "a", 4_000)
    assert gate.full_of("a")
    assert not gate.full_of("b")
    assert not gate.full
    others = [push(gate, name, 3_000) for name in ("b", "c")]
    assert gate.full
    for one in (first, *others):
        gate.release(one)
    assert gate.held_bytes == 0
    assert not gate.full_of("a")


async def test_many_small_pushes_do_not_pass_for_few_bytes() -> None:
    gate = Gate(bytes_max=100 * PUSH_OVERHEAD_BYTES, sender_bytes_max=1 << 30)
    for _ in range(100):
        push(gate, "a", PUSH_OVERHEAD_BYTES + 1)
    assert gate.full


async def test_who_waits_is_woken_once_when_half_is_free() -> None:
    gate = Gate(bytes_max=100_000, sender_bytes_max=8_000)
    pushes = [push(gate, "a", 2_000) for _ in range(4)]
    woken: list[str] = []
    gate.wait("a", lambda: woken.append("a"))
    gate.release(pushes.pop())
    await asyncio.sleep(0)
    assert not woken
    gate.release(pushes.pop())
    await asyncio.sleep(0)
    assert woken == ["a"]
    for one in pushes:
        gate.release(one)
    await asyncio.sleep(0)
    assert woken == ["a"]


async def test_a_sender_with_room_waits_while_all_together_have_none() -> None:
    gate = Gate(bytes_max=8_000, sender_bytes_max=8_000)
    loud = [push(gate, "loud", 2_000) for _ in range(4)]
    quiet = push(gate, "quiet", 1_000)
    woken: list[str] = []

    def resume() -> None:
        woken.append("quiet")

    gate.wait("quiet", resume)
    gate.release(quiet)
    gate.release(loud[0])
    await asyncio.sleep(0)
    assert not woken
    gate.release(loud[1])
    await asyncio.sleep(0)
    assert woken == ["quiet"]


async def test_who_is_forgotten_is_not_woken() -> None:
    gate = Gate(bytes_max=1_000, sender_bytes_max=1_000)
    held = push(gate, "a", 1_000)
    woken: list[str] = []

    def resume() -> None:
        woken.append("a")

    gate.wait("a", resume)
    gate.forget(resume)
    gate.release(held)
    await asyncio.sleep(0)
    assert not woken
