r"""What a rule is: a pattern for one class of personal data, and how it is applied to a column.

A pattern is written once and means the same to two engines: Rust's regex (polars, whole columns, no GIL)
and Python's `re` (value by value, where a check needs code). So it keeps to what both know: no look-around,
no back-reference, no `\s`, `\w`, `\d` (their Unicode tables differ), and `\b` and `(?i:` are read as ASCII.

The order of the rules and each pattern's edges keep masking idempotent: no mask holds text that a rule
matches, and no match ends in the middle of a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.protect import spans as match_spans
from heimdall_server.protect.candidates import Finder
from heimdall_server.protect.columns import Flags, Indices
from heimdall_server.protect.stems import folded

START: Final = r"(\\{1,7}[bfnrt]|\b)"
"""Where a word starts. In JSON text an escape like `\\n` may stand right before it, whose letter isn't of the word."""

_HIDDEN: Final = "\ue000"
_LITERAL: Final = re.compile("[A-Za-z@:/ ]+")
_FEW: Final = 128
"""So few values are cheaper to check one by one than to ask about."""
_FEW_FOUND: Final = 16
"""The same where a finder would be asked."""
_SPLIT_MIN: Final = 256
"""So many texts without a backslash are worth a call of their own beside those with one."""
NUMBERS: Final = "numbers"
"""The group of rules for numbers of a shape, which sparse rules for shapes are asked with."""
SPARSE: Final = "sparse"
"""The group of rules that few texts have anything for: values are treated one by one up to `FEW_SPARSE` of them, so that
those rules take no room among the compiled expressions that polars keeps."""
FEW_SPARSE: Final = 256
_GATES_MAX: Final = 1024
_BESIDE_MAX: Final = 8192
"""Of so many values it costs less to look each one's pattern up than to begin with an empty automaton."""

Check = Callable[[re.Match[str]], int]
"""Says where the personal value in a match ends (index in the whole text); 0 or less: there is none."""

_TEXT: Final = pl.col("text")


@dataclass(frozen=True, slots=True)
class _Form:
    """A pattern for polars."""

    pattern: str
    kept: str
    """Its groups, as a replacement names them."""

    @classmethod
    def of(cls, pattern: str) -> _Form:
        groups = re.compile(pattern, re.ASCII).groups
        return cls(column_form(pattern), "".join(f"${{{group}}}" for group in range(1, groups + 1)))


@dataclass(frozen=True, eq=False)
class Rule:
    """One way in which values of a class are written."""

    name: str
    """Unique; for tests and messages."""
    data_class: str
    """What a policy calls it, and what the mask says."""
    gate: str
    """Matches, unanchored, in every text in which `pattern` matches; far cheaper. No `\\b`, `^` or `$`:
    a text that is part of a longer one must still be found."""
    pattern: str
    """Its groups, if any, are kept in front of the mask; all else of a match is the personal value."""
    opening: str = ""
    """Written between the kept groups and the mask."""
    closing: str = ""
    """Written behind the mask."""
    check: Check | None = None
    """A test that a regex can't make. Runs under the GIL, so on few values."""
    finder: Finder | None = None
    """With `check`: finds, without the GIL, what is plain in many texts; only the others need `check`."""
    doubt: str = ""
    """With `check`: where this isn't found in a text, `check` takes every match in it whole. Empty, and no `finder`: all texts that
    match need it."""
    simple_pattern: str = ""
    """Means the same as `pattern` in texts without a backslash, and is faster. Empty: `pattern` with `START` made
    a plain boundary."""
    spared: str = ""
    """What isn't personal although `pattern` matches it; its groups stand around an at sign, without which there is
    no match. (A check would do, but a `re` that looks for addresses takes the square of a text's length.)"""
    group: str = ""
    """Rules whose gates are seldom passed share a group: their gates are tried where any of them is passed."""
    stems: tuple[str, ...] = ()
    """What of `gate` is stems of labels (see `stems`): those of many rules are asked as one. Empty: nothing. All of them
    or none of the rules with a gate have the same."""

    @cached_property
    def _queries(self) -> dict[str, list[pl.Expr]]:
        """By the pattern that is used, what is asked of a column, all in one call: what each call costs is much for few values."""
        return {form.pattern: self._query(form) for form in self._forms}

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The pattern for Python."""
        return re.compile(self.pattern, re.ASCII)

    @cached_property
    def _forms(self) -> tuple[_Form, _Form]:
        """The pattern for polars: for texts without a backslash, for any text."""
        simple = self.simple_pattern or self.pattern.replace(START, r"\b")
        return _Form.of(simple), _Form.of(self.pattern)

    def substitute(self, values: pl.Series, replacement: str) -> pl.Series:
        """Replace every match in a column.

        Args:
            values: String, without nulls.
            replacement: Text without `$`.

        Returns:
            The same length and order.
        """
        if len(values) <= self._few:
            return self._replace_each(values, replacement)
        texts = match_spans.large(values)
        found = self._spans_of_column(values, texts)
        written = f"{self.opening}{replacement}{self.closing if self.opening else ''}"
        inserts = pa.array([written], pa.large_string())
        return (
            pl.Series(values.name, match_spans.spliced(texts, found, inserts)[0], pl.String) if len(found) else values
        )

    def spans(self, values: pl.Series, texts: pa.Array | None = None) -> match_spans.Spans:
        """Where `substitute` would replace something.

        Args:
            values: String, without nulls.
            texts: The same as large strings, if somebody has them.

        Returns:
            What stands in them in place of opening, replacement and closing: what is kept of a match isn't part of it.
        """
        if len(values) <= self._few:
            return self._spans_each(values, np.arange(len(values)))
        return self._spans_of_column(values, match_spans.large(values) if texts is None else texts)

    @property
    def _few(self) -> int:
        """So few values are cheaper one by one."""
        if self.group == SPARSE:
            return FEW_SPARSE
        return 0 if self.check is None else _FEW if self.finder is None else _FEW_FOUND

    def _spans_of_column(self, values: pl.Series, texts: pa.Array) -> match_spans.Spans:
        if self.finder is not None:
            found, singly = self.finder(texts)
            return match_spans.Spans.joined((found, self._spans_singly(values, singly)))
        escaped, holding = match_spans.holds(texts, b"\\", match_spans.LEAD)
        simple, general = self._forms
        if not escaped or simple.pattern == general.pattern:
            return self._spans_by_form(values, texts, simple, holding=holding)
        # The general form takes up to four times as long, so only those texts get it that need it.
        flags = match_spans.holding(texts, b"\\")
        if np.count_nonzero(~flags) < _SPLIT_MIN:
            return self._spans_by_form(values, texts, general, holding=holding)
        parts = []
        for form, rows in ((simple, np.flatnonzero(~flags)), (general, np.flatnonzero(flags))):
            found = self._spans_by_form(values.gather(rows), texts.take(pa.array(rows)), form, holding=holding)
            parts.append(found.of_rows(rows))
        return match_spans.Spans.joined(parts)

    def _spans_by_form(self, values: pl.Series, texts: pa.Array, form: _Form, *, holding: bool) -> match_spans.Spans:
        answer = values.alias("text").to_frame().select_seq(self._queries[form.pattern])
        singly = match_spans.holding_marks(texts) if holding else np.zeros(len(texts), np.bool_)
        spared = np.zeros(len(texts), np.bool_)
        if "unsure" in answer:
            unsure = answer["unsure"].to_numpy()
            singly, spared = (singly | unsure, spared) if self.check is not None else (singly, unsure & ~singly)
        parts = [self._spans_singly(values, singly)]
        if "placed" in answer:
            opening, closing = len(self.opening.encode()), len(self.closing.encode())
            placed = match_spans.large(answer["placed"])
            found, several = match_spans.placed_spans(texts, placed, opening, closing if opening else -closing)
            again = singly | spared
            parts.append(found.where(~again[found.rows]) if again.any() else found)
            for rows, spares in ((several[~again[several]], False), (np.flatnonzero(spared), True)):
                if len(rows):
                    parts.append(self._spans_marked(values.gather(rows), form, spares=spares).of_rows(rows))
        return match_spans.Spans.joined(parts)

    def _spans_marked(self, values: pl.Series, form: _Form, *, spares: bool) -> match_spans.Spans:
        """Spans of texts with several matches, or with what is spared: each match is written back between marks."""
        marking = f"{match_spans.BEFORE}{form.kept}{match_spans.START}${{0}}{match_spans.END}"
        marked = self._spare(values, form, marking) if spares else values.str.replace_all(form.pattern, marking)
        return match_spans.marked_spans(match_spans.large(marked), 0 if self.opening else len(self.closing.encode()))

    def _spans_singly(self, values: pl.Series, flags: Flags) -> match_spans.Spans:
        rows = np.flatnonzero(flags)
        return self._spans_each(values.gather(rows), rows) if len(rows) else match_spans.Spans.of(())

    def _spans_each(self, values: pl.Series, rows: Indices) -> match_spans.Spans:
        found = (
            (row, *span) for row, text in zip(rows.tolist(), values, strict=True) for span in self._spans_text(text)
        )
        return match_spans.Spans.of(found)

    def _spans_text(self, text: str) -> Iterator[tuple[int, int]]:
        if self.spared and _HIDDEN not in text:
            hidden = re.sub(self.spared, lambda match: f"{match[1] or ''}{_HIDDEN}{match[2] or ''}", text)
        else:
            hidden = text
        closing = 0 if self.opening else len(self.closing)
        for start, end, kept in self._matches(hidden):
            first, last = start + len(kept), end - closing
            yield (first, last) if text.isascii() else (len(text[:first].encode()), len(text[:last].encode()))

    def _query(self, form: _Form) -> list[pl.Expr]:
        asked = []
        if self.check is None or self.doubt:
            written = f"{form.kept}{self.opening}{match_spans.PLACE}{self.closing}"
            asked.append(_TEXT.str.replace_all(form.pattern, written).alias("placed"))
        if self.check is not None or self.spared:
            unsure = (
                form.pattern if self.check is not None and not self.doubt else column_form(self.doubt or self.spared)
            )
            asked.append(_TEXT.str.contains(unsure).alias("unsure"))
        return asked

    def substitute_text(self, text: str, replacement: str) -> str:
        """Replace every match in one text: the meaning of `substitute`."""
        if self.spared and _HIDDEN not in text:
            text = re.sub(self.spared, lambda match: f"{match[1] or ''}{_HIDDEN}{match[2] or ''}", text)
            return self._substitute_text(text, replacement).replace(_HIDDEN, "@")
        return self._substitute_text(text, replacement)

    def _substitute_text(self, text: str, replacement: str) -> str:
        parts: list[str] = []
        copied = 0
        for start, end, kept in self._matches(text):
            parts += (text[copied:start], kept, self.opening, replacement, self.closing)
            copied = end
        return text if not parts else "".join((*parts, text[copied:]))

    def _matches(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Where each match begins and the personal value in it ends, and what is kept of it."""
        start = 0
        while (match := self.compiled.search(text, start)) is not None:
            end = match.end() if self.check is None else self.check(match)
            if end <= match.start():
                start = match.start() + 1
                continue
            yield match.start(), end, "".join(group or "" for group in match.groups())
            start = end

    def _spare(self, values: pl.Series, form: _Form, written: str) -> pl.Series:
        hidden = _TEXT.str.replace_all(column_form(self.spared), f"${{1}}{_HIDDEN}${{2}}")
        unmasked: pl.Expr = pl.when(_TEXT.str.contains(_HIDDEN, literal=True)).then(_TEXT).otherwise(hidden)
        replaced = unmasked.str.replace_all(form.pattern, written)
        shown: pl.Expr = (
            pl.when(_TEXT.str.contains(_HIDDEN, literal=True))
            .then(replaced)
            .otherwise(replaced.str.replace_all(_HIDDEN, "@", literal=True))
        )
        return pl.DataFrame({"text": values}).select_seq(shown.alias("text"))["text"]

    def _replace_each(self, values: pl.Series, replacement: str) -> pl.Series:
        return pl.Series(values.name, [self.substitute_text(value, replacement) for value in values], pl.String)


def column_form(pattern: str) -> str:
    r"""A pattern in the form that polars takes: `\b` and `(?i:` made ASCII, as `re.ASCII` does."""
    return pattern.replace(r"\b", r"(?-u:\b)").replace("(?i:", "(?i-u:")


def union(rules: Iterable[Rule]) -> str:
    """One gate for many rules: matches, unanchored, in every text that passes the gate of any; empty if there are none."""
    gates, stems = dict[str, None](), dict[str, None]()
    for rule in rules:
        if rule.stems:
            stems |= dict.fromkeys(rule.stems)
        else:
            gates[rule.gate] = None
    return "|".join(filter(None, (*gates, folded(stems))))


def passing(values: pl.Series, gates: Sequence[str]) -> dict[str, pl.Series]:
    """Which values of a column pass each gate; a null passes none.

    All gates are asked in one call: what a call costs is much for few values. Of these each has its pattern beside it, for then
    polars uses the automaton that it kept of the call before; it begins with an empty one where a pattern is said once.
    """
    distinct = dict.fromkeys(gates)
    few = len(values) <= _BESIDE_MAX
    columns = {"text": values}
    if few:
        columns |= {gate: _pattern(gate).new_from_index(0, len(values)) for gate in distinct if not _is_literal(gate)}
    asked = [_asking(gate, few and not _is_literal(gate)) for gate in distinct]
    frame = pl.DataFrame(columns).select_seq(asked)
    return {gate: frame.to_series(index) for index, gate in enumerate(distinct)}


@lru_cache(maxsize=_GATES_MAX)
def _is_literal(gate: str) -> bool:
    return _LITERAL.fullmatch(gate) is not None


@lru_cache(maxsize=_GATES_MAX)
def _pattern(gate: str) -> pl.Series:
    return pl.Series(gate, [column_form(gate)], pl.String)


@lru_cache(maxsize=_GATES_MAX)
def _asking(gate: str, beside: bool) -> pl.Expr:  # noqa: FBT001 - positional arguments are cached soonest
    pattern = pl.col(gate) if beside else column_form(gate)
    # The output's name doesn't matter, but must be its own.
    return _TEXT.str.contains(pattern, literal=_is_literal(gate)).fill_null(value=False).alias(gate)
