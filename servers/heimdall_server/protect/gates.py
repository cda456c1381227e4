"""Which texts may hold something, at the least cost: of a batch at all (`Gate`), and then for which rules (`passed_gates`).

Gates of frequent rules are asked of all values in one call of polars. Those of a group are asked as one, and singly only
where that one is passed. Most sparse rules begin with a label, and there are many of those: they are looked for without
a regex (`windows`). The few other sparse ones are asked as a group, and then value by value if there are few: polars
keeps only so many compiled expressions, and each more would cost all of them their place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
from heimdall_server.protect.spans import bytes_of, large
from heimdall_server.protect.stems import folded
from heimdall_server.protect.windows import Windows, suits

_ROWS_MIN: Final = 1024
_SAMPLE: Final = 256
"""Texts at a column's beginning that say whether most are alike."""
_WINDOWS_BYTES_MAX: Final = 1 << 20
"""Of texts searched at once; of more a regex with all labels costs less, since it is built for all of them."""
_PLANS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Passed:
    """What a gate says of texts."""

    any: Flags
    """Which may hold something, or look like a token."""
    labelled: Flags | None
    """Which of them may hold a sparse rule's label. None: nobody asked."""


class Gate:
    """All rules' gates as one. Thread-safe."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Join the gates of rules, and that of look-alikes of tokens."""
        rules = tuple(rules)
        plan = _plan(rules)
        self._pattern: Final = "|".join(filter(None, (*plan.singles, *plan.groups, lookalikes.GATE)))
        self._whole: Final = "|".join((union(rules), lookalikes.GATE)) if plan.windows else self._pattern
        self._windows: Final = plan.windows

    def passed(self, columns: Sequence[pa.StringArray]) -> Passed:
        """Ask it.

        Args:
            columns: Without nulls; each may hold joined texts, since nothing here is anchored.

        Returns:
            For the texts of all columns, one behind the other.
        """
        codes = [_codes(column) for column in columns]
        distinct = [column if code is None else code.dictionary for column, code in zip(columns, codes, strict=True)]
        texts = pl.Series("", pa.chunked_array(distinct, pa.string()), pl.String)
        large = sum(map(text_bytes, distinct)) > _WINDOWS_BYTES_MAX
        pattern = self._whole if large else self._pattern
        flags: Flags = passing(texts, [pattern])[pattern].to_numpy()
        if self._windows is None or large:
            return Passed(_of_all(flags, distinct, codes), None)
        labelled = np.zeros(len(texts), np.bool_)
        labelled[self._windows.find(*string_bytes(pa.concat_arrays(distinct)))[0]] = True
        return Passed(_of_all(flags | labelled, distinct, codes), _of_all(labelled, distinct, codes))


def _codes(column: pa.StringArray) -> pa.DictionaryArray | None:
    """A column as its distinct texts, if there seem to be few; None otherwise."""
    if len(column) < _ROWS_MIN or len(column[:_SAMPLE].unique()) > _SAMPLE // 8:
        return None
    return column.dictionary_encode()


def _of_all(flags: Flags, distinct: Sequence[pa.Array], codes: Sequence[pa.DictionaryArray | None]) -> Flags:
    """Flags of distinct texts as those of all."""
    parts, start = [], 0
    for column, code in zip(distinct, codes, strict=True):
        part = flags[start : start + len(column)]
        parts.append(part if code is None else part[code.indices.to_numpy()])
        start += len(column)
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked for the gates of some rules, and in which order."""

    singles: tuple[str, ...]
    """Gates that are asked of every value."""
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
def _plan(rules: tuple[Rule, ...]) -> _Plan:
    by_group: dict[str, dict[str, Rule]] = defaultdict(dict)
    pieces: dict[str, dict[str, None]] = defaultdict(dict)
    by_stem: dict[str, dict[str, None]] = defaultdict(dict)
    for rule in rules:
        if rule.group != SPARSE:
            by_group[rule.group].setdefault(rule.gate, rule)
            continue
        piece = folded([stem for stem in rule.stems if not suits(stem)]) if rule.stems else rule.gate
        if piece:
            pieces[piece][rule.gate] = None
        for stem in filter(suits, rule.stems):
            by_stem[stem][rule.gate] = None
    singles = tuple(by_group.pop("", ()))
    shapes = "|".join(pieces)
    groups: dict[str, dict[str, tuple[str, ...]]] = {
        union(gates.values()): {gate: (gate,) for gate in gates} for gates in by_group.values()
    }
    if shapes:
        numbers = by_group.get(NUMBERS, {})
        gates = groups.pop(union(numbers.values()), {})
        carrier = min(gates, key=len, default="")
        gates.pop(carrier, None)
        asked = "|".join(filter(None, (carrier, shapes)))
        groups["|".join((*gates, asked))] = {**gates, asked: (*filter(None, (carrier,)), shapes)}
    return _Plan(
        singles,
        groups,
        shapes,
        {piece: tuple(gates) for piece, gates in pieces.items()},
        _windows() if by_stem else None,
        [tuple(by_stem.get(stem, ())) for stem in _stems()],
    )


@cache
def _stems() -> tuple[str, ...]:
    return tuple(dict.fromkeys(stem for rule in RULES if rule.group == SPARSE for stem in rule.stems if suits(stem)))


@cache
def _windows() -> Windows:
    """The same for all, whatever rules they ask about: it takes 6 MiB."""
    return Windows(_stems())


def passed_gates(rules: Iterable[Rule], values: pl.Series, labelled: Flags | None = None) -> dict[str, pl.Series]:
    """By gate which values pass it.

    Args:
        rules: Whose gates are asked.
        values: String; a null passes none.
        labelled: Which may hold a sparse rule's label; None: any.

    Returns:
        By gate, for each value, whether it may hold what the gate's rules look for. Rewriting with the rules brings no
        value through a gate that it failed.
    """
    rules = tuple(rules)
    plan = _plan(rules)
    asked = passing(values, [*plan.singles, *plan.groups])
    passed = {gate: asked[gate] for gate in plan.singles}
    for joined, gates in plan.groups.items():
        within = asked[joined]
        inside = np.flatnonzero(within.to_numpy())
        for regex, flags in passing(values.filter(within), list(gates)).items():
            passed |= dict.fromkeys(gates[regex], _spread(inside[flags.to_numpy()], len(values)))
    sparse: dict[str, list[Indices]] = {rule.gate: [] for rule in rules if rule.group == SPARSE}
    if plan.shapes:
        inside = np.flatnonzero(passed.pop(plan.shapes).to_numpy())
        if len(inside):
            for piece, rows in _shaped(values.gather(inside), plan.pieces).items():
                for gate in plan.pieces[piece]:
                    sparse[gate].append(inside[rows])
    if plan.windows is not None and (labelled is None or labelled.any()):
        inside = np.arange(len(values)) if labelled is None else np.flatnonzero(labelled)
        texts = values if labelled is None or labelled.all() else values.gather(inside)
        texts = texts.fill_null("") if texts.null_count() else texts
        rows, stems = plan.windows.find(*bytes_of(large(texts)))
        for stem in np.unique(stems).tolist():
            for gate in plan.by_stem[stem]:
                sparse[gate].append(inside[rows[stems == stem]])
    nothing = pl.Series([False]).new_from_index(0, len(values))
    for gate, found in sparse.items():
        passed[gate] = _spread(np.concatenate(found), len(values)) if found else nothing
    return passed


def _spread(rows: Indices, count: int) -> pl.Series:
    flags = np.zeros(count, np.bool_)
    flags[rows] = True
    return pl.Series(flags)


def _shaped(texts: pl.Series, pieces: Iterable[str]) -> dict[str, Indices]:
    """By regex the texts in which it is found."""
    if len(texts) > FEW_SPARSE:
        return {piece: np.flatnonzero(flags.to_numpy()) for piece, flags in passing(texts, list(pieces)).items()}
    some = list(enumerate(texts))
    return {
        piece: np.array([row for row, text in some if re.search(piece, text, re.ASCII)], np.int64) for piece in pieces
    }
