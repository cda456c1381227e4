"""Values that translation and logic of hunts and of watches of the graph share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heimdall_server.domain.graph_hunting import Event, EventKind, Hunt, Match
from heimdall_server.services.graph.model import Named


@dataclass(frozen=True, slots=True)
class WatchAsked:
    """What somebody wants to be told."""

    entities: Sequence[Named]
    dumps: Sequence[str]
    types: Sequence[str]
    labels: Sequence[str]
    kinds: frozenset[EventKind]
    """Empty: all."""
    spelled: bytes
    """All of this as bytes: what a token is bound to. It may hold a personal value."""
    resume_token: bytes = b""
    from_oldest: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What a watch says."""

    event: Event | None
    """None: nothing happened."""
    lag_s: float
    """How long it hasn't been at the newest event; 0: it is."""
    resume_token: bytes


@dataclass(frozen=True, slots=True)
class HuntPage:
    """A page of hunts."""

    hunts: Sequence[Hunt]
    next_token: str


@dataclass(frozen=True, slots=True)
class MatchPage:
    """A page of matches."""

    matches: Sequence[Match]
    next_token: str
