"""The control state of ingest: sources, answered exports, dead letters, and deletions that may mean these. Made from the journal, and only from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import CorruptionError
from heimdall_server.ports.journal import Frame
from heimdall_server.services.ingest.logic.answers import Answers
from heimdall_server.services.ingest.logic.dead_letters import DeadLetterIndex
from heimdall_server.services.ingest.logic.deletions import LetterDeletions
from heimdall_server.services.ingest.logic.sources import SourceTable

_VERSION: Final = b"heimdall ingest state 5"
_WITHOUT_FILTERS: Final = b"heimdall ingest state 4"
"""How far deletions reach is its, and not what they mean."""
_WITHOUT_DUMPS: Final = b"heimdall ingest state 3"
"""Sources are its, of which none says what dump it is fed by."""
_WITHOUT_DELETIONS: Final = b"heimdall ingest state 2"


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
        self.deletions = LetterDeletions()
        self.answers = Answers()
        self.counts = Counts()
        self.deleted_through = 0
        """Last position that a deletion so far reaches; 0: there was none."""

    def apply(self, frame: Frame) -> None:
        """Take in a durable frame: at start, and before each `append` returns. See `ControlState`."""
        entry = frame.entry
        for mark in entry.sources:
            self.sources.apply(mark, position=frame.position)
        for request in entry.requests:
            self.answers.add(request)
        self.letters.add(frame.position, entry.dead_letters)
        self.letters.resolve(entry.resolved_letters)
        for deletion in entry.deletions:
            self.deleted_through = max(self.deleted_through, deletion.through)
            self.sources.forget_deleted(deletion)
            self.deletions.add(deletion, position=frame.position)

    def forget_before(self, position: int) -> None:
        """Forget letters whose frames are gone, and deletions that mean none any more."""
        self.letters.forget_before(position)
        self.deletions.forget_before(position)

    def snapshot(self) -> bytes:
        """Everything, for the first frame of a journal segment. See `ControlState`.

        A number, three lines of JSON and then rows of answers. All of it was encoded when it changed, so it is only joined here:
        10,000 sources, 10,000 letters and 130,000 answers take a few milliseconds.
        """
        parts = (self.deletions.snapshot(), self.sources.snapshot(), self.letters.snapshot(), self.answers.snapshot())
        return b"\n".join((_VERSION, b"%d" % self.deleted_through, *parts))

    def restore(self, snapshot: bytes) -> None:
        """Replace everything by a snapshot. See `ControlState`."""
        version, _, rest = snapshot.partition(b"\n")
        deleted_through, deletions = b"0", b"[0]"
        if version == _VERSION:
            deleted_through, deletions, rest = rest.split(b"\n", 2)
        elif version in (_WITHOUT_FILTERS, _WITHOUT_DUMPS):
            deleted_through, _, rest = rest.partition(b"\n")
            deletions = b"[%s]" % deleted_through
        elif version != _WITHOUT_DELETIONS:
            raise CorruptionError("the journal's snapshot", "an unknown version of ingest's state")
        sources, letters, answers = rest.split(b"\n", 2)
        self.deleted_through = int(deleted_through)
        self.deletions.restore(deletions)
        self.sources.restore(sources)
        self.letters.restore(letters)
        self.answers.restore(answers)
