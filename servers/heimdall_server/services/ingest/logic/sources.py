"""What is known of each source: where it stands, who feeds it, what a repeat is compared with.

The state is made from journal frames alone (`apply`), so that a restart rebuilds it: from the snapshot that
opens the newest segment, then the marks behind it. It is held in memory, bounded by `source_count_max`: beyond it,
of the identity with the most sources the one that was quiet longest is forgotten. So nobody's sources push out
those of others.

A source may have many dumps. Each is fed as if it were a source by itself: its key names its content.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from typing import Final

from heimdall_server.domain.errors import BudgetExceededError, InvalidArgumentError
from heimdall_server.ports.journal import Deletion, SourceKey, SourceMark
from heimdall_server.services.ingest.logic import metrics
from heimdall_server.services.ingest.logic.format_text import format_from_json, format_to_json
from heimdall_server.services.ingest.logic.names import as_masked, digest_in
from heimdall_server.services.ingest.model import REPEAT_WINDOW_COUNT, DumpFacts, SourceState

SNAPSHOT_BATCH_COUNT: Final = 8
"""How many settled batches of a source a snapshot keeps: it must stay small."""


class SourceTable:
    """All sources of a shard.

    Not thread-safe: the event loop owns it.
    """

    def __init__(self, *, source_count_max: int) -> None:
        self._sources: OrderedDict[SourceKey, SourceState] = OrderedDict()
        self._source_count_max = source_count_max
        self._streams: set[SourceKey] = set()
        self._counts: Counter[str] = Counter()
        self._by_name: dict[tuple[str, str], dict[SourceKey, None]] = {}
        self._by_digest: dict[tuple[str, str], str] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def get(self, key: SourceKey) -> SourceState | None:
        """What the journal says of a source, or None if it never was."""
        return self._sources.get(key)

    def knows(self, principal: str, source: str) -> bool:
        """Whether a principal has a source of this name, or a dump of it."""
        return (principal, source) in self._by_name

    def by_digest(self, principal: str, digest: str) -> str | None:
        """The name of a principal's source that carries a digest (`names.StoredNames`)."""
        return self._by_digest.get((principal, digest))

    def dump_key(self, principal: str, source: str, content_sha256: str) -> SourceKey:
        """What a dump of a source is fed under; one that was begun before dumps had keys of their own keeps the source's."""
        plain = SourceKey(principal, source)
        held = self._sources.get(plain)
        if held is not None and held.dump is not None and held.dump.content_sha256 == content_sha256:
            return plain
        return SourceKey(principal, source, content_sha256)

    def newest(self, principal: str, source: str) -> SourceState | None:
        """Where a source stands with what is no dump; if nothing of it is, the newest of its dumps."""
        plain = self._sources.get(SourceKey(principal, source))
        if plain is not None:
            return plain
        dumps = (self._sources[key] for key in self._by_name.get((principal, source), ()))
        return max(dumps, key=lambda state: state.position, default=None)

    def open(self, key: SourceKey) -> SourceState:
        """A new stream takes the source: its epoch goes up, which fences the stream before.

        Raises:
            BudgetExceededError: Too many sources have an open stream.
        """
        state = self._sources.get(key)
        if state is None:
            if not self._make_room():
                limit = self._source_count_max
                raise BudgetExceededError(retry_after_s=5.0, budget="sources with an open stream", limit=limit)
            state = self._add(SourceState(key))
        state.epoch += 1
        self._streams.add(key)
        self._sources.move_to_end(key)
        return state

    def release(self, key: SourceKey) -> None:
        """The source's stream ended; a source without data and stream isn't worth remembering."""
        self._streams.discard(key)
        state = self._sources.get(key)
        if state is not None and not state.position:
            self._remove(key)

    def apply(self, mark: SourceMark, *, position: int) -> SourceState:
        """Take over what a durable frame says. Never raises."""
        state = self._sources.get(mark.key)
        if state is None:
            self._make_room()
            state = self._add(SourceState(mark.key))
        state.next_offset = max(state.next_offset, mark.next_offset)
        state.epoch = max(state.epoch, mark.epoch)
        state.accepted_count += mark.accepted_count
        state.rejected_count += mark.rejected_count
        state.position = max(state.position, position)
        state.finished = mark.finished
        if mark.format:
            state.format, state.skip = format_from_json(mark.format)
        if mark.dump:
            state.dump = DumpFacts(**json.loads(mark.dump))
        state.batches.extend((int(o), int(n), int(c)) for o, n, c in mark.batches)
        state.row = _row_of(state)
        self._sources.move_to_end(mark.key)
        return state

    def find_dump(self, principal: str, facts: DumpFacts) -> SourceState | None:
        """The finished source of this principal that already holds the dump's content.

        Raises:
            InvalidArgumentError: The name is taken by other content.
        """
        found = None
        for state in self._sources.values():
            if state.key.principal != principal or state.dump is None:
                continue
            if state.dump.content_sha256 == facts.content_sha256 and state.finished:
                found = state
            elif state.dump.name == facts.name and state.dump.content_sha256 != facts.content_sha256:
                raise InvalidArgumentError(
                    "open.dump.name", "it already names a dump with other content; choose another name"
                )
        return found

    def forget_deleted(self, deletion: Deletion) -> None:
        """Forget dumps of which a deletion left nothing, so that they can be taken in again, also otherwise marked.

        Only finished ones: a stream that is open would go on where it was. One whose records carry a token for a name stays known.
        """
        whole = {(one.source, one.dump) for one in deletion.slices or () if one.whole}
        for state in list(self._sources.values()) if whole else ():
            if state.dump is None or not state.finished or state.position > deletion.through:
                continue
            if (state.key.source, as_masked(state.dump.name)) in whole:
                self._remove(state.key)

    def snapshot(self) -> bytes:
        """Everything, as a JSON array, least recently used first."""
        return b"[" + b",".join(state.row for state in self._sources.values() if state.position) + b"]"

    def restore(self, snapshot: bytes) -> None:
        """Replace everything by a snapshot."""
        self._sources.clear()
        self._counts.clear()
        self._by_name.clear()
        self._by_digest.clear()
        for (
            principal,
            source,
            offset,
            epoch,
            format_,
            accepted,
            rejected,
            position,
            finished,
            dump,
            batches,
            *later,
        ) in json.loads(snapshot):
            state = SourceState(SourceKey(principal, source, *later), offset, epoch)
            if format_:
                state.format, state.skip = format_from_json(format_)
            state.accepted_count, state.rejected_count = accepted, rejected
            state.position, state.finished = position, finished
            state.dump = DumpFacts(**json.loads(dump)) if dump else None
            state.batches = deque((tuple(batch) for batch in batches), maxlen=REPEAT_WINDOW_COUNT)
            state.row = _row_of(state)
            self._add(state)

    def _add(self, state: SourceState) -> SourceState:
        self._sources[state.key] = state
        self._counts[state.key.principal] += 1
        self._by_name.setdefault((state.key.principal, state.key.source), {})[state.key] = None
        if digest := digest_in(state.key.source):
            self._by_digest[state.key.principal, digest] = state.key.source
        return state

    def _remove(self, key: SourceKey) -> None:
        del self._sources[key]
        named = self._by_name[key.principal, key.source]
        del named[key]
        if not named:
            del self._by_name[key.principal, key.source]
            self._by_digest.pop((key.principal, digest_in(key.source)), None)
        self._counts[key.principal] -= 1
        if not self._counts[key.principal]:
            del self._counts[key.principal]

    def _make_room(self) -> bool:
        """Forget a source if there are too many; False: all of them have streams."""
        if len(self._sources) < self._source_count_max:
            return True
        quiet = [key for key in self._sources if key not in self._streams]
        if not quiet:
            return False
        most = max(self._counts[key.principal] for key in quiet)
        self._remove(next(key for key in quiet if self._counts[key.principal] == most))
        metrics.FORGOTTEN.labels("sources").inc()
        return True


def _row_of(state: SourceState) -> bytes:
    row = [
        state.key.principal,
        state.key.source,
        state.next_offset,
        state.epoch,
        format_to_json(state.format, state.skip) if state.format else "",
        state.accepted_count,
        state.rejected_count,
        state.position,
        state.finished,
        state.dump.to_json() if state.dump else "",
        list(state.batches)[-SNAPSHOT_BATCH_COUNT:],
        state.key.dump_sha256,
    ]
    return json.dumps(row, separators=(",", ":")).encode()
