r"""What a rule is: a pattern for one class of personal data, and how it is applied to a column.

A pattern is written once and means the same to two engines: Rust's regex (polars, whole columns, no GIL)
and Python's `re` (value by value, where a check needs code). So it keeps to what both know: no look-around,
no back-reference, no `\s`, `\w`, `\d` (their Unicode tables differ), and `\b` and `(?i:` are read as ASCII.

The order of the rules and each pattern's edges keep masking idempotent: no mask holds text that a rule
matches, and no match ends in the middle of a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import polars as pl

START: Final = r"(\\{1,7}[bfnrt]|\b)"
"""Where a word starts. In JSON text an escape like `\\n` may stand right before it, whose letter isn't of the word."""

_HIDDEN: Final = "\ue000"

Check = Callable[[re.Match[str]], int]
"""Says where the personal value in a match ends (index in the whole text); 0 or less: there is none."""

ColumnCheck = Callable[[pl.Series, str], pl.Series]
"""For values and the pattern in polars' form, says of which values `check` would accept every match whole.
May say no too often."""


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


@dataclass(frozen=True)
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
    column_check: ColumnCheck | None = None
    """With `check`: finds, without the GIL, values that need no further test. None: all need it."""
    simple_pattern: str = ""
    """Means the same as `pattern` in texts without a backslash, and is faster. Empty: `pattern` with `START` made
    a plain boundary."""
    spared: str = ""
    """What isn't personal although `pattern` matches it; its groups stand around an at sign, without which there is
    no match. (A check would do, but a `re` that looks for addresses takes the square of a text's length.)"""
    group: str = ""
    """Rules whose gates are seldom passed share a group: their gates are tried where any of them is passed."""

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
        simple, full = self._forms
        form = full if values.str.contains("\\", literal=True).any() else simple
        written = f"{form.kept}{self.opening}{replacement}{self.closing}"
        if self.spared:
            return self._replace_unspared(values, form, written)
        if self.column_check is None and self.check is not None:
            return self._replace_each(values, replacement)
        replaced = values.str.replace_all(form.pattern, written)
        if self.column_check is not None:
            unsure = (~self.column_check(values, form.pattern)).arg_true()
            if len(unsure):
                replaced = replaced.scatter(unsure, self._replace_each(values.gather(unsure), replacement))
        return replaced

    def substitute_text(self, text: str, replacement: str) -> str:
        """Replace every match in one text: the meaning of `substitute`."""
        if self.spared and _HIDDEN not in text:
            text = re.sub(self.spared, lambda match: f"{match[1] or ''}{_HIDDEN}{match[2] or ''}", text)
            return self._substitute_text(text, replacement).replace(_HIDDEN, "@")
        return self._substitute_text(text, replacement)

    def _substitute_text(self, text: str, replacement: str) -> str:
        parts: list[str] = []
        copied = start = 0
        while (match := self.compiled.search(text, start)) is not None:
            end = match.end() if self.check is None else self.check(match)
            if end <= match.start():
                start = match.start() + 1
                continue
            kept = "".join(group or "" for group in match.groups())
            parts += (text[copied : match.start()], kept, self.opening, replacement, self.closing)
            copied = start = end
        return text if not parts else "".join((*parts, text[copied:]))

    def _replace_unspared(self, values: pl.Series, form: _Form, written: str) -> pl.Series:
        replaced = values.str.replace_all(form.pattern, written)
        spared = column_form(self.spared)
        to_hide = (values.str.contains(spared) & ~values.str.contains(_HIDDEN, literal=True)).arg_true()
        if not len(to_hide):
            return replaced
        hidden = values.gather(to_hide).str.replace_all(spared, f"${{1}}{_HIDDEN}${{2}}")
        kept = hidden.str.replace_all(form.pattern, written).str.replace_all(_HIDDEN, "@", literal=True)
        return replaced.scatter(to_hide, kept)

    def _replace_each(self, values: pl.Series, replacement: str) -> pl.Series:
        return pl.Series(values.name, [self.substitute_text(value, replacement) for value in values], pl.String)


def column_form(pattern: str) -> str:
    r"""A pattern in the form that polars takes: `\b` and `(?i:` made ASCII, as `re.ASCII` does."""
    return pattern.replace(r"\b", r"(?-u:\b)").replace("(?i:", "(?i-u:")


def unless(doubt: str) -> ColumnCheck:
    """A column check by a regex: no match in a value is in doubt unless this is found in it."""

    def sure(values: pl.Series, pattern: str) -> pl.Series:
        del pattern
        return ~values.str.contains(column_form(doubt))

    return sure
