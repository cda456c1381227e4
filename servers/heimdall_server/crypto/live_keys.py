"""The keys of a keyring while a process uses them: an immutable picture that a change replaces whole, so that no reader takes a lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.crypto.blind_index import BlindIndex
from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.keyring_document import KeyringDocument, Place
from heimdall_server.crypto.sealing import ValueSealer
from heimdall_server.domain.errors import CorruptionError, IntegrityError, KeyDestroyedError
from heimdall_server.domain.personal import EPOCHS, SealedValue

ROOT_PLACE: Final[Place] = ("journal", "", 0)
SINGLE_PLACES: Final[tuple[Place, ...]] = (ROOT_PLACE, ("identity", "", 0), ("signing", "", 0), ("audit", "", 0))
"""Keys of which there is one."""


@dataclass(frozen=True, slots=True)
class LiveKeys:
    """What a document says, unwrapped."""

    content: bytes = field(repr=False)
    """The file that the document stands in."""
    document: KeyringDocument
    plain: Mapping[Place, bytes] = field(repr=False)
    """Every key that lives, 32 bytes each. Secret."""
    sealers: Mapping[tuple[str, int], ValueSealer] = field(repr=False)
    newest: Mapping[str, int]
    """Newest generation of each class."""
    indexes: tuple[tuple[int, BlindIndex], ...] = field(repr=False)
    """Ordinal and index of each living epoch, the newest last."""

    @classmethod
    def build(
        cls, content: bytes, document: KeyringDocument, plain: Mapping[Place, bytes], *, before: LiveKeys | None
    ) -> LiveKeys:
        """Make the picture; what `before` has prepared for the same keys is kept.

        Raises:
            CorruptionError: A key that must be there isn't.
        """
        held_sealers = before.sealers if before is not None else {}
        held_indexes = dict(before.indexes) if before is not None else {}
        sealers = {
            (name, number): held_sealers.get((name, number)) or ValueSealer(name, number, key)
            for (kind, name, number), key in plain.items()
            if kind == "data"
        }
        newest: dict[str, int] = {}
        for name, number in sealers:
            newest[name] = max(number, newest.get(name, 0))
        indexes = tuple(
            (number, held_indexes.get(number) or BlindIndex(key, number % len(EPOCHS)))
            for (kind, _, number), key in sorted(plain.items())
            if kind == "index"
        )
        if not indexes or any(place not in plain for place in SINGLE_PLACES):
            raise CorruptionError("keyring", "a key that every keyring has is missing; restore it from a backup")
        return cls(content, document, plain, sealers, newest, indexes)

    @property
    def root(self) -> RootKey:
        """The journal's root."""
        return RootKey(self.plain[ROOT_PLACE])

    @property
    def mac_key(self) -> bytes:
        """What the file is authenticated with."""
        return keyring_mac_key(self.root)

    def sealer_of(self, value: SealedValue) -> ValueSealer:
        """The sealer that opens a value.

        Raises:
            KeyDestroyedError: Its key was destroyed.
            IntegrityError: There never was such a key.
        """
        name, generation = value.name.data_class, value.generation
        sealer = self.sealers.get((name, generation))
        if sealer is not None:
            return sealer
        if any(entry.place == ("data", name, generation) for entry in self.document.entries):
            raise KeyDestroyedError(name, generation)
        raise IntegrityError(str(value.name))


def keyring_mac_key(root: RootKey) -> bytes:
    """The key that authenticates a keyring's file, from the journal root in it."""
    return root.derive("keyring mac")
