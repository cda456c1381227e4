"""Reads a query's characters: a position, what stands there, and errors that point at it.

Knows quotes, regexes, escapes and terms; doesn't know what they mean (`filters.py`, `pipes.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.check import NAME_CHARACTERS_MAX
from heimdall_server.domain.expression.patterns import canonical_regex

NAME: Final = re.compile(r"[A-Za-z_@][A-Za-z0-9_.@$#/-]*")
"""A field name that needs no quotes."""
_SENTENCE_MAX: Final = 300
_SPACE: Final = re.compile(r"\s*")
_TERM: Final = re.compile(r'(?:\\.|[^\\\s()"|])+', re.DOTALL)
_BOUND: Final = re.compile(r'(?:\\.|[^\\\s\]}"])+', re.DOTALL)
_OPERAND: Final = re.compile(r'(?:\\.|[^\\\s()"|,=<>!])+', re.DOTALL)
_QUOTED: Final = re.compile(r'"((?:\\["\\]|[^"\\]|\\(?!["\\]))*)"', re.DOTALL)
_REGEX: Final = re.compile(r"/((?:\\.|[^\\/])*)/", re.DOTALL)
_QUOTED_ESCAPE: Final = re.compile(r'\\(["\\])')
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Term:
    """A value as written."""

    raw: str
    """With its backslashes."""
    column: int
    quoted: bool = False

    @property
    def text(self) -> str:
        """Without backslashes."""
        return self.raw if self.quoted else unescape(self.raw)

    @property
    def is_wildcard(self) -> bool:
        """An unquoted `*` or `?` is in it."""
        return not self.quoted and has_wildcard(self.raw)


def unescape(raw: str) -> str:
    """Drop each backslash that makes the next character plain."""
    return _ESCAPE.sub(r"\1", raw) if "\\" in raw else raw


def has_wildcard(raw: str) -> bool:
    """A `*` or `?` without a backslash before it."""
    if "*" not in raw and "?" not in raw:
        return False
    plain = _ESCAPE.sub("", raw)
    return "*" in plain or "?" in plain


def wildcard_pattern(raw: str) -> str:
    """A term as a pattern: a backslash stays only before `*`, `?` and itself."""

    def keep(match: re.Match[str]) -> str:
        return match[0] if match[1] in "*?\\" else match[1]

    return _ESCAPE.sub(keep, raw)


class Scanner:
    """A position in a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def error(self, problem: str, suggestion: str = "", *, at: int | None = None) -> NoReturn:
        """Refuse the text, pointing at `at` (default: here)."""
        column = self.position if at is None else at
        sentences = (
            each if len(each) <= _SENTENCE_MAX else each[:_SENTENCE_MAX] + "…" for each in (problem, suggestion)
        )
        raise QuerySyntaxError(self.text, min(column, len(self.text)), *sentences)

    def skip_space(self) -> None:
        """Go to the next character that isn't white."""
        match = _SPACE.match(self.text, self.position)
        if match is not None:
            self.position = match.end()

    def at_end(self) -> bool:
        """Nothing but white space is left."""
        self.skip_space()
        return self.position >= len(self.text)

    def peek(self, width: int = 1) -> str:
        """The next characters; fewer at the end."""
        return self.text[self.position : self.position + width]

    def take(self, token: str) -> bool:
        """Go past a token if it stands next, after white space."""
        self.skip_space()
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def expect(self, token: str, problem: str, suggestion: str = "") -> None:
        """Go past a token that must stand next."""
        if not self.take(token):
            self.error(problem, suggestion)

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Go past what a pattern matches here."""
        found = pattern.match(self.text, self.position)
        if found is not None:
            self.position = found.end()
        return found

    def take_word(self, word: str, *, any_case: bool = False) -> bool:
        """Go past a whole word, such as `AND`, after white space."""
        self.skip_space()
        end = self.position + len(word)
        found = self.text[self.position : end]
        if (found.lower() if any_case else found) != word:
            return False
        if end < len(self.text) and (self.text[end].isalnum() or self.text[end] in "_.:-*?\\@$#/"):
            return False
        self.position = end
        return True

    def name(self, what: str) -> Term:
        """A plain or quoted name."""
        self.skip_space()
        found = self.maybe_name()
        if found is None:
            self.error(f"{what} is missing here")
        return found

    def maybe_name(self) -> Term | None:
        """A plain or quoted name, if one stands here."""
        column = self.position
        if self.peek() == '"':
            return self.quoted()
        found = self.match(NAME)
        return None if found is None else Term(found[0], column)

    def check_name(self, name: Term) -> None:
        """Refuse a name that no field or column can have."""
        if not 0 < len(name.raw) <= NAME_CHARACTERS_MAX:
            self.error(f"a name has 1 to {NAME_CHARACTERS_MAX} characters", at=name.column)

    def quoted(self) -> Term:
        """A text in double quotes; a backslash escapes a quote or a backslash, nothing else."""
        column = self.position
        found = self.match(_QUOTED)
        if found is None:
            self.error('a closing " is missing', at=column)
        return Term(_QUOTED_ESCAPE.sub(r"\1", found[1]), column, quoted=True)

    def regex(self, field_name: str) -> Term:
        """A regex between slashes. What follows it must be the end of a term."""
        column = self.position
        found = self.match(_REGEX)
        after = self.peek()
        if found is None or (after and not after.isspace() and after not in ")|,"):
            prefix = f"{field_name}:" if field_name else ""
            rest = _TERM.match(self.text, column)
            sample = rest[0] if rest is not None and len(rest[0]) <= 60 and "\\" not in rest[0] else "/the/path"
            self.error(
                "a regex ends at its closing slash" if found else "the closing slash of a regex is missing",
                f'quote a path: {prefix}"{sample}"',
                at=column,
            )
        return Term(canonical_regex(found[1]), column, quoted=True)

    def term(self) -> Term | None:
        """An unquoted value, up to white space, a parenthesis, a quote or a pipe."""
        return self._unquoted(_TERM)

    def bound(self) -> Term:
        """One end of a range, quoted or not."""
        self.skip_space()
        if self.peek() == '"':
            return self.quoted()
        found = self._unquoted(_BOUND)
        if found is None:
            self.error("a range needs two ends", "write [from TO to], with * for an open end")
        return found

    def operand(self) -> Term:
        """A value in a stage, up to a comma, a parenthesis or an operator."""
        self.skip_space()
        if self.peek() == '"':
            return self.quoted()
        found = self._unquoted(_OPERAND)
        if found is None:
            self.error("a value is missing here")
        return found

    def _unquoted(self, pattern: re.Pattern[str]) -> Term | None:
        column = self.position
        found = self.match(pattern)
        if self.peek() == "\\":
            self.error("a lone backslash at the end", "write \\\\ for a backslash")
        return None if found is None else Term(found[0], column)
