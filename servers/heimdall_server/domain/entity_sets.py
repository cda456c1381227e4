"""Sets of entities as records are searched for them: by the forms in which values stand in texts.

A set is what the graph told at one moment (`sighted_in:`, `entity_label:`), or what somebody put together. It never changes, and no `repr` shows
what is in it: it may be confidential, and it is long. `canonical/entity_sets.py` makes them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

ENTITIES_MAX: Final = 100_000
"""Of one set. More would be carried to the store with every question and every page."""
INDEXED_WORDS_MAX: Final = 10_000
"""Words of tokens that a store looks up in its indexes, 20 µs each and part; of more, texts are gone through, 0.4 µs a record."""
DIGEST_TYPES: Final = frozenset(
    {
        "md5",
        "imphash",
        "sha1",
        "sha224",
        "sha512_224",
        "sha3_224",
        "sha256",
        "sha512_256",
        "sha3_256",
        "sha384",
        "sha3_384",
        "sha512",
        "sha3_512",
    }
)
"""Types whose values are hexadecimal digits and nothing else."""
DIGEST_CHARACTERS_MIN: Final = 32
_DIGEST_BYTES: Final = 16
_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EntitySet:
    """Values by how they are looked for. Two sets are the same if their digests are."""

    ipv4: frozenset[str] = _NOTHING
    ipv6: frozenset[str] = _NOTHING
    """As RFC 5952 writes them."""
    hosts: frozenset[str] = _NOTHING
    """Domain names that count as hosts of URLs."""
    names: frozenset[str] = _NOTHING
    """Those of them that also count where they stand by themselves."""
    cves: frozenset[str] = _NOTHING
    digests: frozenset[str] = _NOTHING
    """Hexadecimal digits, in lower case."""
    words: frozenset[str] = _NOTHING
    """Of tokens of personal values, of every epoch that lives."""
    token_count: int = 0
    """Personal values among the entities; each has a word an epoch."""
    unsearched_count: int = 0
    """Entities whose values aren't looked for in records: of types that only a field's name tells, networks."""
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Digest it."""
        state = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"heimdall set v1")
        for part in self.parts():
            texts = sorted(part)
            state.update(len(texts).to_bytes(4, "big"))
            state.update("\0".join(texts).encode("utf-8", "surrogatepass"))
        object.__setattr__(self, "digest", state.digest())

    def parts(self) -> tuple[frozenset[str], ...]:
        """Every kind of value, in one order."""
        return self.ipv4, self.ipv6, self.hosts, self.names, self.cves, self.digests, self.words

    @property
    def value_count(self) -> int:
        """Values that are looked for; a personal one counts once an epoch."""
        # `names` are among `hosts`.
        return sum(map(len, self.parts())) - len(self.names)

    @property
    def entity_count(self) -> int:
        """Entities in it, those included that aren't looked for."""
        return self.value_count - len(self.words) + self.token_count + self.unsearched_count

    @property
    def holds_plain(self) -> bool:
        """Whether texts must be gone through, not only indexes of words."""
        return self.value_count > len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EntitySet) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"EntitySet({self.digest.hex()})"


EMPTY: Final = EntitySet()
