"""The control state of ingest: sources, answered exports, dead letters. Made from the journal, and only from it."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from heimdall_server.ports.journal import Frame, RequestMark
from heimdall_server.services.ingest.logic.dead_letters import DeadLetterIndex
from heimdall_server.services.ingest.logic.sources import SourceTable

REQUEST_WINDOW_NS: Final = 10 * 60 * 1_000_000_000
"""How long a byte-identical Export gets the first answer."""
REQUEST_COUNT_MAX: Final = 20_000
"""Answered exports remembered; beyond it the oldest go, whatever their age."""


@dataclass(slots=True)
class Counts:
    """Since the process started."""

    accepted: int = 0
    rejected: int = 0


class IngestState:
    """See the module. The event loop owns it."""

    def __init__(self, *, source_count_max: int) -> None:
        self.sources = SourceTable(source_count_max=source_count_max)
        self.letters = DeadLetterIndex()
        self.requests: OrderedDict[tuple[str, bytes], RequestMark] = OrderedDict()
        self.counts = Counts()

    def apply(self, frame: Frame) -> None:
        """Take in a durable frame: at start, and before each `append` returns. See `ControlState`."""
        entry = frame.entry
        for mark in entry.sources:
            self.sources.apply(mark, position=frame.position)
        for request in entry.requests:
            self.remember(request)
        self.letters.add(frame.position, entry.dead_letters)
        self.letters.resolve(entry.resolved_letters)

    def remember(self, request: RequestMark) -> None:
        """Keep an export's answer."""
        self.requests[(request.principal, request.digest)] = request
        horizon = request.time_ns - REQUEST_WINDOW_NS
        while self.requests:
            oldest = next(iter(self.requests.values()))
            if oldest.time_ns >= horizon and len(self.requests) <= REQUEST_COUNT_MAX:
                break
            self.requests.popitem(last=False)

    def answer(self, principal: str, digest: bytes, now_ns: int) -> RequestMark | None:
        """The first answer to a byte-identical export, if it is young enough."""
        mark = self.requests.get((principal, digest))
        return mark if mark is not None and now_ns - mark.time_ns <= REQUEST_WINDOW_NS else None

    def snapshot(self) -> bytes:
        """Everything, for the first frame of a journal segment. See `ControlState`."""
        return json.dumps(
            {
                "version": 1,
                "sources": self.sources.snapshot(),
                "letters": self.letters.snapshot(),
                "requests": [
                    [m.principal, m.digest.hex(), m.time_ns, m.accepted_count, m.rejected_count, m.message]
                    for m in self.requests.values()
                ],
            },
            separators=(",", ":"),
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Replace everything by a snapshot. See `ControlState`."""
        raw = json.loads(snapshot)
        self.sources.restore(raw["sources"])
        self.letters.restore(raw["letters"])
        self.requests.clear()
        for principal, digest, time_ns, accepted, rejected, message in raw["requests"]:
            mark = RequestMark(principal, bytes.fromhex(digest), time_ns, accepted, rejected, message)
            self.requests[(principal, mark.digest)] = mark
