"""What is known of each source: where it stands, who feeds it, what a repeat is compared with.

The state is made from journal frames alone (`apply`), so that a restart rebuilds it: from the snapshot that
opens the newest segment, then the marks behind it. It is held in memory, bounded by `source_count_max`: the
source that was quiet longest is forgotten first, after `forget_after_s`.
"""

from __future__ import annotations

import json
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Final

from heimdall_server.domain.decoding import Format, FormatKind
from heimdall_server.domain.errors import BudgetExceededError, InvalidArgumentError
from heimdall_server.ports.journal import SourceKey, SourceMark
from heimdall_server.services.ingest.model import REPEAT_WINDOW_COUNT, DumpFacts, SourceState

"""Settled client batches a source whose CRC is remembered."""
SNAPSHOT_BATCH_COUNT: Final = 8
"""How many of them a snapshot keeps: it must stay small."""


def format_to_json(format_: Format) -> str:
    """For a journal mark."""
    return json.dumps({"kind": format_.kind.value, "options": format_.options}, separators=(",", ":"), sort_keys=True)


def format_from_json(text: str) -> Format:
    """Back from a journal mark."""
    raw = json.loads(text)
    return Format(FormatKind(raw["kind"]), dict(raw["options"]))


class SourceTable:
    """All sources of a shard.

    Not thread-safe: the event loop owns it.
    """

    def __init__(self, *, source_count_max: int) -> None:
        self._sources: OrderedDict[SourceKey, SourceState] = OrderedDict()
        self._source_count_max = source_count_max
        self._streams: set[SourceKey] = set()

    def __len__(self) -> int:
        return len(self._sources)

    def get(self, key: SourceKey) -> SourceState | None:
        """What the journal says of a source, or None if it never was."""
        return self._sources.get(key)

    def open(self, key: SourceKey) -> SourceState:
        """A new stream takes the source: its epoch goes up, which fences the stream before.

        Raises:
            BudgetExceededError: Too many sources have an open stream.
        """
        state = self._sources.get(key)
        if state is None:
            self._make_room()
            state = self._sources[key] = SourceState(key)
        state.epoch += 1
        self._streams.add(key)
        self._sources.move_to_end(key)
        return state

    def release(self, key: SourceKey) -> None:
        """The source's stream ended; a source without data and stream isn't worth remembering."""
        self._streams.discard(key)
        state = self._sources.get(key)
        if state is not None and not state.position:
            del self._sources[key]

    def _make_room(self) -> None:
        if len(self._sources) < self._source_count_max:
            return
        for key in self._sources:
            if key not in self._streams:
                del self._sources[key]
                return
        raise BudgetExceededError(retry_after_s=5.0, budget="sources with an open stream", limit=self._source_count_max)

    def apply(self, mark: SourceMark, *, position: int) -> SourceState:
        """Take over what a durable frame says."""
        state = self._sources.get(mark.key)
        if state is None:
            self._make_room()
            state = self._sources[mark.key] = SourceState(mark.key)
        state.next_offset = max(state.next_offset, mark.next_offset)
        state.epoch = max(state.epoch, mark.epoch)
        state.accepted_count += mark.accepted_count
        state.rejected_count += mark.rejected_count
        state.position = max(state.position, position)
        state.finished = mark.finished
        if mark.format:
            state.format = format_from_json(mark.format)
        if mark.dump:
            state.dump = DumpFacts(**json.loads(mark.dump))
        state.batches.extend((int(o), int(n), int(c)) for o, n, c in mark.batches)
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
                    "open.dump.name", f"{facts.name!r} already names a dump with other content; choose another name"
                )
        return found

    def snapshot(self) -> list[dict[str, Any]]:
        """Everything, as JSON values, least recently used first."""
        return [
            {
                "principal": s.key.principal,
                "source": s.key.source,
                "next_offset": s.next_offset,
                "epoch": s.epoch,
                "format": format_to_json(s.format) if s.format else "",
                "accepted": s.accepted_count,
                "rejected": s.rejected_count,
                "position": s.position,
                "finished": s.finished,
                "dump": s.dump.to_json() if s.dump else "",
                "batches": list(s.batches)[-SNAPSHOT_BATCH_COUNT:],
            }
            for s in self._sources.values()
            if s.position
        ]

    def restore(self, rows: Iterable[dict[str, Any]]) -> None:
        """Replace everything by a snapshot."""
        self._sources.clear()
        for row in rows:
            key = SourceKey(row["principal"], row["source"])
            self._sources[key] = SourceState(
                key=key,
                next_offset=row["next_offset"],
                epoch=row["epoch"],
                format=format_from_json(row["format"]) if row["format"] else None,
                accepted_count=row["accepted"],
                rejected_count=row["rejected"],
                position=row["position"],
                finished=row["finished"],
                dump=DumpFacts(**json.loads(row["dump"])) if row["dump"] else None,
                batches=deque((tuple(b) for b in row["batches"]), maxlen=REPEAT_WINDOW_COUNT),
            )
