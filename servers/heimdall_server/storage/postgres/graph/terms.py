"""Texts and provenances that many facts share, as numbers. Numbers never change, so they are remembered."""
# ruff: noqa: S608 - statements are made of names of ours; values are parameters

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from heimdall_server.domain.graph import Provenance
from heimdall_server.storage.postgres.graph.facts import Longs, Mask, Weights
from heimdall_server.storage.postgres.graph.staging import Connection

_REMEMBERED_MAX: Final = 65_536
_ADD_TERMS: Final = "INSERT INTO graph_term (term) SELECT * FROM unnest(%s::text[]) ON CONFLICT DO NOTHING"
_ASK_TERMS: Final = "SELECT term, term_id FROM graph_term WHERE term = ANY(%s)"
_COLUMNS: Final = "digest, instance, source, method, method_version, dump, actor, confidence, tlp"
_ADD_PROVENANCE: Final = (
    f"INSERT INTO graph_provenance ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)
_ASK_PROVENANCES: Final = "SELECT digest, provenance_id FROM graph_provenance WHERE digest = ANY(%s)"


class Terms:
    """Names of types and relations. What a transaction that failed has made is forgotten by `forget`."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {"": 0}

    def forget(self) -> None:
        """Remember nothing."""
        self._numbers = {"": 0}

    async def numbers(self, connection: Connection, texts: pa.StringArray, wanted: Mask) -> Longs:
        """The number of each that is wanted, made where there is none; 0 for an empty one, and for the others."""
        encoded = texts.filter(pa.array(wanted)).dictionary_encode()
        names = encoded.dictionary.to_pylist()
        unknown = [name for name in names if name not in self._numbers]
        if unknown:
            if len(self._numbers) > _REMEMBERED_MAX:
                self.forget()
            await connection.execute(_ADD_TERMS, (unknown,))
            cursor = await connection.execute(_ASK_TERMS, ([name for name in names if name not in self._numbers],))
            self._numbers |= {str(term): int(number) for term, number in await cursor.fetchall()}
        found = np.fromiter((self._numbers[name] for name in names), np.int64, len(names))
        numbers = np.zeros(len(texts), np.int64)
        if names:
            numbers[wanted] = found[encoded.indices.to_numpy()]
        return numbers

    def names(self, texts: pa.StringArray, wanted: Mask) -> Mapping[int, str]:
        """Names by number of those that were asked for by `numbers`."""
        return {self._numbers[name]: name for name in texts.filter(pa.array(wanted)).unique().to_pylist()}


class Provenances:
    """Who says so, by number."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def forget(self) -> None:
        """Remember nothing."""
        self._numbers = {}

    async def numbers(self, connection: Connection, provenances: Sequence[Provenance]) -> Longs:
        """The number of each, made where there is none."""
        digests = [provenance.digest for provenance in provenances]
        unknown = [one for digest, one in zip(digests, provenances, strict=True) if digest not in self._numbers]
        if unknown:
            if len(self._numbers) > _REMEMBERED_MAX:
                self.forget()
                unknown = list(provenances)
            async with connection.cursor() as cursor:
                await cursor.executemany(_ADD_PROVENANCE, [_row(one) for one in unknown])
                await cursor.execute(_ASK_PROVENANCES, ([one.digest for one in unknown],))
                self._numbers |= {bytes(digest): int(number) for digest, number in await cursor.fetchall()}
        return np.fromiter((self._numbers[digest] for digest in digests), np.int64, len(digests))


def weights(numbers: Longs, provenances: Sequence[Provenance]) -> Weights:
    """What provenances lend to their facts, to be looked up by number."""
    size = int(numbers.max()) + 1 if len(numbers) else 0
    confidence, tlp = np.zeros(size, np.int64), np.zeros(size, np.int64)
    confidence[numbers] = [one.confidence for one in provenances]
    tlp[numbers] = [int(one.tlp) for one in provenances]
    return Weights(confidence, tlp)


def _row(one: Provenance) -> tuple[object, ...]:
    texts = (one.instance, one.source, one.method, one.method_version, one.dump, one.actor)
    return (one.digest, *texts, one.confidence, int(one.tlp))
