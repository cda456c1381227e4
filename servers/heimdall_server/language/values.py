"""Turns a field, an operator and a value as typed into the part of the tree that means it."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from heimdall_server.domain.expression.check import LITERAL_CHARACTERS_MAX, WORDS_MAX
from heimdall_server.domain.expression.fields import FieldKind, FieldRef, Scope
from heimdall_server.domain.expression.literals import ascii_lower, number_text, parse_network, parse_number, words_of
from heimdall_server.domain.expression.patterns import PATTERN_CHARACTERS_MAX, canonical_wildcard, check_regex
from heimdall_server.domain.expression.tree import (
    And,
    Cidr,
    Compare,
    Exists,
    Expression,
    Literal,
    Operator,
    Or,
    Regex,
    TimeLiteral,
    Wildcard,
    Words,
)
from heimdall_server.domain.records import SEVERITY_NAMES
from heimdall_server.language.instants import parse_instant
from heimdall_server.language.scanner import Scanner, Term, wildcard_pattern
from heimdall_server.language.suggestions import did_you_mean

_RANGES: Final = ("trace", "debug", "info", "warn", "error", "fatal")
_LOOKS_LIKE_NETWORK: Final = re.compile(r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/[0-9]{1,3}")
_ID_DIGITS: Final = {"trace_id": 32, "span_id": 16}


class Values:
    """Reads values by the kind of their field.

    Comparisons of what covers a span (a severity name covers its four numbers, a date its day) go by the
    span's edges: `>` begins after it, `<=` takes it in, EQ is inside it.
    """

    def __init__(self, scanner: Scanner, now_ns: int) -> None:
        self._scanner = scanner
        self._now_ns = now_ns

    def equal(self, ref: FieldRef, kind: FieldKind, term: Term) -> Expression:
        """`field:value`."""
        if not term.quoted and term.raw.strip("*") == "":
            return Exists(ref)
        if term.is_wildcard:
            return self._wildcard(ref, kind, term)
        if kind is FieldKind.TEXT:
            return self._words(ref, term)
        if kind in (FieldKind.KEYWORD, FieldKind.ATTRIBUTE) and not term.quoted:
            network = self._network(ref, term)
            if network is not None:
                return network
        return self.compare(ref, kind, Operator.EQ, term)

    def compare(self, ref: FieldRef, kind: FieldKind, operator: Operator, term: Term) -> Expression:
        """`field:>value`, and EQ where the value has no other meaning."""
        if kind is FieldKind.TIME:
            return self._span(ref, operator, *self._instant(term), step=1)
        if kind is FieldKind.SEVERITY:
            low, high = self._severity(term)
            return self._numbers(ref, operator, low, high)
        if kind is FieldKind.NUMBER:
            number = parse_number(term.text)
            if number is None:
                self._scanner.error(f"{ref} is a number, and this isn't one", at=term.column)
            return Compare(ref, operator, number)
        if kind is FieldKind.ID:
            return self._id(ref, operator, term)
        if kind is FieldKind.TEXT:
            self._scanner.error(
                f"{ref} holds words, which have no order",
                f"use words, a phrase or a regex; an attribute of this name is attributes.{ref}",
                at=term.column,
            )
        if len(term.text) > LITERAL_CHARACTERS_MAX:
            self._scanner.error(f"a value longer than {LITERAL_CHARACTERS_MAX} characters", at=term.column)
        if kind is FieldKind.KEYWORD and ref.scope is not Scope.COMPUTED:
            return Compare(ref, operator, term.text)
        return self._typed(ref, operator, term)

    def range(
        self, ref: FieldRef, kind: FieldKind, low: tuple[Operator, Term], high: tuple[Operator, Term]
    ) -> Expression:
        """`field:[low TO high]`; a bare `*` leaves an end open."""
        ends = [each for each in (low, high) if each[1].quoted or each[1].raw != "*"]
        if not ends:
            return Exists(ref)
        parts: list[Expression] = []
        for operator, term in ends:
            if term.is_wildcard:
                self._scanner.error("a range has no wildcards", "use * alone for an open end", at=term.column)
            parts.append(self.compare(ref, kind, operator, term))
        types = {type(part.value) for part in parts if isinstance(part, Compare)}
        if len(types) > 1:
            self._scanner.error("one end of the range is a number and the other a text", at=low[1].column)
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def regex(self, ref: FieldRef, kind: FieldKind, term: Term) -> Expression:
        """`field:/pattern/`."""
        self._needs_text(kind, ref, term.column, "a regex")
        if not term.text:
            self._scanner.error("an empty regex", f"use _exists_:{ref}", at=term.column)
        try:
            check_regex(term.text)
        except ValueError as error:
            self._scanner.error(f"not a regex (RE2): {error}", at=term.column)
        return Regex(ref, term.text)

    def _needs_text(self, kind: FieldKind, ref: FieldRef, column: int, what: str) -> None:
        if kind in (FieldKind.TIME, FieldKind.SEVERITY, FieldKind.NUMBER):
            self._scanner.error(f"{ref} is a {kind}, which {what} can't match", f"compare it: {ref}:>=…", at=column)

    def _wildcard(self, ref: FieldRef, kind: FieldKind, term: Term) -> Expression:
        self._needs_text(kind, ref, term.column, "a wildcard")
        if len(term.raw) > PATTERN_CHARACTERS_MAX:
            self._scanner.error(f"a pattern longer than {PATTERN_CHARACTERS_MAX} characters", at=term.column)
        pattern = wildcard_pattern(term.raw)
        if kind in (FieldKind.TEXT, FieldKind.ID):
            pattern = ascii_lower(pattern)
        return Wildcard(ref, canonical_wildcard(pattern))

    def _words(self, ref: FieldRef, term: Term) -> Expression:
        words = words_of(term.text)
        if not words:
            self._scanner.error(
                "no word to search for: words are made of letters and digits",
                f"use a regex, as in {ref}:/\\[\\]/",
                at=term.column,
            )
        if len(words) > WORDS_MAX:
            self._scanner.error(f"a phrase of more than {WORDS_MAX} words", at=term.column)
        return Words(ref, words, term.text)

    def _network(self, ref: FieldRef, term: Term) -> Expression | None:
        if _LOOKS_LIKE_NETWORK.fullmatch(term.text) is None:
            return None
        try:
            return Cidr(ref, parse_network(term.text).text)
        except (ValueError, ipaddress.NetmaskValueError):
            self._scanner.error("not an IP network", f'quote it if it is a text: {ref}:"{term.text}"', at=term.column)

    def _instant(self, term: Term) -> tuple[int, int]:
        span = parse_instant(term.text, self._now_ns)
        if span is None:
            self._scanner.error(
                "not a time", "write 2026-01-31T12:00:00Z, 2026-01-31, now-1h or epoch seconds", at=term.column
            )
        return span

    def _severity(self, term: Term) -> tuple[float, float]:
        name = term.text.lower()
        number = parse_number(name)
        if number is not None:
            return number, number
        base, suffix = name.rstrip("234"), name[len(name.rstrip("234")) :]
        if suffix and base in _RANGES and len(suffix) == 1:
            exact = float(SEVERITY_NAMES[base] + int(suffix) - 1)
            return exact, exact
        if name not in SEVERITY_NAMES:
            hint = did_you_mean(name, SEVERITY_NAMES) or "use TRACE, DEBUG, INFO, WARN, ERROR, FATAL or 1 to 24"
            self._scanner.error(f"unknown severity {term.text!r}", hint, at=term.column)
        first = float(SEVERITY_NAMES[name])
        return first, first + 3 if int(first) % 4 == 1 else first

    def _numbers(self, ref: FieldRef, operator: Operator, low: float, high: float) -> Expression:
        if operator is Operator.EQ and low != high:
            return And((Compare(ref, Operator.GE, low), Compare(ref, Operator.LE, high)))
        return Compare(ref, operator, low if operator in (Operator.EQ, Operator.GE, Operator.LT) else high)

    def _span(self, ref: FieldRef, operator: Operator, low: int, after: int, *, step: int) -> Expression:
        if after - low == step:
            return Compare(ref, operator, TimeLiteral(low))
        start, end = TimeLiteral(low), TimeLiteral(after)
        if operator is Operator.EQ:
            return And((Compare(ref, Operator.GE, start), Compare(ref, Operator.LT, end)))
        return {
            Operator.GE: Compare(ref, Operator.GE, start),
            Operator.LT: Compare(ref, Operator.LT, start),
            Operator.GT: Compare(ref, Operator.GE, end),
            Operator.LE: Compare(ref, Operator.LT, end),
        }[operator]

    def _id(self, ref: FieldRef, operator: Operator, term: Term) -> Expression:
        digits = _ID_DIGITS[ref.name]
        text = term.text.lower().replace("-", "")
        if operator is not Operator.EQ:
            self._scanner.error(f"{ref} has no order", at=term.column)
        if len(text) != digits or any(c not in "0123456789abcdef" for c in text):
            self._scanner.error(f"{ref} is {digits} hex digits", f"use {ref}:ab12* for its beginning", at=term.column)
        return Compare(ref, Operator.EQ, text)

    def _typed(self, ref: FieldRef, operator: Operator, term: Term) -> Expression:
        """An attribute takes its type from how the literal is written; quotes make it a text."""
        text = term.text
        if term.quoted:
            return Compare(ref, operator, text)
        number = parse_number(text)
        if number is not None:
            return self._number_or_text(ref, operator, number, text)
        if text in ("true", "false") and ref.scope is not Scope.COMPUTED:
            if operator is not Operator.EQ:
                self._scanner.error("true and false have no order", at=term.column)
            return Compare(ref, operator, text == "true")
        return Compare(ref, operator, text)

    def _number_or_text(self, ref: FieldRef, operator: Operator, number: float, text: str) -> Expression:
        """`version:1.10` is the number 1.1 or the text `1.10`, never the text `1.1`."""
        if operator is not Operator.EQ or number_text(number) == text:
            literal: Literal = number
            return Compare(ref, operator, literal)
        as_number = And((Compare(ref, Operator.GE, number), Compare(ref, Operator.LE, number)))
        return Or((as_number, Compare(ref, Operator.EQ, text)))
