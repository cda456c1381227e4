"""Attributes: what their names give away, card numbers among the numbers, and values written back."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from heimdall_server.protect.actions import Action, Effects
from heimdall_server.protect.checks import card_numbers
from heimdall_server.protect.columns import Flags, FlatMap, Indices, gather, joined_by_row, scattered, text_bytes
from heimdall_server.protect.names import NAME_GATE, class_of_name
from heimdall_server.protect.view import PolicyView

_LAYOUT_BYTES_MAX: Final = 8 * 1024
"""Of the distinct sets of keys in a batch, up to which they are searched one by one: cheaper for the few that most have."""
_NAME_GATE: Final = re.compile(NAME_GATE.replace("(?i-u:", "(?i:"), re.ASCII)

Change = tuple[Indices, pl.Series]
"""Indices of values, ascending, and what they become; null: the whole field goes."""


def merged(changes: Sequence[Change]) -> Change:
    """Changes of one column as one. No index is in two of them."""
    indices = np.concatenate([indices for indices, _ in changes])
    order = np.argsort(indices)
    values = pl.concat([values for _, values in changes], rechunk=True)
    return indices[order], values.gather(order)


def with_values(mapping: FlatMap, change: Change) -> FlatMap:
    """Write values of a string map back."""
    entries, values = change
    written = mapping.with_items(scattered(mapping.items, entries, values.fill_null("")))
    gone = values.is_null().to_numpy()
    return written.without(entries[gone]) if gone.any() else written


def replace_named(flat: dict[str, FlatMap], scope: str, view: PolicyView, effects: Effects) -> None:
    """Treat every value that its attribute's name gives away.

    Args:
        flat: Maps by column name; string and number map of the scope are replaced in it. A number that has to
            become text moves from the one to the other.
        scope: `attributes` or `resource`.
        view: The policy.
        effects: Counts.
    """
    texts, numbers = flat[scope], flat[f"{scope}_number"]
    changes: list[Change] = []
    for data_class, action, entries in _named(texts, scope, view):
        filled = entries[pc.binary_length(texts.items.take(pa.array(entries))).to_numpy() > 0]
        if len(filled):
            changes.append((filled, action.replace(data_class, gather(texts.items, filled), effects)))
    if changes:
        flat[scope] = with_values(texts, merged(changes))
    _move(
        flat,
        scope,
        [
            (entries, action.replace(data_class, _texts(numbers, entries), effects))
            for data_class, action, entries in _named(numbers, scope, view)
        ],
    )


def move_cards(flat: dict[str, FlatMap], scope: str, view: PolicyView, effects: Effects) -> None:
    """Treat card numbers among a scope's numbers; what becomes of them is text. Arguments as `replace_named`."""
    numbers = flat[f"{scope}_number"]
    if "card" not in view.acts or not len(numbers):
        return
    found = card_numbers(numbers.items.to_numpy())
    by_action: dict[Action, list[int]] = defaultdict(list)
    for entry, key in zip(found.tolist(), numbers.keys.take(pa.array(found)).to_pylist(), strict=True):
        by_action[view.action("card", f"{scope}.{key}")].append(entry)
    _move(
        flat,
        scope,
        [
            (np.array(entries, np.int64), action.replace("card", _texts(numbers, entries), effects))
            for action, entries in by_action.items()
            if action.rewrites
        ],
    )


def _move(flat: dict[str, FlatMap], scope: str, changes: Sequence[Change]) -> None:
    if not changes:
        return
    numbers = flat[f"{scope}_number"]
    entries, values = merged(changes)
    flat[f"{scope}_number"] = numbers.without(entries)
    kept = entries[values.is_not_null().to_numpy()]
    if len(kept):
        items = values.drop_nulls().to_arrow().cast(pa.string())
        flat[scope] = flat[scope].with_entries(numbers.rows()[kept], numbers.keys.take(pa.array(kept)), items)


def _texts(numbers: FlatMap, entries: Iterable[int]) -> pl.Series:
    values = numbers.items.take(pa.array(entries, pa.int64())).to_pylist()
    return pl.Series("", [str(int(value)) if value.is_integer() else str(value) for value in values], pl.String)


def _named(mapping: FlatMap, scope: str, view: PolicyView) -> list[tuple[str, Action, Indices]]:
    """Entries with a telling name, by class and action. The keys of a row are searched at once, and alike rows once."""
    if not len(mapping):
        return []
    layouts = joined_by_row(mapping.keys, mapping.offsets).dictionary_encode()
    telling = _telling(layouts.dictionary)
    if not telling.any():
        return []
    entries = mapping.entries(telling[layouts.indices.to_numpy()])
    keys = mapping.keys.take(pa.array(entries)).dictionary_encode()
    treatments = [_treatment(key, scope, view) for key in keys.dictionary.to_pylist()]
    codes = keys.indices.to_numpy()
    by_treatment: dict[tuple[str, Action], list[int]] = defaultdict(list)
    for code, treatment in enumerate(treatments):
        if treatment is not None:
            by_treatment[treatment].append(code)
    return [
        (data_class, action, entries[np.isin(codes, wanted)]) for (data_class, action), wanted in by_treatment.items()
    ]


def _telling(layouts: pa.StringArray) -> Flags:
    """Which of some rows' joined keys hold a telling name."""
    if text_bytes(layouts) > _LAYOUT_BYTES_MAX:
        return pl.Series("", layouts, pl.String).str.contains(NAME_GATE).to_numpy()
    found = (_NAME_GATE.search(layout) is not None for layout in layouts.to_pylist())
    return np.fromiter(found, np.bool_, len(layouts))


def _treatment(key: str, scope: str, view: PolicyView) -> tuple[str, Action] | None:
    data_class = class_of_name(key)
    if not data_class:
        return None
    action = view.action(data_class, f"{scope}.{key}")
    return (data_class, action) if action.rewrites else None
