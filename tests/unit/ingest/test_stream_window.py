"""How far one Append stream is read ahead of what is durable."""

from __future__ import annotations

import asyncio

from heimdall_server.rpc.limits import InflightBytes, RpcLimits
from heimdall_server.services.ingest.stream import StreamWindow

DEADLINE_S = 5.0
MIB = 1024 * 1024


class _Process:
    """What the process would need for what it holds, told by the test."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s

    def estimate_s(self, size_bytes: int) -> float:
        return self.wait_s if size_bytes else 0.0


def _window(process: _Process) -> StreamWindow:
    limits = RpcLimits(append_wait_s_max=0.5)
    return StreamWindow(limits, InflightBytes(limits.inflight_bytes_max), process.estimate_s)


async def test_a_busy_process_still_takes_one_batch_of_each_stream() -> None:
    process = _Process(wait_s=60.0)
    async with asyncio.timeout(DEADLINE_S):
        holds = [await _window(process).enter(MIB) for _ in range(3)]
    assert [hold.size_bytes for hold in holds] == [MIB] * 3


async def test_a_stream_is_read_on_when_what_others_have_is_durable() -> None:
    process = _Process(wait_s=0.6)
    window = _window(process)
    await window.enter(MIB)
    second = asyncio.create_task(window.enter(MIB))
    done, _ = await asyncio.wait([second], timeout=0.2)
    assert not done
    process.wait_s = 0.1
    async with asyncio.timeout(DEADLINE_S):
        await second
    assert window.size_bytes == 2 * MIB


async def test_a_stream_is_read_on_when_its_own_batch_is_durable() -> None:
    window = _window(_Process(wait_s=60.0))
    first = await window.enter(MIB)
    second = asyncio.create_task(window.enter(MIB))
    await asyncio.sleep(0)
    first.release()
    async with asyncio.timeout(DEADLINE_S):
        await second
    assert window.size_bytes == MIB
