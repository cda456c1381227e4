"""Rules over texts of a batch that may hold something: once for all texts that are treated alike, whatever their columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from heimdall_server.protect import lookalikes, ours
from heimdall_server.protect.actions import Action, Effects, mask
from heimdall_server.protect.columns import Flags, Indices
from heimdall_server.protect.gates import passed_gates
from heimdall_server.protect.places import Ledger, MaskedTexts, Placement, Written
from heimdall_server.protect.readable import Readable
from heimdall_server.protect.rules import Rule
from heimdall_server.protect.shapes import Answers
from heimdall_server.protect.view import Steps

_ROUNDS_MAX = 3
"""Of looking at disguised texts again after something was found."""


@dataclass(slots=True)
class Found:
    """Texts of one column that passed the gate and are treated alike."""

    column: str
    indices: Indices
    values: pl.Series
    steps: Steps
    answers: Answers | None = None
    """Which gates they pass, as far as is known."""
    disguised: bool = False
    """Whether they read otherwise than they stand."""


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
        # What was protected before was escaped then; what looks like a token in it is one.
        escaped = texts if steps and steps[0][0] is ours.RULE else lookalikes.escape(texts)
        self._masked: MaskedTexts | None = None
        # Escaping may have made something that passes another gate.
        answers = Answers.joined([(one.answers, len(one.values)) for one in members]) if escaped is texts else None
        disguised = members[0].disguised
        if not disguised and all(action.masks or action.drops for _, action in steps):
            self._texts = _mask(steps, escaped, answers, effects)
            return
        self._masked = MaskedTexts(escaped, ledger)
        theirs = [step for step in steps if step[0] is not ours.RULE]
        if disguised:
            # First: what nobody sees in the middle of a value would end it for the rules, which would leave its front.
            self._run(steps[: len(steps) - len(theirs)], effects)
            self._run(theirs, effects, read=True, escapes=False)
        self._run(steps, effects, answers)
        if not disguised:
            return
        for _ in range(_ROUNDS_MAX):
            before = self._masked.texts.clone()
            self._run(theirs, effects, read=True)
            if self._masked.texts.eq_missing(before).all():
                break
            # What was found leaves a mask, beside which a rule may find what it didn't before.
            self._run(steps, effects)

    def _run(
        self,
        steps: Sequence[tuple[Rule, Action]],
        effects: Effects,
        answers: Answers | None = None,
        *,
        read: bool = False,
        escapes: bool = True,
    ) -> None:
        masked = self._masked
        if masked is None or not steps:
            return
        rules = [rule for rule, _ in steps]

        def gates(known: Answers | None = None) -> tuple[Readable | None, dict[str, Flags]]:
            reading = Readable(masked.texts, escapes=escapes) if read else None
            return reading, passed_gates(rules, masked.texts if reading is None else reading.texts, known)

        reading, passed = gates(answers)
        for rule, action in steps:
            if rule.gate not in passed:
                continue
            before = masked.texts.clone() if read else None
            gone = masked.apply(rule, action, passed[rule.gate], effects, reading)
            if gone or (before is not None and not masked.texts.eq_missing(before).all()):
                reading, passed = gates()

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
    alike: dict[tuple[Steps, bool], list[Found]] = defaultdict(list)
    for one in found:
        alike[one.steps, one.disguised].append(one)
    return [Group(steps, members, ledger, effects) for (steps, _), members in alike.items()]


def _mask(steps: Steps, texts: pl.Series, answers: Answers | None, effects: Effects) -> pl.Series:
    """The short way where nothing but masks is written."""
    if not steps:
        return texts
    values = texts.clone()
    rules = [rule for rule, _ in steps]
    gates = passed_gates(rules, values, answers)
    for rule, action in steps:
        if rule.gate not in gates:
            continue
        passed = np.flatnonzero(gates[rule.gate])
        before = values.gather(passed)
        after = rule.substitute(before, mask(rule.data_class))
        found = after != before
        effects.hits[rule.data_class] += int(found.sum())
        if action.drops:
            after = before.set(found, None)
        values.scatter(passed, after)
        if action.drops and found.any():
            gates = passed_gates(rules, values)
    return values
