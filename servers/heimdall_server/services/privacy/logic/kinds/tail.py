"""Waiting for the journal to let go of its old frames."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from heimdall_server.domain.errors import HeimdallError
from heimdall_server.ports.journal import Entry, Journal
from heimdall_server.services.privacy.logic.kinds.model import SHARD


async def wait_for_tail(
    journal: Journal, position: int, *, poll_s: float, nudge_s: float, looked: Callable[[], Awaitable[object]]
) -> None:
    """Wait until no segment holds a frame up to a position.

    A segment ends when it is full or, with the next frame, when it is old. Where nothing comes in there is no next
    frame, so an empty one is written now and then.

    Args:
        journal: The journal.
        position: The last one that must go.
        poll_s: How often the tail is looked at: nobody announces it.
        nudge_s: How often an empty frame is written.
        looked: Called after each look, for example to hear that the operation was stopped.
    """
    loop = asyncio.get_running_loop()
    nudged_s = loop.time()
    while journal.tail().get(SHARD, 1) <= position:
        await asyncio.sleep(poll_s)
        await looked()
        if loop.time() - nudged_s >= nudge_s:
            nudged_s = loop.time()
            try:
                await journal.append([Entry(None)])
            except HeimdallError:
                continue  # A full or failing journal has other worries; what comes in next does as well.
