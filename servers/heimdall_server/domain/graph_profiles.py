"""What is told of a dump's field without its values: how many, of what kind, how many different ones, and a few as they are stored.

Profiles add up: those of any parts of a dump, merged in any order, are the profile of the whole. How many different values there are, and how many
of them two fields share, is told by a sketch, the smallest of the values' hashes ("bottom-k"). It is exact while there are fewer than it
holds (k). Beyond that, counts err by 2.2 % (one standard deviation, 1/√k), and a similarity J by √(J (1 - J) / k), which is 1.1 % at most.

Source: K. Beyer, P. Haas, B. Reinwald, Y. Sismanis, R. Gemulla, "On Synopses for Distinct-Value Estimation Under Multiset Operations", 2007.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

SKETCH_SIZE: Final = 2_048
"""Hashes that a sketch holds at most; 8 bytes each."""
SAMPLE_COUNT: Final = 5
SAMPLE_CHARACTERS_MAX: Final = 64
"""Of a sample; a longer value is cut."""
Hashes: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
_VERSION: Final = 1
_HASH_SPACE: Final = 2.0**64


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """A set of values, by the smallest of their hashes."""

    hashes: Hashes
    """Ascending, distinct, at most `SKETCH_SIZE`; evenly spread over 64 bits. Not to be changed."""

    @classmethod
    def of(cls, hashes: Hashes) -> Sketch:
        """Of the hashes of values, in any order, each any number of times."""
        return cls(np.unique(hashes)[:SKETCH_SIZE])

    @property
    def is_exact(self) -> bool:
        """Whether it holds all hashes there are."""
        return len(self.hashes) < SKETCH_SIZE

    @property
    def distinct(self) -> int:
        """How many values there are; exact if the sketch is."""
        count = len(self.hashes)
        return count if self.is_exact else round((count - 1) * _HASH_SPACE / (float(self.hashes[-1]) + 1))

    def merged(self, other: Sketch) -> Sketch:
        """Of the values of both."""
        return Sketch.of(np.concatenate([self.hashes, other.hashes]))

    def similarity(self, other: Sketch) -> float:
        """How many of the values that either has both have, from 0 to 1; exact if both sketches are."""
        union = np.union1d(self.hashes, other.hashes)
        # What lies above the greatest hash of a full sketch may be missing there.
        for one in (self, other):
            if not one.is_exact:
                union = union[union <= one.hashes[-1]]
        if not len(union):
            return 0.0
        in_both = np.isin(union, self.hashes, assume_unique=True) & np.isin(union, other.hashes, assume_unique=True)
        return float(in_both.mean())

    def shared(self, other: Sketch) -> float:
        """How many values both have; exact if both sketches are."""
        similarity = self.similarity(other)
        # Shared is J times all, and all is both counts less shared.
        found = (self.distinct + other.distinct) * similarity / (1 + similarity)
        return min(found, self.distinct, other.distinct)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sketch) and np.array_equal(self.hashes, other.hashes)

    def __hash__(self) -> int:
        return hash(self.hashes.tobytes())


@dataclass(frozen=True, slots=True)
class Profile:
    """Of a field, or, with `row_count` alone, of a dump."""

    row_count: int = 0
    """Records of a dump; 0 for a field."""
    value_count: int = 0
    """Records that say something in the field."""
    empty_count: int = 0
    """Records in which the field is there and empty."""
    characters_min: int = 0
    """Of the shortest value as it is stored; tokens count as they stand."""
    characters_max: int = 0
    number_min: float | None = None
    """The least number; None: there is none."""
    number_max: float | None = None
    types: Mapping[str, int] = field(default_factory=dict)
    """Values by what they are: a type, a class of personal data, `number`, `truth`, or `text`."""
    sketch: Sketch = field(default_factory=lambda: Sketch(np.empty(0, np.uint64)))
    samples: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    """Of the values those with the smallest hashes, with these; as they are stored, so personal ones are tokens."""

    @property
    def type(self) -> str:
        """What most values are; of equally many the first by name. Empty: there are none."""
        return min(self.types, key=lambda name: (-self.types[name], name), default="")

    def merged(self, other: Profile) -> Profile:
        """Of both parts."""
        names = sorted({*self.types, *other.types})
        lengths = [one.characters_min for one in (self, other) if one.value_count]
        return Profile(
            self.row_count + other.row_count,
            self.value_count + other.value_count,
            self.empty_count + other.empty_count,
            min(lengths, default=0),
            max(self.characters_max, other.characters_max),
            min(_told(self.number_min, other.number_min), default=None),
            max(_told(self.number_max, other.number_max), default=None),
            {name: self.types.get(name, 0) + other.types.get(name, 0) for name in names},
            self.sketch.merged(other.sketch),
            smallest([*self.samples, *other.samples]),
        )

    def encode(self) -> bytes:
        """As it is stored; equal profiles give equal bytes."""
        told = {
            "rows": self.row_count,
            "values": self.value_count,
            "empty": self.empty_count,
            "characters": [self.characters_min, self.characters_max],
            "numbers": [self.number_min, self.number_max],
            "types": dict(sorted(self.types.items())),
            "samples": self.samples,
        }
        head = json.dumps(told, separators=(",", ":")).encode()
        return bytes([_VERSION]) + len(head).to_bytes(4, "big") + head + self.sketch.hashes.astype(">u8").tobytes()

    @classmethod
    def decode(cls, data: bytes) -> Profile:
        """Read what `encode` made.

        Raises:
            ValueError: It is of another version, or damaged.
        """
        if data[:1] != bytes([_VERSION]):
            raise ValueError("the profile is of another version")
        end = 5 + int.from_bytes(data[1:5], "big")
        told = json.loads(data[5:end])
        return cls(
            told["rows"],
            told["values"],
            told["empty"],
            told["characters"][0],
            told["characters"][1],
            told["numbers"][0],
            told["numbers"][1],
            told["types"],
            Sketch(np.frombuffer(data, ">u8", offset=end).astype(np.uint64)),
            tuple((number, text) for number, text in told["samples"]),
        )


def smallest(samples: Iterable[tuple[int, str]]) -> tuple[tuple[int, str], ...]:
    """The samples that are kept of some."""
    distinct = dict(sorted(samples, reverse=True))  # of one hash the text that sorts first
    return tuple(sorted(distinct.items())[:SAMPLE_COUNT])


def _told(*numbers: float | None) -> list[float]:
    return [number for number in numbers if number is not None]
