"""Which entity a value is: by the value itself, or, for a token, by the value behind it.

A token changes with the epoch of the index key, an entity doesn't. So the value behind a token is opened once, to name its entity under the
identity key, and forgotten; what is remembered tells nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import pyarrow as pa

from heimdall_server.canonical.identity import PERSONAL_TYPES, entity_ids, personal_entity_ids
from heimdall_server.domain.errors import IntegrityError, KeyDestroyedError, StoreError
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.ports.keys import Sealer
from heimdall_server.ports.vault import Vault

REMEMBERED: Final = 65_536
"""Tokens whose entity is remembered at least, and twice as many at most; 300 bytes each."""


class Identities:
    """Names entities. For one event loop; `of` may run in any thread."""

    def __init__(
        self,
        vault: Vault,
        sealer: Sealer,
        mac: Callable[[bytes], bytes],
        *,
        wait_applied: Callable[[int], Awaitable[bool]],
    ) -> None:
        """Take what it asks.

        Args:
            vault: Holds the values behind tokens.
            sealer: Opens them.
            mac: A MAC under the identity key, in a domain of its own.
            wait_applied: Waits until the vault has the values of frames up to a position; False: it doesn't get there in time.
        """
        self._vault = vault
        self._sealer = sealer
        self._mac = mac
        self._wait_applied = wait_applied
        # Two generations: what is asked for again comes into the younger one, and what isn't goes with the older one.
        self._known: dict[str, str] = {}
        self._before: dict[str, str] = {}

    async def learn(self, tokens: Iterable[str], *, through: int) -> Mapping[str, str]:
        """Find out whose tokens are.

        Args:
            tokens: `class:word`.
            through: Position of the newest frame that they stand in.

        Returns:
            Canonical ids of entities, by token; none for one whose value was erased or lost.

        Raises:
            StoreError: The vault can't be asked, or isn't that far.
        """
        wanted = set(tokens)
        found = self._remembered(wanted)
        names = await asyncio.to_thread(_names, wanted - found.keys())
        if names:
            if not await self._wait_applied(through):
                raise StoreError("postgres", "the vault isn't as far as the graph's next frames")
            values = await self._vault.get(names)
            found.update(await asyncio.to_thread(self._identify, values))
        self._known.update(found)
        if len(self._known) > REMEMBERED:
            self._known, self._before = {}, self._known
        return found

    def forget(self, tokens: Iterable[str]) -> None:
        """Ask anew whose these are.

        Args:
            tokens: In brackets.
        """
        for token in tokens:
            self._known.pop(token[1:-1], None)
            self._before.pop(token[1:-1], None)

    def of(self, type_name: str, values: pa.StringArray, learned: Mapping[str, str]) -> pa.StringArray:
        """Say which entities values are.

        Args:
            type_name: A type, or a class of personal data.
            values: Canonical values; tokens in brackets.
            learned: As `learn` gives it.

        Returns:
            Canonical ids; null: it is none that can be named.
        """
        if type_name not in PERSONAL_TYPES and not _are_tokens(values):
            return entity_ids(type_name, values)
        return pa.array([learned.get(value[1:-1]) for value in values.to_pylist()], pa.string())

    def _remembered(self, tokens: Iterable[str]) -> dict[str, str]:
        both = ((token, self._known.get(token) or self._before.get(token)) for token in tokens)
        return {token: identity for token, identity in both if identity is not None}

    def _identify(self, values: Mapping[TokenName, SealedValue]) -> dict[str, str]:
        by_class: dict[str, list[tuple[str, str]]] = {}
        for name, value in values.items():
            try:
                plain = self._sealer.open(value)
            except (KeyDestroyedError, IntegrityError):
                continue  # it can't be read by anybody; that is told where it is asked for
            by_class.setdefault(name.data_class, []).append((str(name)[1:-1], plain))
        found: dict[str, str] = {}
        for data_class, pairs in by_class.items():
            ids = personal_entity_ids(data_class, pa.array([plain for _, plain in pairs], pa.string()), self._mac)
            found.update(zip((token for token, _ in pairs), ids.to_pylist(), strict=True))
        return found


def _names(tokens: Iterable[str]) -> list[TokenName]:
    return [name for token in tokens if (name := TokenName.parse(token)) is not None]


def _are_tokens(values: pa.StringArray) -> bool:
    return len(values) > 0 and TokenName.parse(values[0].as_py()) is not None
