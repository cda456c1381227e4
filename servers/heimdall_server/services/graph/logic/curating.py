"""Deciding about the graph: labels, notes, which entities are one. Who decides sees what they decide about, and each act is audited first."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from heimdall_server.domain.errors import InvalidArgumentError, NotFoundError
from heimdall_server.domain.graph import ID_BYTES, Tlp, VertexKind
from heimdall_server.domain.graph_authored import Label, Merge, Note
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.graph import GraphCuration, GraphReader
from heimdall_server.services.graph.logic.finding import VertexFinder
from heimdall_server.services.graph.model import Curator, Named

PERMISSION: Final = "graph.curate"
DEFAULT_TLP: Final = Tlp.AMBER
"""Of what is said without a marking."""


@dataclass(frozen=True, slots=True)
class CuratingPorts:
    """What curating needs."""

    reader: GraphReader
    curation: GraphCuration
    finder: VertexFinder
    audit: AuditLog
    clock: Clock
    mask_text: Callable[[str], str]
    """Puts classes in place of personal data. Runs in a thread."""


class GraphCurating:
    """See the module.

    All methods raise StoreError when the store or the audit log fails, and where they take a name what `VertexFinder.find` raises.
    """

    def __init__(self, ports: CuratingPorts) -> None:
        self._ports = ports
        self._curation = ports.curation

    async def add_label(self, curator: Curator, named: Named, label: str, *, tlp: Tlp | None, reason: str) -> Label:
        """Put a label on a vertex.

        Returns:
            As it is kept, if it is new.

        Raises:
            InvalidArgumentError: It isn't one line of text, or marked above the curator's ceiling.
        """
        marking = _marking(tlp, curator)
        text = await self._label(label)
        why = await self._masked("reason", reason)
        id_, _ = await self._ports.finder.find(named, curator.ceiling)
        kept = Label(id_, text, curator.actor, self._ports.clock.now_ns(), why, marking)
        await self._audited(curator, id_, reason)
        await self._curation.add_label(kept)
        return kept

    async def remove_label(self, curator: Curator, named: Named, label: str, *, reason: str) -> tuple[bytes, str]:
        """Take a label off; says which off which.

        Raises:
            NotFoundError: It isn't there, or the curator doesn't see it.
        """
        text = await self._label(label)
        id_, _ = await self._ports.finder.find(named, curator.ceiling)
        await self._audited(curator, id_, reason)
        if not await self._curation.remove_label(id_, text, tlp_max=curator.ceiling):
            raise NotFoundError("label", text)
        return id_, text

    async def add_note(self, curator: Curator, named: Named, text: str, *, tlp: Tlp | None, request_id: str) -> Note:
        """Keep a note.

        Returns:
            As it is kept; of a repeat what the first one made, as it is now.

        Raises:
            InvalidArgumentError: It is empty, or marked above the curator's ceiling.
        """
        marking = _marking(tlp, curator)
        body = await self._body(text)
        id_, _ = await self._ports.finder.find(named, curator.ceiling)
        note_id = (
            _note_id(request_id, curator.actor, id_, body, marking) if request_id else secrets.token_bytes(ID_BYTES)
        )
        now_ns = self._ports.clock.now_ns()
        note = Note(note_id, id_, body, curator.actor, now_ns, now_ns, marking)
        await self._audited(curator, id_, "", note_id=note_id)
        await self._curation.add_note(note)
        return await self._curation.note(note_id) or note

    async def change_note(self, curator: Curator, note_id: bytes, text: str, *, etag: str) -> Note:
        """Give a note another text.

        Raises:
            NotFoundError: It isn't there, or the curator doesn't see it or what it is about.
            EtagMismatchError: It was changed meanwhile.
        """
        body = await self._body(text)
        before = await self._seen_note(curator, note_id)
        await self._audited(curator, before.id, "", note_id=note_id)
        return await self._curation.change_note(
            note_id, body, etag=etag, actor=curator.actor, time_ns=self._ports.clock.now_ns()
        )

    async def remove_note(self, curator: Curator, note_id: bytes, *, etag: str, reason: str) -> Note:
        """Delete a note; tells what it was.

        Raises:
            NotFoundError: It isn't there, or the curator doesn't see it or what it is about.
            EtagMismatchError: It was changed meanwhile.
        """
        before = await self._seen_note(curator, note_id)
        await self._audited(curator, before.id, reason, note_id=note_id)
        if not await self._curation.remove_note(note_id, etag=etag):
            raise NotFoundError("note", note_id.hex())
        return before

    async def merge(self, curator: Curator, entity: Named, into: Named, *, etag: str, reason: str) -> Merge:
        """Let an entity be part of another.

        Raises:
            InvalidArgumentError: One isn't an entity, or they can't be merged this way.
            EtagMismatchError: It is part of another already, by another merge than `etag` names.
        """
        why = await self._masked("reason", reason)
        id_ = await self._entity(curator, "entity", entity)
        into_id = await self._entity(curator, "into", into)
        await self._audited(curator, id_, reason, into_id=into_id)
        merge = Merge(id_, into_id, curator.actor, self._ports.clock.now_ns(), why)
        return await self._curation.merge(merge, etag=etag)

    async def split(self, curator: Curator, entity: Named, *, etag: str, reason: str) -> Merge:
        """Take an entity out of the one that it is part of; tells the merge that was.

        Raises:
            NotFoundError: It is part of none.
            EtagMismatchError: It is part of it by another merge.
        """
        id_ = await self._entity(curator, "entity", entity)
        await self._audited(curator, id_, reason)
        undone = await self._curation.split(id_, etag=etag)
        if undone is None:
            raise NotFoundError("merge", id_.hex())
        return undone

    async def _entity(self, curator: Curator, field: str, named: Named) -> bytes:
        id_, vertex = await self._ports.finder.find(named, curator.ceiling)
        if vertex.kind is not VertexKind.ENTITY:
            raise InvalidArgumentError(field, f"only entities can be one and the same; it is a {vertex.kind.value}")
        return id_

    async def _seen_note(self, curator: Curator, note_id: bytes) -> Note:
        note = await self._curation.note(note_id)
        if note is None or note.tlp > curator.ceiling:
            raise NotFoundError("note", note_id.hex())
        if note.id not in await self._ports.reader.get([note.id], tlp_max=curator.ceiling):
            raise NotFoundError("note", note_id.hex())
        return note

    async def _label(self, label: str) -> str:
        stripped = label.strip()
        if not stripped or not stripped.isprintable():
            raise InvalidArgumentError("label", "it must be one line of printable text")
        return await self._masked("label", stripped)

    async def _body(self, text: str) -> str:
        if not text.strip():
            raise InvalidArgumentError("text", "it must not be empty")
        return await self._masked("text", text)

    async def _masked(self, field: str, text: str) -> str:
        if "\0" in text:
            raise InvalidArgumentError(field, "it must not hold a NUL character")
        return await asyncio.to_thread(self._ports.mask_text, text) if text else ""

    async def _audited(self, curator: Curator, id_: bytes, reason: str, **about: bytes) -> None:
        details = {"method": curator.method} | {name: value.hex() for name, value in about.items()}
        act = Act(curator.actor, PERMISSION, "allowed", reason, id_.hex(), details, curator.request_id)
        await self._ports.audit.append(act)


def _marking(asked: Tlp | None, curator: Curator) -> Tlp:
    marking = DEFAULT_TLP if asked is None else asked
    if marking > curator.ceiling:
        raise InvalidArgumentError("tlp", f"it must not be stricter than what you may see ({curator.ceiling.label})")
    return marking


def _note_id(request_id: str, actor: str, id_: bytes, body: str, marking: Tlp) -> bytes:
    """The same for a repeat of a request, another one for all else, so that a request id used twice loses no text."""
    texts = [text.encode() for text in (request_id, actor, body, marking.name)]
    framed = b"".join(len(text).to_bytes(4, "big") + text for text in texts) + id_
    return hashlib.blake2b(framed, digest_size=ID_BYTES, person=b"heimdall note v1").digest()
