"""How far the journal may be trimmed when several projections follow it, some of which must not lose anything and some of which may.

Frames go that every projection has passed. An optional one that is behind keeps them, until the journal comes near its bound or
they get too old: then it gives way, a part of the distance at a time, so that no more is lost than must be. Without that, ingest would be
refused because of a store that no acknowledgement may wait for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from heimdall_server.ports.journal import JournalState, Positions

NEARLY_FULL: Final = 0.9
"""Of the bytes that the journal may hold: from here on optional projections give way."""
_PART: Final = 8
"""A step takes away this part of the distance to what the required projections have passed."""


@dataclass(frozen=True, slots=True)
class Follower:
    """A projection that may be left behind, as it is now."""

    name: str
    positions: Positions
    """What it needs no more, by shard; a shard that isn't there: nothing yet."""
    lag_s: float
    """Age of the oldest frame that it still needs; 0: none."""


@dataclass(frozen=True, slots=True)
class Trim:
    """What may go."""

    through: Mapping[int, int]
    left_behind: tuple[str, ...]
    """Projections that lose frames by it: worth an alarm."""


class Trimming:
    """Decides how far to trim. Remembers what was given up, since the journal lets go of whole segments only."""

    def __init__(self, *, bytes_max: int, age_max_s: float) -> None:
        """Take the journal's bounds.

        Args:
            bytes_max: What it may hold (`JournalConfig.bytes_max`).
            age_max_s: How old a frame may get (`JournalConfig.age_max_s`).
        """
        self._bytes_max = bytes_max
        self._age_max_s = age_max_s
        self._given_up: dict[tuple[str, int], int] = {}

    def decide(self, required: Positions, optional: Sequence[Follower], state: JournalState) -> Trim:
        """Decide, now; to be called whenever the journal is to be trimmed.

        Args:
            required: What the projections that must not lose anything have passed.
            optional: The others.
            state: The journal's.

        Returns:
            Positions for `Journal.trim`, never beyond `required`.
        """
        is_full = state.size_bytes >= NEARLY_FULL * self._bytes_max or bool(state.refusing)
        through, left_behind = dict(required), set[str]()
        for one in optional:
            gives_way = is_full or one.lag_s >= self._age_max_s
            for shard, passed in required.items():
                key = (one.name, shard)
                given_up = max(self._given_up.get(key, 0), state.tail.get(shard, 1) - 1)
                held = min(passed, max(given_up, one.positions.get(shard, 0)))
                if gives_way and held < passed:
                    held += -(-(passed - held) // _PART)
                    self._given_up[key] = held
                    left_behind.add(one.name)
                through[shard] = min(through[shard], held)
        return Trim(through, tuple(sorted(left_behind)))
