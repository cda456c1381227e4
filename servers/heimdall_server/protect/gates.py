"""Which texts may hold something, at the least cost: of a batch at all (`Gate`), and then for which rules (`passed_gates`).

Most texts are answered by their shape (`shapes`), and only new shapes are asked about. Gates of frequent rules are asked of all
values in one call of polars. Those of a group are asked as one, and singly only where that one is passed. Most sparse rules begin
with a label, and there are many of those: they are looked for without a regex (`windows`). The few other sparse ones are asked
as a group, and then value by value if there are few: polars keeps only so many compiled expressions, and each more would cost
all of them their place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.protect import lookalikes
from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.columns import Flags, Indices, string_bytes, text_bytes
from heimdall_server.protect.rules import FEW_SPARSE, NUMBERS, SPARSE, Rule, passing, union
from heimdall_server.protect.shapes import Answers, Shapes, zeroed_pattern
from heimdall_server.protect.spans import bytes_of, large
from heimdall_server.protect.stems import folded
from heimdall_server.protect.windows import Windows, suits

_WINDOWS_BYTES_MAX: Final = 1 << 20
"""Of texts searched at once; of more a regex with all labels costs less, since it is built for all of them."""
_PLANS_MAX: Final = 256
_PARTICULAR_MIN: Final = 64
"""So many values that only seem to pass a gate cost a rule more than to ask the gate once more."""
_FEW: Final = 16
"""So few texts are sooner searched one by one for a group's gates than in a call of polars."""
_ZEROS: Final = str.maketrans("123456789", "0" * 9)


@dataclass(frozen=True, slots=True)
class Passed:
    """What a gate says of texts."""

    any: Flags
    """Which may hold something, or look like a token."""
    answers: Answers
    """Which gates each passes, where it was asked by shape."""


class Gate:
    """All rules' gates as one. Thread-safe."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Join the gates of rules, and that of look-alikes of tokens."""
        rules = tuple(rules)
        plan = _plan(rules)
        self._pattern: Final = "|".join(filter(None, (*plan.singles, *plan.groups, lookalikes.GATE)))
        self._whole: Final = "|".join((union(rules), lookalikes.GATE)) if plan.windows else self._pattern
        self._windows: Final = plan.windows
        by_shape = _plan(rules, zeroed=True)
        alike = zeroed_pattern(lookalikes.GATE)

        def ask(shapes: pl.Series) -> dict[str, Flags]:
            passed = _asked(by_shape, shapes, alike)
            return passed | {lookalikes.GATE: passed.pop(alike)} if alike in passed else passed

        self._shapes: Final = Shapes((*dict.fromkeys(rule.gate for rule in rules), lookalikes.GATE), ask)

    def passed(self, columns: Sequence[pa.StringArray]) -> Passed:
        """Ask it.

        Args:
            columns: Without nulls; each may hold joined texts, since nothing here is anchored.

        Returns:
            For the texts of all columns, one behind the other.
        """
        suit = [self._shapes.suit(column) for column in columns]
        by_shape = [column for column, suits in zip(columns, suit, strict=True) if suits]
        singly = [column for column, suits in zip(columns, suit, strict=True) if not suits and len(column)]
        answers = self._shapes.answers(pa.concat_arrays(by_shape) if by_shape else pa.array([], pa.string()))
        asked = np.repeat(suit, [len(column) for column in columns])
        codes = np.full(len(asked), -1)
        codes[asked] = answers.codes
        flags = np.zeros(len(asked), np.bool_)
        flags[asked] = answers.any()
        if singly:
            flags[~asked] = self._holding(singly)
        left = np.flatnonzero(asked & (codes < 0))
        if len(left):
            flags[left] = self._holding([pa.concat_arrays(columns).take(pa.array(left))])
        return Passed(flags, Answers(answers.book, codes))

    def _holding(self, columns: Sequence[pa.StringArray]) -> Flags:
        """Which texts pass, asked one by one."""
        texts = pl.Series("", pa.chunked_array(columns, pa.string()), pl.String)
        large = sum(map(text_bytes, columns)) > _WINDOWS_BYTES_MAX
        pattern = self._whole if large else self._pattern
        flags: Flags = passing(texts, [pattern])[pattern].to_numpy()
        if self._windows is None or large:
            return flags
        flags = flags.copy()
        flags[self._windows.find(*string_bytes(pa.concat_arrays(columns)))[0]] = True
        return flags


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked for the gates of some rules, and in which order. A regex may stand for several gates."""

    gates: tuple[str, ...]
    singles: Mapping[str, tuple[str, ...]]
    """By regex that is asked of every value, the gates which are passed with it."""
    groups: Mapping[str, Mapping[str, tuple[str, ...]]]
    """By the union of several gates, what is asked where that is passed: by regex, the gates which are passed with it."""
    shapes: str
    """The union of what of sparse gates isn't stems for windows. Empty: there is none. It is asked in the group of numbers, joined
    to the shortest gate there: of expressions that polars keeps there is just room for those of the frequent rules."""
    pieces: Mapping[str, tuple[str, ...]]
    """By a piece of that union, the gates which are passed with it."""
    windows: Windows | None
    by_stem: Sequence[Sequence[str]]
    """By number of a stem for windows, the gates which are passed with it."""


@lru_cache(maxsize=_PLANS_MAX)
def _plan(rules: tuple[Rule, ...], *, zeroed: bool = False) -> _Plan:
    """Plan.

    Args:
        rules: Whose gates are asked.
        zeroed: Of shapes: digits in gates and stems are zeros.
    """

    def asked(gate: str) -> str:
        return zeroed_pattern(gate) if zeroed else gate

    by_group: dict[str, dict[str, Rule]] = defaultdict(dict)
    pieces: dict[str, dict[str, None]] = defaultdict(dict)
    by_stem: dict[str, dict[str, None]] = defaultdict(dict)
    for rule in rules:
        if rule.group != SPARSE:
            by_group[rule.group].setdefault(rule.gate, rule)
            continue
        piece = folded([stem for stem in rule.stems if not suits(stem)]) if rule.stems else rule.gate
        if piece:
            pieces[asked(piece)][rule.gate] = None
        for stem in filter(suits, rule.stems):
            by_stem[stem][rule.gate] = None
    singles = {asked(gate): (gate,) for gate in by_group.pop("", ())}
    shapes = "|".join(pieces)
    groups: dict[str, dict[str, tuple[str, ...]]] = {
        asked(union(gates.values())): {asked(gate): (gate,) for gate in gates} for gates in by_group.values()
    }
    if shapes:
        numbers = by_group.get(NUMBERS, {})
        gates = groups.pop(asked(union(numbers.values())), {})
        carrier = min(gates, key=len, default="")
        carried = gates.pop(carrier, ())
        both = "|".join(filter(None, (carrier, shapes)))
        groups["|".join((*gates, both))] = {**gates, both: (*carried, shapes)}
    return _Plan(
        tuple(dict.fromkeys(rule.gate for rule in rules)),
        singles,
        groups,
        shapes,
        {piece: tuple(gates) for piece, gates in pieces.items()},
        _windows(zeroed=zeroed) if by_stem else None,
        [tuple(by_stem.get(stem, ())) for stem in _stems()],
    )


@cache
def _stems() -> tuple[str, ...]:
    return tuple(dict.fromkeys(stem for rule in RULES if rule.group == SPARSE for stem in rule.stems if suits(stem)))


@cache
def _windows(*, zeroed: bool) -> Windows:
    """The same for all, whatever rules they ask about: each takes 6 MiB."""
    return Windows([stem.translate(_ZEROS) if zeroed else stem for stem in _stems()])


@cache
def _particular() -> frozenset[str]:
    """Gates that name certain digits; among stems only labels do, of which texts have few."""
    return frozenset(rule.gate for rule in RULES if not rule.stems and zeroed_pattern(rule.gate) != rule.gate)


def passed_gates(rules: Iterable[Rule], values: pl.Series, known: Answers | None = None) -> dict[str, Flags]:
    """By gate which values pass it; gates that none passes aren't in it.

    Args:
        rules: Whose gates are asked.
        values: String; a null passes none.
        known: Which gates values of these shapes pass; None: all are asked.

    Returns:
        By gate, for each value, whether it may hold what the gate's rules look for. Rewriting with the rules brings no
        value through a gate that it failed.
    """
    rules = tuple(rules)
    if known is None:
        return _asked(_plan(rules), values)
    answered = known.by_gate()
    passed = {gate: answered[gate] for gate in _plan(rules).gates if gate in answered}
    for gate in _particular() & passed.keys():
        rows = np.flatnonzero(passed[gate])
        if len(rows) > _PARTICULAR_MIN:
            passed[gate] = _flags(rows[passing(values.gather(rows), [gate])[gate].to_numpy()], len(values))
    unknown = np.flatnonzero(~known.known)
    if len(unknown):
        for gate, found in _asked(_plan(rules), values.gather(unknown)).items():
            passed[gate] = passed.get(gate, False) | _flags(unknown[found], len(values))
    others = tuple(rule for rule in rules if rule.gate not in known.book.columns)
    return passed | _asked(_plan(others), values) if others else passed


def _asked(plan: _Plan, values: pl.Series, *beside: str) -> dict[str, Flags]:
    asked = passing(values, [*plan.singles, *plan.groups, *beside])
    rows: dict[str, list[Indices]] = defaultdict(list)
    for regex in beside:
        rows[regex].append(np.flatnonzero(asked[regex].to_numpy()))
    for regex, gates in plan.singles.items():
        for gate in gates:
            rows[gate].append(np.flatnonzero(asked[regex].to_numpy()))
    for joined, by_regex in plan.groups.items():
        within = asked[joined]
        inside = np.flatnonzero(within.to_numpy())
        for regex, found in _found(values.filter(within), by_regex).items():
            for gate in by_regex[regex]:
                rows[gate].append(inside[found])
    for inside in rows.pop(plan.shapes, ()):
        for piece, found in _found(values.gather(inside), plan.pieces, few=FEW_SPARSE).items():
            for gate in plan.pieces[piece]:
                rows[gate].append(inside[found])
    if plan.windows is not None:
        texts = values.fill_null("") if values.null_count() else values
        held, stems = plan.windows.find(*bytes_of(large(texts)))
        for stem in np.unique(stems).tolist():
            for gate in plan.by_stem[stem]:
                rows[gate].append(held[stems == stem])
    return {gate: _flags(np.concatenate(some), len(values)) for gate, some in rows.items() if any(map(len, some))}


def _flags(rows: Indices, count: int) -> Flags:
    flags = np.zeros(count, np.bool_)
    flags[rows] = True
    return flags


def _found(texts: pl.Series, regexes: Collection[str], *, few: int = _FEW) -> dict[str, Indices]:
    """By regex the texts in which it is found, where there are any; up to `few` texts are searched one by one."""
    if not len(texts):
        return {}
    if len(texts) > few:
        return {regex: np.flatnonzero(flags.to_numpy()) for regex, flags in passing(texts, list(regexes)).items()}
    some = list(enumerate(texts))
    return {
        regex: np.array([row for row, text in some if re.search(regex, text, re.ASCII)], np.int64) for regex in regexes
    }
