"""Follows files that are written to: through rotation and restarts, from where the server has them.

Rules. A *generation* is one file that lies, or lay, under the followed path; each is a source of its own
(`file_sources`). A generation ends when another file lies under the path (rename and create) or when it gets shorter
(copied and truncated). A renamed one is read on for a while, since its writer may still have it open, while the next
one is read already. At the start, and at each change, files beside the path that carry its name with something behind
(`app.log.1`, `app.log-20240501.gz`) are looked at: what the server has in part is completed, and so is what is
newer than that. Where the writer pauses, what is held as incomplete is asked to be decoded (Flush).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Final

from heimdall_client.append_driver import IngestOptions
from heimdall_client.backoff import Backoff
from heimdall_client.cli.file_sources import Place, locate
from heimdall_client.cli.rotated_files import COMPRESSED, identity, open_file, rotated_files
from heimdall_client.client import AsyncClient
from heimdall_client.errors import HeimdallError, InputError, RpcError
from heimdall_client.ingest_calls import SourceOptions
from heimdall_client.ingester import AsyncIngester
from heimdall_client.input_files import BLOCK_BYTES

HEAD_CHECK_BYTES: Final = 256
"""A file whose first bytes changed was truncated and written anew, even if it is longer again than before."""


@dataclass(frozen=True, slots=True)
class FollowTimes:
    """How patient a follower is."""

    poll_s: float = 0.25
    """How often a file that has come to its end is looked at."""
    idle_flush_s: float = 0.5
    """After so long without a new line, what is held is flushed."""
    rotated_quiet_s: float = 5.0
    """A file that was renamed is left after so long without a new line."""


@dataclass(slots=True)
class Generation:
    """One file and what became of it, for whoever shows it."""

    path: Path
    place: Place
    offset: int = 0
    accepted_count: int = 0
    rejected_count: int = 0
    behind_bytes: int = 0


@dataclass(slots=True)
class Follower:
    """Follows one path until it is cancelled.

    Args:
        client: Whose sources they are.
        path: The file; it need not exist yet.
        source: How it is read, see `SourceOptions`.
        options: Of the ingesters.
        tell: Gets what a person should know.
        retrying: Told of each break.
        times: See `FollowTimes`.
    """

    client: AsyncClient
    path: Path
    source: SourceOptions
    options: IngestOptions
    tell: Callable[[str], None]
    retrying: Callable[[HeimdallError, float], None]
    times: FollowTimes = field(default_factory=FollowTimes)
    generations: list[Generation] = field(default_factory=list)
    """All that were read, the oldest first."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """End soon: what was read is flushed first."""
        self._ended.set()

    async def run(self) -> None:
        """Follow until `stop`.

        Raises:
            HeimdallError: A source has failed, or a file can't be read.
        """
        try:
            await self._run()
        except BaseExceptionGroup as group:
            problems, bugs = group.split(HeimdallError)
            if bugs is None and problems is not None:
                raise problems.exceptions[0] from None
            raise

    async def _run(self) -> None:
        seen: set[tuple[int, int]] = set()
        async with asyncio.TaskGroup() as readers:
            while not self._ended.is_set():
                await self._complete_rotated(seen)
                opened = await self._next_file()
                if opened is None:
                    return
                stream, place = opened
                seen.add(identity(os.fstat(stream.fileno())))
                turned = asyncio.Event()
                readers.create_task(self._read(stream, place, turned))
                await turned.wait()

    async def _next_file(self) -> tuple[BinaryIO, Place] | None:
        """The file under the path as soon as its first line is complete; None: stopped before."""
        waiting = False
        while not self._ended.is_set():
            try:
                stream = await asyncio.to_thread(open_file, self.path)
            except InputError as error:
                if not self.generations:
                    raise
                # It could be read before: whoever rotates it may still have to give it back its owner.
                if not waiting:
                    waiting = True
                    self.tell(f"{error}: waiting until it can be read")
                await self._pause()
                continue
            if stream is not None:
                try:
                    place = await self._locate(stream)
                except BaseException:
                    stream.close()
                    raise
                if place is not None:
                    return stream, place
                stream.close()
            elif not waiting:
                waiting = True
                self.tell(f"{self.path} isn't there yet: waiting for it")
            await self._pause()
        return None

    async def _locate(self, stream: BinaryIO) -> Place | None:
        """Find a file's source; once something was read, a server that is away is waited for."""
        backoff = Backoff(f"the source of {self.path}", give_up_after_s=self.options.give_up_after_s)
        while True:
            try:
                return await locate(self.client, self.path, stream, grows=True)
            except RpcError as error:
                if not self.generations or not error.retryable:
                    raise
                delay_s = backoff.next_delay_s(error)
                self.retrying(error, delay_s)
            await asyncio.sleep(delay_s)

    async def _read(self, stream: BinaryIO, place: Place, turned: asyncio.Event) -> None:
        """Read a generation to its end.

        Args:
            stream: Is closed in the end.
            place: Its source.
            turned: Set as soon as the next generation may be looked for.
        """
        generation = Generation(self.path, place)
        self.generations.append(generation)
        try:
            with stream:
                async with self._ingester(place) as ingester:
                    self._announce(ingester, generation)
                    stream.seek(ingester.offset)
                    await self._tail(stream, ingester, generation, turned)
                    if not self._ended.is_set():
                        await ingester.finish()
                    self._count(generation, ingester, stream)
        finally:
            turned.set()

    async def _tail(
        self, stream: BinaryIO, ingester: AsyncIngester, generation: Generation, turned: asyncio.Event
    ) -> None:
        changed_s, flushed = time.monotonic(), True
        number = stream.fileno()
        head = os.pread(number, HEAD_CHECK_BYTES, 0)
        while True:
            block = await asyncio.to_thread(stream.read, BLOCK_BYTES)
            facts = os.fstat(number)
            if facts.st_size < stream.tell() or not os.pread(number, HEAD_CHECK_BYTES, 0).startswith(head):
                self.tell(f"{self.path} was truncated: beginning anew")
                return
            if block:
                await ingester.write(block)
                changed_s, flushed = time.monotonic(), False
                self._count(generation, ingester, stream)
                continue
            quiet_s = time.monotonic() - changed_s
            if not flushed and (self._ended.is_set() or quiet_s >= self.times.idle_flush_s):
                await ingester.flush(timeout_s=self.options.give_up_after_s)
                flushed = True
            self._count(generation, ingester, stream)
            if self._ended.is_set():
                return
            if not turned.is_set() and self._is_replaced(facts):
                self.tell(f"{self.path} was rotated: going on with the new one")
                changed_s = time.monotonic()
                turned.set()
            elif turned.is_set() and quiet_s >= self.times.rotated_quiet_s:
                return
            await self._pause()

    def _is_replaced(self, facts: os.stat_result) -> bool:
        """Whether another file lies under the path; none at all isn't another yet."""
        try:
            return identity(self.path.stat()) != identity(facts)
        except FileNotFoundError:
            return False

    async def _complete_rotated(self, seen: set[tuple[int, int]]) -> None:
        """Ingest what was rotated away before it was read to its end."""
        pending: list[tuple[Path, Place]] = []
        for path in await asyncio.to_thread(rotated_files, self.path, frozenset(seen)):
            try:
                with path.open("rb") as stream:
                    place = await self._locate(stream)
                    size = os.fstat(stream.fileno()).st_size
            except (OSError, InputError):
                continue  # rotated on, or something else that happens to have such a name
            if place is None:
                continue
            if not place.known or place.next_offset < size or path.suffix in COMPRESSED:
                pending.append((path, place))
            if place.known:
                break
        else:
            return  # nothing of this path was ever read: what is older isn't wanted
        for path, place in reversed(pending):
            generation = Generation(path, place)
            source: SourceOptions = {**self.source, "file_name": self.path.name}
            before = place.next_offset
            try:
                summary = await self.client.ingest_file(
                    path, place.source_id, options=self.options, on_retry=self.retrying, **source
                )
            except InputError as error:
                self.tell(f"{path}: {error.problem}")
                continue
            if summary.next_offset > before:
                self.tell(f"{path}: {summary.accepted_count:,} records that were still missing")
            generation.offset = summary.next_offset
            generation.accepted_count, generation.rejected_count = summary.accepted_count, summary.rejected_count
            self.generations.append(generation)

    def _ingester(self, place: Place) -> AsyncIngester:
        source: SourceOptions = {**self.source, "file_name": self.path.name}
        options = self.options if not self.generations[:-1] else replace(self.options, first_open_s=float("inf"))
        return self.client.ingester(place.source_id, options=options, on_retry=self.retrying, **source)

    def _announce(self, ingester: AsyncIngester, generation: Generation) -> None:
        where = f"from byte {ingester.offset:,}" if ingester.offset else "from its beginning"
        self.tell(f"{self.path}: following {where}")
        generation.offset = ingester.offset

    def _count(self, generation: Generation, ingester: AsyncIngester, stream: BinaryIO) -> None:
        generation.offset = ingester.durable_offset
        generation.accepted_count, generation.rejected_count = ingester.accepted_count, ingester.rejected_count
        generation.behind_bytes = max(0, os.fstat(stream.fileno()).st_size - ingester.durable_offset)

    async def _pause(self) -> None:
        waiter: Awaitable[bool] = self._ended.wait()
        try:
            await asyncio.wait_for(waiter, self.times.poll_s)
        except TimeoutError:
            return
