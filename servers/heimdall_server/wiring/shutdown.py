"""How a process goes down: what was accepted becomes durable, the store catches up, and all of that in time.

Nothing here is needed for safety, `kill -9` loses nothing. It is for clients, which get their acknowledgements
and are sent away instead of cut off, and for the next start, which finds less to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final, Protocol

from heimdall_server.ports.journal import Journal
from heimdall_server.projections.warm import WarmProjection
from heimdall_server.rpc.server import RpcServer
from heimdall_server.services.ingest.logic.pipeline import Pipeline

LOG: Final = logging.getLogger(__name__)
SHUTDOWN_S: Final = 10.0
"""From the signal to the end of the process, at most, unless `limits.drain_s` asks for more."""
CLOSING_S: Final = 4.0
"""Of that, kept for taking things apart: an insert that has begun is waited for, a segment is sealed."""


class Drains(Protocol):
    """A listener that takes in no more and makes durable what it took in."""

    async def drain(self) -> None:
        """Idempotent."""
        ...


async def drain(
    server: RpcServer, listener: Drains, pipelines: Sequence[Pipeline], journal: Journal, warm: WarmProjection
) -> None:
    """Send clients away, acknowledge what they were promised, and let the store take what it can until then.

    Args:
        server: Its calls end within `limits.drain_s`, or are cut off.
        listener: What takes in records beside it.
        pipelines: What isn't durable in time isn't acknowledged.
        journal: Whose head the store is to reach.
        warm: What isn't in the store in time is inserted at the next start.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + max(SHUTDOWN_S - CLOSING_S, server.limits.drain_s)

    def left_s() -> float:
        return max(0.0, end_s - loop.time())

    other = asyncio.create_task(listener.drain(), name="listener-drain")
    ended = await server.drain(min(server.limits.drain_s, left_s()))
    await asyncio.wait({other}, timeout=left_s())
    if not other.done():
        other.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await other
        ended = False
    finished = all(await asyncio.gather(*(pipeline.close(left_s()) for pipeline in pipelines)))
    caught_up = await warm.wait_through(journal.head(), left_s())
    LOG.info("drained", extra={"calls_ended": ended, "accepted_durable": finished, "caught_up": caught_up})
