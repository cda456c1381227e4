"""Whether records hold an entity of a set, over a batch: what `canonical.observables` finds in their texts, and words of tokens.

The store asks the same of its tables in SQL (`storage/clickhouse/holding.py`); the conformance suite holds both to one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.canonical.observables import find_observables
from heimdall_server.domain.entity_sets import DIGEST_CHARACTERS_MIN, EntitySet
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.literals import WORD_PATTERN
from heimdall_server.domain.personal import WORD_LENGTH
from heimdall_server.language.lookup import BatchFields, Mask, Rows, to_series
from heimdall_server.language.shared_fields import SharedFields

_BODY: Final = FieldRef(Scope.CORE, "body")
_HOST: Final = FieldRef(Scope.CORE, "host")
_WORDED: Final = (_BODY, FieldRef(Scope.CORE, "tokens"))
_SCOPES: Final = ("attributes", "resource")
_DIGEST_GATE: Final = f"[0-9A-Fa-f]{{{DIGEST_CHARACTERS_MIN}}}"
_DIGEST_RUN: Final = rf"(?-u:[\w-]*{_DIGEST_GATE}[\w-]*)"
_WORD_GATE: Final = f"[0-9a-z]{{{WORD_LENGTH}}}"


def holds(entities: EntitySet) -> Callable[[BatchFields], Mask]:
    """Make the test.

    Args:
        entities: Whose values are looked for.

    Returns:
        A function from a batch's fields to one bool a row. Thread-safe.

    Cost: 0.5 to 2 µs a text that holds nothing of the set's kinds, up to 6 one that does; the set's size doesn't matter.
    """
    wanted = {
        name: values
        for name, values in (
            ("ipv4", entities.ipv4),
            ("ipv6", entities.ipv6),
            ("domain", entities.hosts),
            ("cve", entities.cves),
        )
        if values
    }

    def evaluate(fields: BatchFields) -> Mask:
        mask = np.zeros(fields.count, np.bool_)
        if entities.words:
            for ref in _WORDED:
                mask[_holding_runs(fields.lowered(ref), _WORD_GATE, WORD_PATTERN, entities.words)] = True
        if not entities.holds_plain or mask.all():
            return mask
        for place, rows, texts in _texts(fields):
            for one in held_in(fields, place, texts):
                mask[rows[one]] = True
        # A batch has few hosts: each is looked at once.
        hosts = fields.text(_HOST).dictionary_encode()
        flags = np.zeros(len(hosts.dictionary), np.bool_)
        for one in held_in(fields, _HOST.name, hosts.dictionary):
            flags[one] = True
        if flags.any():
            mask |= flags[hosts.indices.to_numpy()]
        return mask

    def held_in(fields: BatchFields, place: str, texts: pa.Array) -> Iterator[Rows]:
        for name, members in wanted.items():
            yield _held(_observables(fields, place, texts, name), members)
        if entities.digests:
            yield _holding_runs(to_series(texts), _DIGEST_GATE, _DIGEST_RUN, entities.digests)

    return evaluate


def _observables(fields: BatchFields, place: str, texts: pa.Array, type_name: str) -> pa.Table:
    """What texts hold of a type: looked for once, however many sets are asked about a batch."""
    if not isinstance(fields, SharedFields):
        return find_observables(texts, (type_name,))
    key = ("observables", place, type_name)
    found = fields.kept(key)
    if found is None:
        found = find_observables(texts, (type_name,))
        fields.keep(key, found)
    return found


def _texts(fields: BatchFields) -> Iterator[tuple[str, Rows, pa.Array]]:
    """Every text of the records but the hosts by where it stands, and the row of each."""
    yield _BODY.name, np.arange(fields.count), fields.text(_BODY)
    for scope in _SCOPES:
        column = fields.batch.column(scope)
        offsets = column.offsets.to_numpy(zero_copy_only=False)
        if len(offsets) and offsets[-1] > offsets[0]:
            first, last = int(offsets[0]), int(offsets[-1])
            yield scope, np.repeat(np.arange(fields.count), np.diff(offsets)), column.items.slice(first, last - first)


def _held(found: pa.Table, members: Collection[str]) -> Rows:
    """The rows of values that are in the set. Distinct values are few, and each is a look into a hash table."""
    if not len(found):
        return np.empty(0, np.int64)
    encoded = found["value"].combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    inside = np.fromiter((value in members for value in values), np.bool_, len(values))
    rows: Rows = found["row"].to_numpy()[inside[encoded.indices.to_numpy()]].astype(np.int64)
    return rows


def _holding_runs(texts: pl.Series, gate: str, run: str, members: Collection[str]) -> Rows:
    """The texts in which a run, in lower case, is a member."""
    rows = texts.str.contains(gate).arg_true()
    if not len(rows):
        return np.empty(0, np.int64)
    runs = texts.gather(rows).str.extract_all(run)
    at = np.repeat(rows.to_numpy(), runs.list.len().to_numpy())
    flat = runs.explode(empty_as_null=False).str.to_lowercase()
    distinct = flat.unique()
    held = [value for value in distinct.to_list() if value in members]
    if not held:
        return np.empty(0, np.int64)
    found: Rows = at[flat.is_in(held).to_numpy()].astype(np.int64)
    return found
