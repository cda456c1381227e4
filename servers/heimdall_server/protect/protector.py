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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from string import ascii_lowercase
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.domain.records import repeat
from heimdall_server.domain.sealed_values import SIDECAR, encode_runs, joined
from heimdall_server.ports.journal import Entry
from heimdall_server.ports.protector import Protected, ProtectedControl
from heimdall_server.protect import control, maps, ours
from heimdall_server.protect.actions import ACTIONS, Action, Effects
from heimdall_server.protect.columns import FlatMap, Indices, scattered, text_bytes
from heimdall_server.protect.dump_columns import DumpColumns, without_personal
from heimdall_server.protect.keys import suspicious
from heimdall_server.protect.names_pass import NamesPass
from heimdall_server.protect.places import Ledger, Placement
from heimdall_server.protect.policy import FALLBACK_ACTION, PrivacyPolicy, PrivacyRule, default_rules
from heimdall_server.protect.rows import Rows
from heimdall_server.protect.run import grouped
from heimdall_server.protect.search import search
from heimdall_server.protect.texts import keeps_addresses
from heimdall_server.protect.view import PolicyView

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
_FORM: Final = "format_preserving"
_TOKENISE: Final = "tokenise"
_KINDS: Final = ("_number", "_bool")
_LIKE_FIRST: Final = (
    "mail to somebody@example.com and other@example.co.uk",
    r'{"note":"see \"this\"","to":"%61nybody\u0040example.com"}',
    "password=example-of-a-password --password example Authorization: Bearer abcdefghijklmnop",
    "card 4111111111111111, call +49 30 1234567 or (212) 555-0123, ssn 219-09-9999",
    "from 192.0.2.7 and 2001:db8::7 to DE89370400440532013000",
    "date of birth: 1970-01-01",
)
"""Texts of common classes, one of them disguised, for `warm_up`."""


class _Rulebook:
    """A policy and what was worked out from it. Thread-safe."""

    def __init__(self, policy: PrivacyPolicy, actions: Mapping[str, Action]) -> None:
        self.policy: Final = policy
        self._actions = actions
        self._lock = threading.Lock()
        self._views: dict[tuple[bool, ...], PolicyView] = {}

    @cached_property
    def of_letters(self) -> _Rulebook:
        """The same for dead letters: a token where a value would keep its form.

        They are protected again when they are decoded, and a value of the same form would be treated a second time then.
        """
        if _FORM not in self._actions:
            return self
        return _Rulebook(self.policy, {**self._actions, _FORM: self._actions[_TOKENISE]})

    def by_view(self, sources: pa.StringArray, *, again: bool = False) -> list[tuple[PolicyView, Indices]]:
        rules = self.policy.rules
        if not len(sources) or all(rule.source == "*" for rule in rules):
            return [(self.view("", again=again), np.arange(len(sources)))]
        encoded = sources.dictionary_encode()
        codes = encoded.indices.to_numpy()
        views = [self.view(source, again=again) for source in encoded.dictionary.to_pylist()]
        distinct = list(dict.fromkeys(views))
        numbers = np.array([distinct.index(view) for view in views])[codes]
        return [(view, np.flatnonzero(numbers == number)) for number, view in enumerate(distinct)]

    def view(self, source: str, *, again: bool = False) -> PolicyView:
        key = (again, *(rule.fits_source(source) for rule in self.policy.rules))
        with self._lock:
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = PolicyView(self.policy, source, self._actions, again=again)
            return view


class PolicyProtector:
    """The `Protector` of a policy, which may be replaced while batches are protected."""

    def __init__(
        self,
        policy: PrivacyPolicy | None = None,
        actions: Mapping[str, Action] = ACTIONS,
        *,
        names: NamesPass | None = None,
    ) -> None:
        """Take a policy.

        Args:
            policy: None: the default policy for these actions.
            actions: The actions by name; those with keys are made by wiring (`keyed_actions`) and added here.
            names: The second pass over dumps; None: names in running text aren't looked for.

        Raises:
            ConfigurationError: The policy has problems.
        """
        self._actions = actions
        self._columns = DumpColumns()
        self._names = names
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

    def warm_up(self) -> None:
        """Make what the first batch would wait for otherwise: tables, expressions, lists of the canonical forms.

        Cost: some tenths of a second of CPU, most of it under the GIL. A thread of its own may do it.
        """
        # Of few texts gates are asked in another way.
        texts = pa.array([f"{text} {letter}" for text in _LIKE_FIRST for letter in ascii_lowercase], pa.string())
        _protected_texts("body", texts, self._rulebook.view(""), Effects())

    def protect(self, batch: pa.RecordBatch, *, again: bool = False) -> Protected:
        """Apply the policy to every text column and map of a batch. See the port."""
        rulebook, effects = self._rulebook, Effects()
        pieces: list[pa.RecordBatch] = []
        places: list[Indices] = []
        for view, rows in rulebook.by_view(batch.column("source"), again=again):
            places.append(rows)
            whole = len(rows) == batch.num_rows
            piece = batch if whole else batch.take(pa.array(rows))
            pieces.append(self._treated(piece, view, effects) if len(rows) else piece)
        if len(pieces) == 1:
            result = pieces[0]
        else:
            order = np.argsort(np.concatenate(places), kind="stable") if places else np.empty(0, np.int64)
            table = pa.Table.from_batches(pieces, batch.schema).combine_chunks()
            result = table.take(pa.array(order)).combine_chunks().to_batches()[0]
        versions = repeat(rulebook.policy.version, batch.num_rows, pa.uint32())
        index = result.schema.get_field_index("policy_version")
        result = result.set_column(index, result.schema.field(index), versions)
        return Protected(result, _hits(effects), _sidecars(effects), tuple(effects.settlers))

    def protect_control(self, entry: Entry) -> ProtectedControl:
        """Apply the policy to an entry's dead letters, and mask sentences and names beside them. See the port."""
        rulebook, effects = self._rulebook.of_letters, Effects()
        masking = (_MASKING if keeps_addresses(rulebook.policy) else _MASKING_ALL).view("")

        def keeps(source: str) -> bool:
            return not any(action.rewrites for action in rulebook.view(source).actions(control.FIELD))

        def protect(sources: Sequence[str], texts: Sequence[str]) -> list[str | None]:
            written: list[str | None] = [None] * len(texts)
            column = pa.array(texts, pa.string())
            for view, rows in rulebook.by_view(pa.array(sources, pa.string())):
                some = _protected_texts(control.FIELD, column.take(pa.array(rows)), view, effects)
                for row, text in zip(rows.tolist(), some, strict=True):
                    written[row] = text
            return written

        def mask(texts: Sequence[str]) -> list[str]:
            return _protected_texts(control.FIELD, pa.array(texts, pa.string()), masking, Effects()).to_list()

        result = control.protected_entry(entry, keeps=keeps, protect=protect, mask=mask)
        if effects.sealed:
            result = replace(result, sidecars=joined(result.sidecars, _sidecars(effects)))
        return ProtectedControl(result, _hits(effects), tuple(effects.settlers))

    def _treated(self, batch: pa.RecordBatch, view: PolicyView, effects: Effects) -> pa.RecordBatch:
        done = _protected(batch, view, effects, self._columns)
        return done if self._names is None else self._names.treat(done, view, effects)

    def _checked(self, policy: PrivacyPolicy) -> _Rulebook:
        if problems := policy.problems(self._actions):
            raise ConfigurationError(tuple(problems))
        return _Rulebook(policy, self._actions)


_MASKING: Final = _Rulebook(PrivacyPolicy(), ACTIONS)
"""For sentences and names: all but addresses of machines goes, whatever the policy says."""
_MASKING_ALL: Final = _Rulebook(PrivacyPolicy(rules=(PrivacyRule(FALLBACK_ACTION),)), ACTIONS)
"""The same where addresses go, too."""


def _hits(effects: Effects) -> dict[str, int]:
    return {name: count for name, count in effects.hits.items() if count and name != ours.OURS}


def _sidecars(effects: Effects) -> dict[str, bytes]:
    return {SIDECAR: encode_runs(effects.sealed)} if effects.sealed else {}


def _protected_texts(name: str, texts: pa.StringArray, view: PolicyView, effects: Effects) -> pl.Series:
    """Texts of one field that isn't a record's; null: the field goes."""
    ledger = Ledger()
    groups = grouped(search({name: texts}, {}, view), ledger, effects)
    placements = [one for group in groups for one in group.placements()]
    alive = np.concatenate([one.ids for one in placements]) if placements else _NONE
    written = ledger.write(alive, Rows(placements, {}, {}, {}).origins, effects)
    done = pl.Series("", texts, pl.String).clone()
    for group in groups:
        for _, indices, values in group.changes(written):
            done.scatter(indices, values)
    return done


def _protected(batch: pa.RecordBatch, view: PolicyView, effects: Effects, dump_columns: DumpColumns) -> pa.RecordBatch:
    columns: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))
    flat = {name: FlatMap.of(columns[name]) for scope in _SCOPES for name in (scope, *(scope + end for end in _KINDS))}
    before = dict(flat)
    ledger = Ledger()
    placements: list[Placement] = []
    for scope in _SCOPES:
        texts_of, numbers_of = dump_columns.learn(batch, scope, flat[scope], flat[f"{scope}_number"])
        learnt = (texts_of, numbers_of)
        for name, some in zip((scope, f"{scope}_number"), learnt, strict=True):
            treated = [one for one in some if view.action(one.data_class, f"{scope}.{one.key}").rewrites]
            columns |= without_personal(columns, flat[name], treated)
        placements += maps.treat_named(flat, scope, view, ledger, effects, learnt=learnt)
    named = list(placements)
    encoded = {name: columns[name].dictionary_encode() for name in _REPEATED_TEXTS if text_bytes(columns[name])}
    texts = {name: columns[name] for name in _TEXTS} | {name: column.dictionary for name, column in encoded.items()}
    suspects = suspicious(flat, view)
    found = [one for keys in suspects.values() for one in keys.found(view)]
    groups = grouped(search(texts, flat, view) + found, ledger, effects)
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
