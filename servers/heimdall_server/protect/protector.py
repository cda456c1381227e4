"""The protector: applies the privacy policy to the columns of a batch.

A gate, one regex over whole columns, finds the few values that may hold something; only those are rewritten, rule by
rule. Attributes are judged by their name, too: the value of `password` goes whatever it looks like. Texts are the body,
the overflow, the columns that name something (service, host, the level as it was written, event, scope), and every
string of the attribute maps; card numbers are also found among numbers.
Attribute *keys* are taken for names that a programmer chose, and stay.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.domain.records import repeat
from heimdall_server.ports.protector import Protected
from heimdall_server.protect import maps
from heimdall_server.protect.actions import ACTIONS, Action, Effects
from heimdall_server.protect.columns import Flags, FlatMap, Indices, gather, joined_by_row, scattered, text_bytes
from heimdall_server.protect.policy import PrivacyPolicy
from heimdall_server.protect.rules import passing
from heimdall_server.protect.view import PolicyView, Steps

_TEXTS: Final = ("body", "overflow")
_REPEATED_TEXTS: Final = ("service", "host", "severity_text", "event_name", "scope_name")
"""Few distinct values a batch: only those are searched."""
_SCOPES: Final = ("attributes", "resource")


@dataclass(slots=True)
class _Found:
    """Values of one column that passed the gate and are treated alike."""

    column: str
    indices: Indices
    values: pl.Series
    steps: Steps


class PolicyProtector:
    """The `Protector` of the configured policy."""

    def __init__(self, policy: PrivacyPolicy | None = None, actions: Mapping[str, Action] = ACTIONS) -> None:
        """Take a policy.

        Args:
            policy: None: the default policy.
            actions: The actions by name; one with keys is made by wiring and added here.

        Raises:
            ConfigurationError: The policy has problems.
        """
        self._policy = policy or PrivacyPolicy()
        self._actions = actions
        self._lock = threading.Lock()
        self._views: dict[tuple[bool, ...], PolicyView] = {}
        if problems := self._policy.problems(tuple(actions)):
            raise ConfigurationError(tuple(problems))

    @property
    def policy_version(self) -> int:
        """The version that `protect` stamps."""
        return self._policy.version

    def protect(self, batch: pa.RecordBatch) -> Protected:
        """Apply the policy to every text column and map of a batch. See the port."""
        effects = Effects()
        pieces: list[pa.RecordBatch] = []
        places: list[Indices] = []
        for view, rows in self._by_view(batch.column("source")):
            places.append(rows)
            whole = len(rows) == batch.num_rows
            piece = batch if whole else batch.take(pa.array(rows))
            pieces.append(_protected(piece, view, effects) if view.gate and len(rows) else piece)
        if len(pieces) == 1:
            result = pieces[0]
        else:
            order = np.argsort(np.concatenate(places), kind="stable") if places else np.empty(0, np.int64)
            table = pa.Table.from_batches(pieces, batch.schema).combine_chunks()
            result = table.take(pa.array(order)).combine_chunks().to_batches()[0]
        versions = repeat(self._policy.version, batch.num_rows, pa.uint32())
        index = result.schema.get_field_index("policy_version")
        result = result.set_column(index, result.schema.field(index), versions)
        return Protected(result, {name: count for name, count in effects.hits.items() if count}, effects.sidecars)

    def _by_view(self, sources: pa.StringArray) -> list[tuple[PolicyView, Indices]]:
        rules = self._policy.rules
        if not len(sources) or all(rule.source == "*" for rule in rules):
            return [(self._view(""), np.arange(len(sources)))]
        encoded = sources.dictionary_encode()
        codes = encoded.indices.to_numpy()
        views = [self._view(source) for source in encoded.dictionary.to_pylist()]
        distinct = list(dict.fromkeys(views))
        numbers = np.array([distinct.index(view) for view in views])[codes]
        return [(view, np.flatnonzero(numbers == number)) for number, view in enumerate(distinct)]

    def _view(self, source: str) -> PolicyView:
        key = tuple(rule.fits_source(source) for rule in self._policy.rules)
        with self._lock:
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = PolicyView(self._policy, source, self._actions)
            return view


def _protected(batch: pa.RecordBatch, view: PolicyView, effects: Effects) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
    flat = {name: FlatMap.of(columns[name]) for scope in _SCOPES for name in (scope, f"{scope}_number")}
    before = dict(flat)
    for scope in _SCOPES:
        maps.replace_named(flat, scope, view, effects)
        maps.move_cards(flat, scope, view, effects)
    encoded = {name: columns[name].dictionary_encode() for name in _REPEATED_TEXTS}
    texts = {name: columns[name] for name in _TEXTS} | {name: encoded[name].dictionary for name in _REPEATED_TEXTS}
    changes: dict[str, list[maps.Change]] = defaultdict(list)
    for found, values in _rewritten(_search(texts, flat, view), effects):
        changed = values.ne_missing(found.values)
        if changed.any():
            changes[found.column].append((found.indices[changed.to_numpy()], values.filter(changed)))
    for name, of_column in changes.items():
        indices, values = change = maps.merged(of_column)
        if name in flat:
            flat[name] = maps.with_values(flat[name], change)
            continue
        written = scattered(texts[name], indices, values.fill_null(""))
        columns[name] = written.take(encoded[name].indices) if name in encoded else written
    for name, mapping in flat.items():
        if mapping is not before[name]:
            columns[name] = mapping.column()
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def _search(texts: Mapping[str, pa.StringArray], flat: Mapping[str, FlatMap], view: PolicyView) -> list[_Found]:
    """Put every text through the gate, all columns in one call."""
    searched = {name: column for name, column in texts.items() if text_bytes(column)}
    for name in _SCOPES:
        if text_bytes(flat[name].items):
            searched[name] = joined_by_row(flat[name].items, flat[name].offsets)
    if not searched:
        return []
    texts_of_all = pl.Series("", pa.chunked_array(list(searched.values())), pl.String)
    flags = passing(texts_of_all, [view.gate])[view.gate].to_numpy()
    found: list[_Found] = []
    start = 0
    for name, column in searched.items():
        passed = flags[start : start + len(column)]
        start += len(column)
        if not passed.any():
            continue
        if name in flat:
            found += _search_map(name, flat[name], passed, view)
        elif steps := view.steps(name):
            indices = np.flatnonzero(passed)
            found.append(_Found(name, indices, gather(column, indices), steps))
    return found


def _search_map(name: str, mapping: FlatMap, rows: Flags, view: PolicyView) -> list[_Found]:
    """Find the values that pass the gate in rows of which some value passes it."""
    entries = mapping.entries(rows)
    values = gather(mapping.items, entries)
    passed = passing(values, [view.gate])[view.gate]
    entries, values = entries[passed.to_numpy()], values.filter(passed)
    keys = mapping.keys.take(pa.array(entries)).dictionary_encode()
    by_steps: dict[Steps, list[int]] = defaultdict(list)
    for code, key in enumerate(keys.dictionary.to_pylist()):
        by_steps[view.steps(f"{name}.{key}")].append(code)
    if len(by_steps) == 1:
        return [_Found(name, entries, values, steps) for steps in by_steps if steps]
    codes = keys.indices.to_numpy()
    chosen = ((steps, np.flatnonzero(np.isin(codes, wanted))) for steps, wanted in by_steps.items() if steps)
    return [_Found(name, entries[indices], values.gather(indices), steps) for steps, indices in chosen]


def _rewritten(found: list[_Found], effects: Effects) -> Iterator[tuple[_Found, pl.Series]]:
    """Run the rules, once for all values that are treated alike."""
    alike: dict[Steps, list[_Found]] = defaultdict(list)
    for one in found:
        alike[one.steps].append(one)
    for steps, group in alike.items():
        values = _run(steps, pl.concat([one.values for one in group], rechunk=True), effects)
        start = 0
        for one in group:
            yield one, values[start : start + len(one.values)]
            start += len(one.values)


def _run(steps: Steps, values: pl.Series, effects: Effects) -> pl.Series:
    values = values.clone()
    gates = _gates(steps, values)
    for rule, action in steps:
        passed = gates[rule.gate]
        if not passed.any():
            continue
        rewritten = action.rewrite(rule, values.filter(passed), effects)
        values.scatter(np.flatnonzero(passed.to_numpy()), rewritten)
        if rewritten.null_count():
            gates = _gates(steps, values)
    return values


def _gates(steps: Steps, values: pl.Series) -> dict[str, pl.Series]:
    """By gate which values pass it. Rewriting brings no value through a gate that it failed."""
    by_group: dict[str, dict[str, None]] = defaultdict(dict)
    for rule, _ in steps:
        by_group[rule.group][rule.gate] = None
    groups = {"|".join(gates): gates for group, gates in by_group.items() if group}
    passed = passing(values, [*by_group.get("", ()), *groups])
    for joined, gates in groups.items():
        within = passed[joined]
        inside = np.flatnonzero(within.to_numpy())
        for gate, flags in passing(values.filter(within), list(gates)).items():
            spread = np.zeros(len(values), np.bool_)
            spread[inside[flags.to_numpy()]] = True
            passed[gate] = pl.Series(spread)
    return passed
