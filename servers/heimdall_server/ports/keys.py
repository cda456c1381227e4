"""Keys, as those see them who only use them: who wraps, who names values, who seals them. `crypto/keyring.py` implements all but the first.

A key-encryption key (KEK) wraps every other key and may live elsewhere (AWS KMS, HashiCorp Vault). A *data key* belongs to (class,
generation) and seals values. *Index keys* have epochs and make tokens. The *identity key* names personal entities and is never rotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from heimdall_server.domain.personal import SealedValue


class KeyEncryption(Protocol):
    """Wraps keys. Used at start, at rotation, when a generation is made: never on the data path."""

    @property
    def key_id(self) -> str:
        """Names the key and tells nothing of it: a fingerprint, an ARN, a transit key's name and version."""
        ...

    async def wrap(self, plain: bytes, *, context: bytes) -> bytes:
        """Encrypt a key of 32 bytes.

        Args:
            plain: The key.
            context: Authenticated with it; unwrapping needs the same.

        Raises:
            StoreError: The remote service can't be reached or refuses.
        """
        ...

    async def unwrap(self, wrapped: bytes, *, context: bytes) -> bytes:
        """Decrypt a key.

        Raises:
            KeyMismatchError: Another key wrapped it, or it was changed.
            StoreError: The remote service can't be reached or refuses.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class Tokeniser(Protocol):
    """Names values by the index keys. Thread-safe; about a microsecond a value."""

    @property
    def live_epochs(self) -> Sequence[int]:
        """Epochs (indices into `EPOCHS`) whose tokens may still be stored, the newest last."""
        ...

    def words(self, data_class: str, values: Sequence[str]) -> list[str]:
        """The words of canonical values under the newest epoch, in order."""
        ...

    def words_of_all_epochs(self, data_class: str, value: str) -> tuple[str, ...]:
        """A canonical value's word under each live epoch: what a search must ask for."""
        ...

    def digests(self, data_class: str, values: Sequence[str]) -> list[str]:
        """Keyed hashes for the action `hash`: 32 hexadecimal digits under the identity key, in a domain of their own."""
        ...


class Sealer(Protocol):
    """Seals values under the newest data key of their class, and opens them. Thread-safe."""

    def seal(self, data_class: str, words: Sequence[str], values: Sequence[str]) -> list[SealedValue]:
        """Seal values that have these words, in order.

        Raises:
            KeyError: The class has no data key (see `classes`): a bug, since wiring makes one for each class at start.
        """
        ...

    def seal_bytes(self, data_class: str, words: Sequence[str], values: Sequence[str]) -> tuple[int, list[bytes]]:
        """As `seal`, as columns: the generation and the sealed bytes. Twice as quick, since it makes no objects.

        Raises:
            KeyError: The class has no data key.
        """
        ...

    def open(self, value: SealedValue) -> str:
        """The plain value.

        Raises:
            IntegrityError: A byte was changed, or the value belongs to another token, class or generation.
            KeyDestroyedError: Its data key was destroyed: nobody can read it any more.
        """
        ...

    def generation(self, data_class: str) -> int:
        """The newest generation of a class, from 1."""
        ...


class FieldCipher(Protocol):
    """Encrypts single values where they stand, for the action `encrypt`: nothing is kept elsewhere, nothing can be searched. Thread-safe."""

    def encrypt(self, data_class: str, values: Sequence[str], fields: Sequence[str], rows: Sequence[int]) -> list[str]:
        """Encrypt values of one batch, each bound to its class, its field and its record.

        Args:
            data_class: What they are.
            values: In plain.
            fields: The field that each stands in.
            rows: The record that each stands in; what is equal in one call is the same record.

        Returns:
            ASCII without brackets, colons and blanks; no two are equal.
        """
        ...

    def decrypt(self, data_class: str, text: str, field: str) -> str:
        """The plain value.

        Raises:
            IntegrityError: A byte was changed, or it belongs to another class or field.
            KeyDestroyedError: Its data key was destroyed.
        """
        ...


class FormatPreserver(Protocol):
    """Encrypts values so that they keep their form (FF1, NIST SP 800-38G), under a key of its own for each class. Thread-safe."""

    @property
    def classes(self) -> frozenset[str]:
        """Classes whose values are of so many (a million and more) that it may be done."""
        ...

    def encrypt(self, data_class: str, values: Sequence[str]) -> list[str | None]:
        """Encrypt values, in order. None: the value hasn't the form of its class, or is too short."""
        ...

    def decrypt(self, data_class: str, values: Sequence[str]) -> list[str | None]:
        """What `encrypt` was given, in order. Whatever has the form decrypts to something: there is no integrity."""
        ...


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What an operator may know of a key."""

    key_id: str
    kind: str
    """`kek`, `journal`, `data`, `index`, `identity`, `signing`."""
    data_class: str
    """Of a data key; empty elsewhere."""
    number: int
    """Generation or epoch; 0: it has none."""
    state: str
    """`active` (the newest), `retired` (still opens, or still searched), `destroyed`."""
    created_time_ns: int
    destroyed_time_ns: int = 0
    wrapped_by: str = ""
    """Id of the KEK."""


class KeyAdministration(Protocol):
    """What rotation and erasure do to the keys. Every change is durable before it returns; safe to repeat after a crash."""

    def list(self) -> Sequence[KeyFacts]:
        """Every key, without anything secret."""
        ...

    async def rewrap(self, kek: KeyEncryption) -> None:
        """Wrap all keys under another KEK; nothing else changes. The old KEK is no longer needed afterwards."""
        ...

    async def new_generation(self, data_class: str) -> int:
        """Make the next data key of a class, with which everything is sealed from now on; the older ones still open."""
        ...

    async def new_epoch(self) -> int:
        """Make the next index key; the older ones are still searched. Returns the epoch (an index into `EPOCHS`).

        Raises:
            ConflictError: All 36 epochs are alive.
        """
        ...

    async def retire_epoch(self, epoch: int) -> None:
        """Destroy an index key: no stored record holds its tokens any more. Not the newest."""
        ...

    async def destroy_generation(self, data_class: str, generation: int) -> int:
        """Destroy a data key for good: its bytes are overwritten. Not the newest.

        Returns:
            When, in ns since 1970 UTC; a repeat returns the first time.
        """
        ...


class Signer(Protocol):
    """Signs certificates of erasure with the instance's Ed25519 key."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes (RFC 8032)."""
        ...
