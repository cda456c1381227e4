"""How many bytes the listeners hold, of all and of each sender, and who waits until it is fewer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from heimdall_server.services.ingest.logic.push_job import Push

PUSH_OVERHEAD_BYTES: Final = 512
"""What holding a push costs beside its payload: many small ones mustn't pass for few bytes."""


class Gate:
    """See the module. For one event loop. `Origin.sender` tells senders apart."""

    def __init__(self, *, bytes_max: int, sender_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._sender_bytes_max = sender_bytes_max
        self._by_sender: dict[str, int] = {}
        self._waiting: dict[Callable[[], None], str] = {}
        self._waking: asyncio.Handle | None = None
        self.held_bytes = 0

    @property
    def full(self) -> bool:
        """Whether nobody should be read from."""
        return self.held_bytes >= self._bytes_max

    def full_of(self, sender: str) -> bool:
        """Whether this sender holds its share."""
        return self._by_sender.get(sender, 0) >= self._sender_bytes_max

    def add(self, push: Push) -> None:
        """It is held from here on."""
        size = len(push.payload) + PUSH_OVERHEAD_BYTES
        sender = push.origin.sender
        self.held_bytes += size
        self._by_sender[sender] = self._by_sender.get(sender, 0) + size

    def release(self, push: Push) -> None:
        """It no longer is."""
        size = len(push.payload) + PUSH_OVERHEAD_BYTES
        sender = push.origin.sender
        self.held_bytes -= size
        left = self._by_sender[sender] - size
        if left:
            self._by_sender[sender] = left
        else:
            del self._by_sender[sender]
        if self._waiting and self._waking is None:
            # Once for all that one job releases.
            self._waking = asyncio.get_running_loop().call_soon(self._wake)

    def wait(self, sender: str, resume: Callable[[], None]) -> None:
        """Call `resume` once when the sender may go on."""
        self._waiting[resume] = sender

    def forget(self, resume: Callable[[], None]) -> None:
        """It is no longer waited for."""
        self._waiting.pop(resume, None)

    def _wake(self) -> None:
        self._waking = None
        # Half empty: else each release would wake somebody for one read.
        if self.held_bytes > self._bytes_max // 2:
            return
        half = self._sender_bytes_max // 2
        for resume, sender in list(self._waiting.items()):
            if self._by_sender.get(sender, 0) <= half:
                del self._waiting[resume]
                resume()
