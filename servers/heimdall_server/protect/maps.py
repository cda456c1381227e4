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

from heimdall_server.protect import ours
from heimdall_server.protect.actions import Action, Effects, mask
from heimdall_server.protect.checks import card_numbers
from heimdall_server.protect.columns import Flags, FlatMap, Indices, gather, joined_by_row, scattered, text_bytes
from heimdall_server.protect.dump_columns import Learnt
from heimdall_server.protect.names import NAME_GATE, class_of_name
from heimdall_server.protect.places import Ledger, Placement
from heimdall_server.protect.spans import large
from heimdall_server.protect.view import PolicyView

_LAYOUT_BYTES_MAX: Final = 8 * 1024
"""Of the distinct sets of keys in a batch, up to which they are searched one by one: cheaper for the few that most have."""
_NAME_GATE: Final = re.compile(NAME_GATE.replace("(?i-u:", "(?i:"), re.ASCII)

_NONE: Final = np.empty(0, np.int64)

Change = tuple[Indices, pl.Series]
"""Indices of values, ascending, and what they become; null: the whole field goes."""


def merged(changes: Sequence[Change]) -> Change:
    """Changes of one column as one. No index is in two of them."""
    indices = np.concatenate([indices for indices, _ in changes])
    order = np.argsort(indices)
    values = pl.concat([values for _, values in changes], rechunk=True)
    return indices[order], values.gather(order)


def with_values(mapping: FlatMap, change: Change) -> tuple[FlatMap, Indices]:
    """Write values of a string map back.

    Returns:
        The map, and where each entry is now.
    """
    entries, values = change
    written = mapping.with_items(scattered(mapping.items, entries, values.fill_null("")))
    gone = values.is_null().to_numpy()
    if not gone.any():
        return written, np.arange(len(mapping))
    kept = np.ones(len(mapping), np.bool_)
    kept[entries[gone]] = False
    return written.without(entries[gone]), np.cumsum(kept) - 1


def treat_named(
    flat: dict[str, FlatMap],
    scope: str,
    view: PolicyView,
    ledger: Ledger,
    effects: Effects,
    *,
    learnt: tuple[Sequence[Learnt], Sequence[Learnt]] = ((), ()),
) -> list[Placement]:
    """Treat every value that its attribute's name gives away, or its column in a dump, and card numbers among the numbers.

    Masks are put in their place. A number that has to become text moves from the map of numbers to that of texts.

    Args:
        flat: Maps by column name; string and number map of the scope are replaced in it.
        scope: `attributes` or `resource`.
        view: The policy.
        ledger: Keeps what the masks stand for.
        effects: Counts.
        learnt: Of texts and of numbers, the columns of dumps that have a class.

    Returns:
        What isn't only masked, and where it stands.
    """
    texts, numbers = flat[scope], flat[f"{scope}_number"]
    found = [
        (data_class, action, entries[_treatable(texts.items.take(pa.array(entries)), view)])
        for data_class, action, entries in _named(texts, scope, view) + _of_columns(learnt[0], scope, view)
    ]
    moving = _named(numbers, scope, view) + _of_columns(learnt[1], scope, view)
    moving += _cards(numbers, scope, view, np.concatenate([entries for *_, entries in moving]) if moving else _NONE)
    treated = [(data_class, action, entries, gather(texts.items, entries)) for data_class, action, entries in found]
    if moving:
        gone = np.concatenate([entries for *_, entries in moving])
        flat[f"{scope}_number"] = numbers.without(gone)
        staying = [(name, action, np.sort(entries)) for name, action, entries in moving if not action.drops]
        for data_class, action, entries in moving:
            if action.drops:
                effects.hits[data_class] += len(entries)
        entries = np.concatenate([_NONE, *(entries for *_, entries in staying)])
        blank = pa.repeat(pa.scalar("", pa.string()), len(entries))
        texts, places = texts.with_entries(numbers.rows()[entries], numbers.keys.take(pa.array(entries)), blank)
        treated = [(name, action, places[entries], values) for name, action, entries, values in treated]
        start = len(places) - len(entries)
        for data_class, action, entries in staying:
            now = places[start : start + len(entries)]
            treated.append((data_class, action, now, _texts(numbers, entries)))
            start += len(entries)
        flat[scope] = texts
    changes: list[Change] = []
    placements: list[Placement] = []
    for data_class, action, entries, values in treated:
        if not len(entries):
            continue
        stands = mask(data_class)
        effects.hits[data_class] += len(values) if action.drops else int((values != stands).sum())
        written = pl.Series("", [None if action.drops else stands], pl.String).new_from_index(0, len(values))
        changes.append((entries, written))
        if not (action.drops or action.masks):
            placements.append(Placement(scope, entries, ledger.add(action, data_class, large(values))))
    if not changes:
        return []
    flat[scope], left = with_values(texts, merged(changes))
    return [Placement(one.column, left[one.indices], one.ids) for one in placements]


def _treatable(values: pa.StringArray, view: PolicyView) -> Flags:
    """Which values there is something to do with."""
    flags: Flags = pc.binary_length(values).to_numpy() > 0
    if view.again:
        flags &= ~pl.Series("", values, pl.String).str.contains(ours.WHOLE).to_numpy()
    return flags


def _of_columns(learnt: Iterable[Learnt], scope: str, view: PolicyView) -> list[tuple[str, Action, Indices]]:
    """Entries of columns whose class is treated."""
    treated = ((one, view.action(one.data_class, f"{scope}.{one.key}")) for one in learnt)
    return [(one.data_class, action, one.entries) for one, action in treated if action.rewrites]


def _cards(numbers: FlatMap, scope: str, view: PolicyView, named: Indices) -> list[tuple[str, Action, Indices]]:
    """Card numbers among the numbers that no name gave away, by action."""
    if "card" not in view.acts or not len(numbers):
        return []
    found = np.setdiff1d(card_numbers(numbers.items.to_numpy()), named)
    by_action: dict[Action, list[int]] = defaultdict(list)
    for entry, key in zip(found.tolist(), numbers.keys.take(pa.array(found)).to_pylist(), strict=True):
        by_action[view.action("card", f"{scope}.{key}")].append(entry)
    return [("card", action, np.array(entries, np.int64)) for action, entries in by_action.items() if action.rewrites]


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
