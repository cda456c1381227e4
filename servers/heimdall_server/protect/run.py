"""Rules over texts of a batch that may hold something: once for all texts that are treated alike, whatever their columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from heimdall_server.protect import lookalikes
from heimdall_server.protect.actions import Effects, mask
from heimdall_server.protect.columns import Indices
from heimdall_server.protect.gates import passed_gates
from heimdall_server.protect.places import Ledger, MaskedTexts, Placement, Written
from heimdall_server.protect.view import Steps


@dataclass(slots=True)
class Found:
    """Texts of one column that passed the gate and are treated alike."""

    column: str
    indices: Indices
    values: pl.Series
    steps: Steps


class Group:
    """Texts that are treated alike, after the rules have run. Not thread-safe."""

    def __init__(self, steps: Steps, members: Sequence[Found], ledger: Ledger, effects: Effects) -> None:
        """Escape look-alikes, then run the rules.

        Args:
            steps: Rules and actions.
            members: What they are for.
            ledger: Keeps values that aren't only masked or dropped.
            effects: Counts.
        """
        self._members = members
        texts = pl.concat([one.values for one in members], rechunk=True)
        escaped = lookalikes.escape(texts)
        self._masked: MaskedTexts | None = None
        if all(action.masks or action.drops for _, action in steps):
            self._texts = _mask(steps, escaped, effects)
            return
        self._masked = MaskedTexts(escaped, ledger)
        gates = passed_gates((rule for rule, _ in steps), escaped)
        for rule, action in steps:
            passed = gates[rule.gate]
            if passed.any() and self._masked.apply(rule, action, passed, effects):
                gates = passed_gates((rule for rule, _ in steps), self._masked.texts)

    def placements(self) -> Iterator[Placement]:
        """Where the values stand that the ledger keeps."""
        if self._masked is None:
            return
        rows, ids = self._masked.placements()
        start = 0
        for one in self._members:
            first, last = np.searchsorted(rows, (start, start + len(one.values)))
            if first < last:
                yield Placement(one.column, one.indices[rows[first:last] - start], ids[first:last])
            start += len(one.values)

    def changes(self, written: Written) -> Iterator[tuple[str, Indices, pl.Series]]:
        """By column, the texts that changed; null: the field goes."""
        texts = self._texts if self._masked is None else self._masked.written(written)
        start = 0
        for one in self._members:
            after = texts[start : start + len(one.values)]
            changed = after.ne_missing(one.values)
            if changed.any():
                yield one.column, one.indices[changed.to_numpy()], after.filter(changed)
            start += len(one.values)


def grouped(found: Sequence[Found], ledger: Ledger, effects: Effects) -> list[Group]:
    """Run the rules over all that was found."""
    alike: dict[Steps, list[Found]] = defaultdict(list)
    for one in found:
        alike[one.steps].append(one)
    return [Group(steps, members, ledger, effects) for steps, members in alike.items()]


def _mask(steps: Steps, texts: pl.Series, effects: Effects) -> pl.Series:
    """The short way where nothing but masks is written."""
    if not steps:
        return texts
    values = texts.clone()
    rules = [rule for rule, _ in steps]
    gates = passed_gates(rules, values)
    for rule, action in steps:
        passed = gates[rule.gate]
        if not passed.any():
            continue
        before = values.filter(passed)
        after = rule.substitute(before, mask(rule.data_class))
        found = after != before
        effects.hits[rule.data_class] += int(found.sum())
        if action.drops:
            after = before.set(found, None)
        values.scatter(np.flatnonzero(passed.to_numpy()), after)
        if action.drops and found.any():
            gates = passed_gates(rules, values)
    return values
