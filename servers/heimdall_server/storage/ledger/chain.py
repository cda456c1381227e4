"""A chain for the event loop: what is appended at the same time becomes durable together, in one write and two syncs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

from heimdall_server.domain.errors import ChainBrokenError, StoreError
from heimdall_server.storage.ledger.files import SEGMENT_BYTES_MAX, ChainFiles
from heimdall_server.storage.ledger.lines import ENTRY_BYTES_MAX, ChainEntry

GROUP_COUNT_MAX: Final = 1024
"""Entries of one write."""
WAITING_COUNT_MAX: Final = 10_000
"""Appends that may wait; a disk that is so far behind is refused further ones."""
_STAMP_BYTES: Final = 128
"""Number and time of an entry, and what JSON puts around them."""


class ChainLog:
    """An open chain. For one event loop."""

    def __init__(self, files: ChainFiles, purpose: str, *, now_ns: Callable[[], int]) -> None:
        self._files = files
        self._purpose = purpose
        self._now_ns = now_ns
        self._last_ns = 0
        self._waiting: list[tuple[Mapping[str, Any], asyncio.Future[ChainEntry]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{purpose}-write")
        self._closed = False

    @classmethod
    async def open(
        cls,
        directory: Path,
        purpose: str,
        *,
        now_ns: Callable[[], int],
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        sync: Callable[[int], None] | None = None,
    ) -> Self:
        """Open a chain, or begin one; arguments and errors are those of `ChainFiles`.

        Args:
            directory: Its folder.
            purpose: One word.
            now_ns: Nanoseconds since 1970 UTC; entries never go back in time.
            segment_bytes_max: See `ChainFiles`.
            sync: See `ChainFiles`.
        """
        further = {} if sync is None else {"sync": sync}
        files = await asyncio.to_thread(ChainFiles, directory, purpose, segment_bytes_max=segment_bytes_max, **further)
        return cls(files, purpose, now_ns=now_ns)

    @property
    def sequence(self) -> int:
        """Of the last entry; 0: there is none."""
        return self._files.head.sequence

    async def append(self, payload: Mapping[str, Any]) -> ChainEntry:
        """Write an entry. A caller that is cancelled meanwhile leaves it to be written all the same.

        Args:
            payload: JSON values; at most about 1 MiB.

        Returns:
            The entry, durable.

        Raises:
            StoreError: It couldn't be made durable.
        """
        if self._closed:
            raise StoreError(self._purpose, "it was closed")
        if len(self._waiting) >= WAITING_COUNT_MAX:
            raise StoreError(self._purpose, f"{WAITING_COUNT_MAX} entries wait for the disk")
        size = len(json.dumps(payload, separators=(",", ":"))) + _STAMP_BYTES
        if size > ENTRY_BYTES_MAX:
            # Found here, it can't fail those that are written with it.
            raise StoreError(self._purpose, f"an entry of {size} bytes is over the limit of {ENTRY_BYTES_MAX}")
        future: asyncio.Future[ChainEntry] = asyncio.get_running_loop().create_future()
        self._waiting.append((payload, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await asyncio.shield(future)

    async def entries(self, after: int = 0) -> AsyncIterator[Sequence[ChainEntry]]:
        """Entries behind a number that are there now, in order, some at a time.

        Raises:
            ChainBrokenError, StoreError: See `ChainFiles.entries`.
        """
        found = self._files.entries(after, self._files.head)
        while (some := await asyncio.to_thread(next, found, None)) is not None:
            yield some

    async def verify(self) -> ChainEntry | None:
        """See `ChainFiles.verify`."""
        return await asyncio.to_thread(self._files.verify)

    async def close(self) -> None:
        """Write what waits, and let go of the files. Idempotent."""
        self._closed = True
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await asyncio.get_running_loop().run_in_executor(None, self._writer.shutdown)
        self._files.close()

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP_COUNT_MAX], self._waiting[GROUP_COUNT_MAX:]
            self._last_ns = max(self._last_ns, self._now_ns())
            payloads = [payload for payload, _ in group]
            try:
                entries = await loop.run_in_executor(self._writer, self._files.append, payloads, self._last_ns)
            except (StoreError, ChainBrokenError, ValueError) as error:
                detail = error.detail if isinstance(error, StoreError) else str(error)
                for _, future in group:
                    if not future.done():
                        future.set_exception(StoreError(self._purpose, detail))
                        # A caller that was cancelled asks no more.
                        future.exception()
                continue
            for (_, future), entry in zip(group, entries, strict=True):
                if not future.done():
                    future.set_result(entry)
        self._writing = None
