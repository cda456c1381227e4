"""The protector: applies the privacy policy to the columns of a batch.

A gate, one regex over whole columns, finds the few values that may hold something; only those are rewritten, rule by
rule. Attributes are judged by their name, too: the value of `password` goes whatever it looks like. Texts are the body,
the overflow, the columns that name something (service, host, the level as it was written, event, scope), and every
string of the attribute maps; card numbers are also found among numbers.
Attribute *keys* in which a rule finds something are treated like values (`keys`).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.domain.records import repeat
from heimdall_server.domain.sealed_values import SIDECAR, encode
from heimdall_server.ports.protector import Protected
from heimdall_server.protect import maps
from heimdall_server.protect.actions import ACTIONS, Action, Effects
from heimdall_server.protect.columns import Flags, FlatMap, Indices, gather, joined_by_row, scattered, text_bytes
from heimdall_server.protect.keys import suspicious
from heimdall_server.protect.places import Ledger
from heimdall_server.protect.policy import PrivacyPolicy, default_rules
from heimdall_server.protect.rows import Rows
from heimdall_server.protect.rules import passing
from heimdall_server.protect.run import Found, grouped
from heimdall_server.protect.view import PolicyView, Steps

_NONE: Final = np.empty(0, np.int64)
_TEXTS: Final = ("body", "overflow")
_REPEATED_TEXTS: Final = (
    "service",
    "host",
    "severity_text",
    "event_name",
    "scope_name",
    "scope_version",
    "dump",
)
"""Few distinct values a batch: only those are searched."""
_SCOPES: Final = ("attributes", "resource")
_KINDS: Final = ("_number", "_bool")


class _Rulebook:
    """A policy and what was worked out from it. Thread-safe."""

    def __init__(self, policy: PrivacyPolicy, actions: Mapping[str, Action]) -> None:
        self.policy: Final = policy
        self._actions = actions
        self._lock = threading.Lock()
        self._views: dict[tuple[bool, ...], PolicyView] = {}

    def by_view(self, sources: pa.StringArray) -> list[tuple[PolicyView, Indices]]:
        rules = self.policy.rules
        if not len(sources) or all(rule.source == "*" for rule in rules):
            return [(self.view(""), np.arange(len(sources)))]
        encoded = sources.dictionary_encode()
        codes = encoded.indices.to_numpy()
        views = [self.view(source) for source in encoded.dictionary.to_pylist()]
        distinct = list(dict.fromkeys(views))
        numbers = np.array([distinct.index(view) for view in views])[codes]
        return [(view, np.flatnonzero(numbers == number)) for number, view in enumerate(distinct)]

    def view(self, source: str) -> PolicyView:
        key = tuple(rule.fits_source(source) for rule in self.policy.rules)
        with self._lock:
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = PolicyView(self.policy, source, self._actions)
            return view


class PolicyProtector:
    """The `Protector` of a policy, which may be replaced while batches are protected."""

    def __init__(self, policy: PrivacyPolicy | None = None, actions: Mapping[str, Action] = ACTIONS) -> None:
        """Take a policy.

        Args:
            policy: None: the default policy for these actions.
            actions: The actions by name; those with keys are made by wiring (`keyed_actions`) and added here.

        Raises:
            ConfigurationError: The policy has problems.
        """
        self._actions = actions
        self._rulebook = self._checked(policy or PrivacyPolicy(rules=default_rules(actions)))

    @property
    def policy(self) -> PrivacyPolicy:
        """The policy in force."""
        return self._rulebook.policy

    @property
    def policy_version(self) -> int:
        """The version that `protect` stamps."""
        return self._rulebook.policy.version

    @property
    def actions(self) -> Mapping[str, Action]:
        """The actions that a policy may name."""
        return self._actions

    def replace(self, policy: PrivacyPolicy) -> None:
        """Put another policy in force: for each batch that isn't begun. A batch is never treated by two policies.

        Raises:
            ConfigurationError: The policy has problems, all of which are named; the one in force stays.
        """
        self._rulebook = self._checked(policy)

    def protect(self, batch: pa.RecordBatch) -> Protected:
        """Apply the policy to every text column and map of a batch. See the port."""
        rulebook, effects = self._rulebook, Effects()
        pieces: list[pa.RecordBatch] = []
        places: list[Indices] = []
        for view, rows in rulebook.by_view(batch.column("source")):
            places.append(rows)
            whole = len(rows) == batch.num_rows
            piece = batch if whole else batch.take(pa.array(rows))
            pieces.append(_protected(piece, view, effects) if len(rows) else piece)
        if len(pieces) == 1:
            result = pieces[0]
        else:
            order = np.argsort(np.concatenate(places), kind="stable") if places else np.empty(0, np.int64)
            table = pa.Table.from_batches(pieces, batch.schema).combine_chunks()
            result = table.take(pa.array(order)).combine_chunks().to_batches()[0]
        versions = repeat(rulebook.policy.version, batch.num_rows, pa.uint32())
        index = result.schema.get_field_index("policy_version")
        result = result.set_column(index, result.schema.field(index), versions)
        hits = {name: count for name, count in effects.hits.items() if count}
        sidecars = {SIDECAR: encode(effects.sealed)} if effects.sealed else {}
        return Protected(result, hits, sidecars, tuple(effects.settlers))

    def _checked(self, policy: PrivacyPolicy) -> _Rulebook:
        if problems := policy.problems(self._actions):
            raise ConfigurationError(tuple(problems))
        return _Rulebook(policy, self._actions)


def _protected(batch: pa.RecordBatch, view: PolicyView, effects: Effects) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
    flat = {name: FlatMap.of(columns[name]) for scope in _SCOPES for name in (scope, *(scope + end for end in _KINDS))}
    before = dict(flat)
    ledger = Ledger()
    placements = [one for scope in _SCOPES for one in maps.treat_named(flat, scope, view, ledger, effects)]
    named = list(placements)
    encoded = {name: columns[name].dictionary_encode() for name in _REPEATED_TEXTS if text_bytes(columns[name])}
    texts = {name: columns[name] for name in _TEXTS} | {name: column.dictionary for name, column in encoded.items()}
    suspects = suspicious(flat, view)
    found = [one for keys in suspects.values() for one in keys.found(view)]
    groups = grouped(_search(texts, flat, view) + found, ledger, effects)
    for group in groups:
        placements += group.placements()
    rows = Rows(placements, flat, encoded, suspects)
    alive = np.concatenate([one.ids for one in placements]) if placements else _NONE
    written = ledger.write(alive, rows.origins, effects)
    changes: dict[str, list[maps.Change]] = defaultdict(list)
    for one in named:
        forms = written.texts.take(pa.array(one.ids))
        changes[one.column].append((one.indices, pl.Series("", forms, pl.String)))
    for group in groups:
        for name, indices, values in group.changes(written):
            changes[name].append((indices, values))
    if len(ledger) and "tokens" in columns:
        columns["tokens"] = rows.words(written, batch.num_rows)
    for name, keys in suspects.items():
        indices, values = maps.merged(changes.pop(name)) if name in changes else (_NONE, pl.Series(dtype=pl.String))
        view.clean_keys.add(np.delete(keys.texts.to_numpy(zero_copy_only=False), indices).tolist())
        if len(indices):
            flat[keys.name] = keys.written(flat[keys.name], indices, values)
    for name, of_column in changes.items():
        indices, values = change = maps.merged(of_column)
        if name in flat:
            flat[name], _ = maps.with_values(flat[name], change)
            continue
        done = scattered(texts[name], indices, values.fill_null(""))
        columns[name] = done.take(encoded[name].indices) if name in encoded else done
    for name, mapping in flat.items():
        if mapping is not before[name]:
            columns[name] = mapping.column()
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)


def _search(texts: Mapping[str, pa.StringArray], flat: Mapping[str, FlatMap], view: PolicyView) -> list[Found]:
    """Put every text through the gate, all columns in one call."""
    searched = {name: column for name, column in texts.items() if text_bytes(column)}
    for name in _SCOPES:
        if text_bytes(flat[name].items):
            searched[name] = joined_by_row(flat[name].items, flat[name].offsets)
    if not searched:
        return []
    texts_of_all = pl.Series("", pa.chunked_array(list(searched.values())), pl.String)
    flags = passing(texts_of_all, [view.gate])[view.gate].to_numpy()
    found: list[Found] = []
    start = 0
    for name, column in searched.items():
        passed = flags[start : start + len(column)]
        start += len(column)
        if not passed.any():
            continue
        if name in flat:
            found += _search_map(name, flat[name], passed, view)
        else:
            indices = np.flatnonzero(passed)
            found.append(Found(name, indices, gather(column, indices), view.steps(name)))
    return found


def _search_map(name: str, mapping: FlatMap, rows: Flags, view: PolicyView) -> list[Found]:
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
        return [Found(name, entries, values, steps) for steps in by_steps]
    codes = keys.indices.to_numpy()
    chosen = ((steps, np.flatnonzero(np.isin(codes, wanted))) for steps, wanted in by_steps.items())
    return [Found(name, entries[indices], values.gather(indices), steps) for steps, indices in chosen]
