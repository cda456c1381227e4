"""What is known of facts, as columns: sums by fact and provenance, and what a batch makes of what was there. Arithmetic only, no I/O.

Order doesn't matter: times and places take the least and the greatest, counts and hours add up, confidence takes the greatest. So batches
that come in another order, or cut otherwise, end in the same graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np

from heimdall_server.domain.graph import HOURS

Longs: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
_FAR: Final = np.iinfo(np.int64).max
NS_PER_DAY: Final = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class Sums:
    """What was seen when, how often and where; all of one length."""

    first_ns: Longs
    last_ns: Longs
    count: Longs
    first_place: Longs
    """0: nowhere."""
    last_place: Longs
    hours: np.ndarray[Any, np.dtype[np.int32]] | None = None
    """Shape (row, 24); None: not kept."""

    def take(self, rows: Longs | Mask) -> Sums:
        """Those of some rows."""
        hours = None if self.hours is None else self.hours[rows]
        first_ns, last_ns, count, first_place, last_place = (getattr(self, name)[rows] for name in _NUMBERS)
        return Sums(first_ns, last_ns, count, first_place, last_place, hours)

    def combined(self, other: Sums) -> Sums:
        """Both together, row by row."""
        hours = None if self.hours is None or other.hours is None else self.hours + other.hours
        first = np.minimum(_far(self.first_place), _far(other.first_place))
        return Sums(
            np.minimum(self.first_ns, other.first_ns),
            np.maximum(self.last_ns, other.last_ns),
            self.count + other.count,
            _near(first),
            np.maximum(self.last_place, other.last_place),
            hours,
        )

    def differs(self, other: Sums) -> Mask:
        """Where the two say something else."""
        mask = np.zeros(len(self.count), bool)
        for name in _NUMBERS:
            mask |= getattr(self, name) != getattr(other, name)
        if self.hours is not None and other.hours is not None:
            mask |= (self.hours != other.hours).any(axis=1)
        return mask

    def grouped(self, groups: Longs, group_count: int) -> Sums:
        """The rows of each group together.

        Args:
            groups: Of each row, from 0.
            group_count: How many there are; each has a row.
        """
        if len(groups) == group_count and bool((np.diff(groups) > 0).all()):
            return self  # each row is its own group, in order
        first_ns, first_place = (np.full(group_count, _FAR) for _ in range(2))
        last_ns, count, last_place = (np.zeros(group_count, np.int64) for _ in range(3))
        np.minimum.at(first_ns, groups, self.first_ns)
        np.maximum.at(last_ns, groups, self.last_ns)
        np.add.at(count, groups, self.count)
        np.minimum.at(first_place, groups, _far(self.first_place))
        np.maximum.at(last_place, groups, self.last_place)
        hours = None
        if self.hours is not None:
            hours = np.zeros((group_count, HOURS), np.int32)
            np.add.at(hours, groups, self.hours)
        return Sums(first_ns, last_ns, count, _near(first_place), last_place, hours)


_NUMBERS: Final = ("first_ns", "last_ns", "count", "first_place", "last_place")


def concatenated(parts: Sequence[Sums]) -> Sums:
    """One behind the other; hours only where all have them."""
    hours = [part.hours for part in parts if part.hours is not None]
    numbers = (np.concatenate([getattr(part, name) for part in parts]) for name in _NUMBERS)
    first_ns, last_ns, count, first_place, last_place = numbers
    every = np.concatenate(hours) if len(hours) == len(parts) else None
    return Sums(first_ns, last_ns, count, first_place, last_place, every)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Sums by fact and provenance, in the order of facts."""

    fact: Longs
    """Index of the fact."""
    provenance: Longs
    """Number in the store."""
    sums: Sums

    @classmethod
    def of(cls, facts: Longs, provenances: Longs, sums: Sums) -> Pairs:
        """Group rows.

        Args:
            facts: Index of each row's fact, from 0.
            provenances: Of each row; numbers of the store, less than 2^31.
            sums: Of each row.
        """
        keys = (facts << 31) | provenances
        found, groups = np.unique(keys, return_inverse=True)
        return cls(found >> 31, found & (2**31 - 1), sums.grouped(groups, len(found)))


@dataclass(frozen=True, slots=True)
class Weights:
    """What a provenance lends to its facts, by its number in the store."""

    confidence: Longs
    tlp: Longs


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one table, as they are or shall be; all columns of one length."""

    id: Longs
    """Graph id; 0: there is none yet."""
    sums: Sums
    provenance: Longs
    """The only one; 0: there are several, and rows of their own."""
    confidence: Longs
    tlp_min: Longs
    tlp_max: Longs

    def take(self, rows: Longs | Mask) -> Facts:
        """Some of them."""
        return Facts(
            *(
                getattr(self, one.name).take(rows) if one.name == "sums" else getattr(self, one.name)[rows]
                for one in fields(self)
            )
        )

    @property
    def rank(self) -> Longs:
        """What edges are sorted by: confidence, then the day it was seen last. 31 bits."""
        days = np.clip(self.sums.last_ns // NS_PER_DAY, 0, 2**20 - 1)
        return (self.confidence << 20) | days


def incoming(pairs: Pairs, count: int, weights: Weights) -> Facts:
    """Facts as a batch tells them, without ids.

    Args:
        pairs: Of the batch.
        count: Facts; each has a pair.
        weights: Of provenances.
    """
    number = np.bincount(pairs.fact, minlength=count)
    provenance = np.zeros(count, np.int64)
    provenance[pairs.fact] = pairs.provenance
    provenance[number > 1] = 0
    confidence = np.zeros(count, np.int64)
    least, most = np.full(count, 99), np.zeros(count, np.int64)
    np.maximum.at(confidence, pairs.fact, weights.confidence[pairs.provenance])
    np.minimum.at(least, pairs.fact, weights.tlp[pairs.provenance])
    np.maximum.at(most, pairs.fact, weights.tlp[pairs.provenance])
    return Facts(np.zeros(count, np.int64), pairs.sums.grouped(pairs.fact, count), provenance, confidence, least, most)


def merged(held: Facts, new: Facts) -> tuple[Facts, Mask]:
    """What is to be, of facts that are there.

    Args:
        held: As they are.
        new: What a batch tells of the same ones.

    Returns:
        They together, and which of them have another provenance now, or had several, so that rows of provenance must be looked at.
    """
    several = (new.provenance == 0) | (new.provenance != held.provenance)
    together = Facts(
        held.id,
        held.sums.combined(new.sums),
        np.where(several, 0, held.provenance),
        np.maximum(held.confidence, new.confidence),
        np.minimum(held.tlp_min, new.tlp_min),
        np.maximum(held.tlp_max, new.tlp_max),
    )
    return together, several


def changed(held: Facts, together: Facts) -> Mask:
    """Which facts aren't what they were."""
    mask = held.sums.differs(together.sums)
    for name in ("provenance", "confidence", "tlp_min", "tlp_max"):
        mask |= getattr(held, name) != getattr(together, name)
    return mask


def _far(places: Longs) -> Longs:
    return np.where(places == 0, _FAR, places)


def _near(places: Longs) -> Longs:
    return np.where(places == _FAR, 0, places)
