"""Sets of entities for queries, in a process that runs the graph."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import IntegrityError, KeyDestroyedError
from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.vault import Vault
from heimdall_server.projections.graph.follower import GraphProjection
from heimdall_server.services.query.logic.sets import SetFinder
from heimdall_server.services.query.set_model import GraphPosition
from heimdall_server.storage.postgres.graph.sets import PostgresGraphSets
from heimdall_server.storage.postgres.pool import PostgresPool

_NAMES_AT_ONCE: Final = 10_000
"""Tokens whose values the vault is asked for in one statement."""


def make_set_finder(
    pool: PostgresPool, projection: GraphProjection, vault: Vault, keyring: Keyring, clock: Clock
) -> SetFinder:
    """What queries and watches ask of the graph."""

    def position() -> GraphPosition:
        progress = projection.progress
        return GraphPosition(progress.applied, progress.lag_s)

    words = WordsOfOtherEpochs(vault, keyring)
    return SetFinder(PostgresGraphSets(pool), clock, position=position, further_words=words.of)


class WordsOfOtherEpochs:
    """The graph keeps an entity's newest token; older records may have one of another epoch that still lives.

    While there are several, values are opened to name them under each, and forgotten.
    """

    def __init__(self, vault: Vault, keyring: Keyring) -> None:
        self._vault = vault
        self._keyring = keyring

    async def of(self, tokens: Sequence[str]) -> Collection[str]:
        """Words of the same values under other epochs.

        Args:
            tokens: In brackets.

        Raises:
            StoreError: The vault can't be asked.
        """
        if len(self._keyring.live_epochs) < 2:
            return ()
        names = [name for token in tokens if (name := TokenName.parse(token)) is not None]
        words: set[str] = set()
        for start in range(0, len(names), _NAMES_AT_ONCE):
            values = await self._vault.get(names[start : start + _NAMES_AT_ONCE])
            words |= await asyncio.to_thread(self._words, list(values.values()))
        return words

    def _words(self, values: Sequence[SealedValue]) -> set[str]:
        words: set[str] = set()
        for value in values:
            try:
                plain = self._keyring.open(value)
            except (KeyDestroyedError, IntegrityError):
                continue  # it can't be read by anybody; its token is searched for all the same
            words.update(self._keyring.words_of_all_epochs(value.name.data_class, plain))
        return words
