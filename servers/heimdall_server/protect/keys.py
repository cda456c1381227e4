"""Attribute keys that carry values, as in `{"alice@example.com": "admin"}`: the few in which a rule may find something are treated.

The keys of a record are looked at as one text, alike records once, and what was found clean is remembered: in the long run
a batch costs a look-up for each distinct set of keys. Keys of a record that become equal stay two entries.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.protect.columns import FlatMap, Indices, joined_by_row, scattered, text_bytes
from heimdall_server.protect.run import Found
from heimdall_server.protect.view import PolicyView, Steps

_STRUCTURED_DATA: Final = re.compile(
    r"""([!#-<>?A-\\^-~]{1,32})@((?:[0-9]{1,6}\.)*[0-9]{1,6})\.(?!(?i:com|cn|net|org)(?:[^A-Za-z0-9_]|$)).""",
    re.ASCII | re.DOTALL,
)
"""How a parameter of syslog's structured data begins, `exampleSDID@32473.eventSource` (RFC 5424, sections 6.3.2 and 7.2.2): a name with an
enterprise number in it, which looks like a mail address and isn't one. Domains of digits alone do take mail under these few."""
_JOINT: Final = "\n"
"""Stands for what joins such a key's parts: no rule takes it for a part of a value, and it isn't in the name itself."""

COLUMN = "{} keys"
"""What the column of a map's suspicious keys is called."""


@dataclass(frozen=True, slots=True)
class SuspiciousKeys:
    """Distinct keys of one map that aren't known to be clean, and where they stand."""

    name: str
    """Of the map."""
    texts: pa.StringArray
    entries: Indices
    """Of the map, that may have such a key."""
    codes: Indices
    """By entry, index into `texts`."""

    @property
    def column(self) -> str:
        """The name under which they are found."""
        return COLUMN.format(self.name)

    @property
    def scope(self) -> str:
        """`attributes` or `resource`."""
        return self.name.partition("_")[0]

    def found(self, view: PolicyView) -> list[Found]:
        """The keys, for the rules."""
        by_steps: dict[Steps, list[int]] = defaultdict(list)
        for index, key in enumerate(self.texts.to_pylist()):
            by_steps[view.key_steps(f"{self.scope}.{key}")].append(index)
        texts = pl.Series("", list(map(in_parts, self.texts.to_pylist())), pl.String)
        return [Found(self.column, np.array(some), texts.gather(some), steps) for steps, some in by_steps.items()]

    def written(self, mapping: FlatMap, indices: Indices, texts: pl.Series) -> FlatMap:
        """The map with other keys.

        Args:
            mapping: The map.
            indices: Of the keys that change.
            texts: What they become.
        """
        before = self.texts.take(pa.array(indices)).to_pylist()
        joined = [_joined(key, after) for key, after in zip(before, texts, strict=True)]
        new = scattered(self.texts, indices, pl.Series("", joined, pl.String))
        changed = np.isin(self.codes, indices)
        values = pl.Series("", new.take(pa.array(self.codes[changed])), pl.String)
        return mapping.with_keys(scattered(mapping.keys, self.entries[changed], values))


def in_parts(key: str) -> str:
    """A key as the rules shall see it, as long as it is: the parts of a parameter of syslog's structured data aren't joined to an address."""
    found = _STRUCTURED_DATA.match(key)
    if found is None:
        return key
    sign, dot = found.end(1), found.end(2)
    return f"{key[:sign]}{_JOINT}{key[sign + 1 : dot]}{_JOINT}{key[dot + 1 :]}"


def _joined(key: str, after: str) -> str:
    """What became of a key that the rules saw in parts, as a key again."""
    if _STRUCTURED_DATA.match(key) is None:
        return after
    return after.replace(_JOINT, "@", 1).replace(_JOINT, ".", 1)


def suspicious(flat: Mapping[str, FlatMap], view: PolicyView) -> dict[str, SuspiciousKeys]:
    """Find keys that may hold something, by column name."""
    found: dict[str, SuspiciousKeys] = {}
    for name, mapping in flat.items():
        if not len(mapping):
            continue
        layouts = joined_by_row(mapping.keys, mapping.offsets).dictionary_encode()
        distinct = layouts.dictionary.to_pylist()
        unknown = [layout not in view.clean_layouts for layout in distinct]
        if not any(unknown):
            continue
        flags = np.array(unknown)
        keys = _keys(name, mapping, flags[layouts.indices.to_numpy()], view)
        if keys is None:
            view.clean_layouts.add(layout for layout, new in zip(distinct, unknown, strict=True) if new)
        else:
            found[keys.column] = keys
    return found


def _keys(
    name: str, mapping: FlatMap, rows: np.ndarray[tuple[int], np.dtype[np.bool_]], view: PolicyView
) -> SuspiciousKeys | None:
    entries = mapping.entries(rows)
    encoded = mapping.keys.take(pa.array(entries)).dictionary_encode()
    if not text_bytes(encoded.dictionary):
        return None
    gated = view.gate.passed([encoded.dictionary]).any.tolist()
    texts = encoded.dictionary.to_pylist()
    wanted = [index for index, key in enumerate(texts) if gated[index] and key not in view.clean_keys]
    if not wanted:
        return None
    numbers = np.full(len(texts), -1)
    numbers[wanted] = np.arange(len(wanted))
    codes = numbers[encoded.indices.to_numpy()]
    here = codes >= 0
    return SuspiciousKeys(name, pa.array([texts[index] for index in wanted], pa.string()), entries[here], codes[here])
