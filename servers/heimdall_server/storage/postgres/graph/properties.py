"""What Cypher sees of a vertex or an edge: its `properties`, as the text that AGE reads, made by columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.domain.graph import VertexKind
from heimdall_server.domain.personal import CLASS_PATTERN, EPOCHS
from heimdall_server.storage.postgres.binary_copy import Texts
from heimdall_server.storage.postgres.graph.facts import Longs

_AGTYPE_VERSION: Final = b"\x01"
_BACKSLASH, _QUOTE, _SPACE = (ord(one) for one in '\\" ')
_TOKEN: Final = rf"^\[{CLASS_PATTERN}:(?P<epoch>[0-9a-z])[a-z2-7]{{26}}\]$"
_CONTROLS: Final = "[\x00-\x1f]"


def vertex_properties(kind: VertexKind, types: pa.StringArray, values: pa.StringArray, days: pa.Int32Array) -> Texts:
    """Type and value, and a sighting's day.

    Args:
        kind: Of all of them.
        types: Their types.
        values: Their values.
        days: Days since 1970; of sightings.
    """
    parts = ['{"type": ', _named(types), ', "value": "', _escaped(values)]
    if kind is VertexKind.SIGHTING:
        dates = pc.strftime(days.cast(pa.date32()), format="%Y-%m-%d")
        parts += ['", "day": "', dates]
    return _texts(parts, len(values))


def edge_properties(relations: Longs, terms: Mapping[int, str]) -> Texts:
    """The relation, where there is one.

    Args:
        relations: Numbers of terms; 0: none.
        terms: Names of those numbers.
    """
    numbers, places = np.unique(relations, return_inverse=True)
    texts = [json.dumps({"relation": terms[int(one)]}, ensure_ascii=False) if one else "{}" for one in numbers]
    column = pa.array(texts, pa.string()).take(pa.array(places))
    return Texts.of(column, prefix=_AGTYPE_VERSION)


def token_marks(values: pa.StringArray) -> Longs:
    """The epoch of each token, from 1; 0: the value is no token. Of an entity's several tokens that of the last epoch is kept."""
    marks = np.zeros(len(values), np.int64)
    rows = np.flatnonzero(np.asarray(pc.starts_with(values, "[").to_numpy(zero_copy_only=False), bool))
    if len(rows):
        found = pc.struct_field(pc.extract_regex(values.take(pa.array(rows)), _TOKEN), "epoch")
        marks[rows] = pc.fill_null(pc.index_in(found, value_set=pa.array(list(EPOCHS))), -1).to_numpy() + 1
    return marks


def _texts(parts: list[Any], count: int) -> Texts:
    columns = [pa.repeat(pa.scalar(part), count) if isinstance(part, str) else part for part in [*parts, '"}']]
    return Texts.of(pc.binary_join_element_wise(*columns, ""), prefix=_AGTYPE_VERSION)


def _named(types: pa.StringArray) -> pa.StringArray:
    encoded = types.dictionary_encode()
    names = pa.array([json.dumps(one, ensure_ascii=False) for one in encoded.dictionary.to_pylist()], pa.string())
    return names.take(encoded.indices)


def _escaped(values: pa.StringArray) -> pa.StringArray:
    """The inside of JSON strings."""
    # Looking for an octet is a hundred times faster than replacing it wherever it is, and most values hold none.
    octets = Texts.of(values).data
    found = pc.replace_substring(values, "\\", "\\\\") if (octets == _BACKSLASH).any() else values
    if (octets == _QUOTE).any():
        found = pc.replace_substring(found, '"', '\\"')
    if (octets < _SPACE).any():  # rare in what is canonical, so one by one
        controls = pc.match_substring_regex(values, _CONTROLS)
        some = [json.dumps(one, ensure_ascii=False)[1:-1] for one in values.filter(controls).to_pylist()]
        found = pc.replace_with_mask(found, controls, pa.array(some, pa.string()))
    return found
