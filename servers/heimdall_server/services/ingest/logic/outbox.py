"""What a stream has to say, until its client reads it: bounded, with acknowledgements joined while they wait.

A client that doesn't read costs nothing but its own stream: acknowledgements are cumulative, so however many wait,
they are one; and who lets everything else pile up is ended.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from heimdall_server.domain.errors import StreamLaggedError
from heimdall_server.services.ingest.model import Acked, Ended, Event

EVENTS_MAX: Final = 256
"""Events that may wait for a reader."""


class Outbox:
    """See the module. The event loop owns it; one reader."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Say something. After `close` it has no effect."""
        if self._closed:
            return
        events = self._events
        last = events[-1] if events else None
        joined = last.joined(event) if isinstance(last, Acked) and isinstance(event, Acked) else None
        if joined is not None:
            events[-1] = joined
        elif len(events) >= EVENTS_MAX:
            events.clear()
            events.append(Ended(StreamLaggedError(f"more than {EVENTS_MAX} messages waited")))
            self._closed = True
        else:
            events.append(event)
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be said: the iteration ends once all was read. Idempotent."""
        self._closed = True
        self._changed.set()

    async def next(self) -> Event | None:
        """The next event, when there is one; None: nothing more will be said."""
        while not self._events:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()
