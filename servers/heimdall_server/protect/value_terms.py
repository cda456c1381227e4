"""What a search must know of protection: where a text has personal values, what an attribute's name tells, what a policy may do with a class.

Values are found by the rules that protect records, in their order and each seeing the masks of the earlier ones: a query and a record that
hold the same text have the same values in it, unless that reads otherwise than it stands (see `disguises`): a query is taken as it was
typed. One text at a time, for the few that stand in a query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import polars as pl

from heimdall_server.protect.actions import mask
from heimdall_server.protect.catalogue import CLASSES, RULES
from heimdall_server.protect.keys import in_parts
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.policy import FALLBACK_ACTION, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.rules import SPARSE, Rule

Found = tuple[int, int, str]
"""Where a value begins and ends (characters, the end exclusive), and its class."""

FORMER_MAX: Final = 64
"""Policies before the one in force that are remembered."""
_KEEP: Final = "keep"
_TOKENISE: Final = "tokenise"


class ValueTerms:
    """Answers by the policy in force and those before it, by which older records were protected. Thread-safe."""

    classes: Final = frozenset(CLASSES)
    """Every class that a policy may name."""

    def __init__(self, policy: Callable[[], PrivacyPolicy], former: Iterable[PrivacyPolicy] = ()) -> None:
        """Take the policies.

        Args:
            policy: The one in force, asked in each call; what it once was is remembered.
            former: Those that were in force before, the oldest first. The newest `FORMER_MAX` that differ count.
        """
        self._policy = policy
        self._known = _Known(())
        for one in (*former, policy()):
            self._known = self._known.followed_by(one)

    def may_keep(self, data_class: str) -> bool:
        """Values of the class stay in plain in some field of some source."""
        return _KEEP in self._now.actions(data_class)

    def may_tokenise(self, data_class: str) -> bool:
        """Values of the class become tokens in some field of some source."""
        return _TOKENISE in self._now.actions(data_class)

    def find_personal(self, text: str) -> list[Found]:
        """Find the values in a text, in order; none overlaps another.

        Cost: a gate over the text, some µs; a text that passes it some hundred µs, and by some rules the square of its length.
        """
        return self._now.find(text)

    def find_in_name(self, name: str) -> list[Found]:
        """The same for the name of an attribute or a column."""
        return self._now.find(in_parts(name))

    @staticmethod
    def class_of_field(name: str) -> str | None:
        """The class of what an attribute of this name holds, whatever the value looks like; None: its name doesn't tell."""
        return class_of_name(name) or None

    @property
    def _now(self) -> _Known:
        policy, known = self._policy(), self._known
        if known.policies[-1] is not policy:
            known = self._known = known.followed_by(policy)
        return known


class _Known:
    """What was worked out from some policies."""

    def __init__(self, policies: tuple[PrivacyPolicy, ...]) -> None:
        self.policies: Final = policies
        """The one in force is the last."""
        self._actions: dict[str, frozenset[str]] = {}

    def followed_by(self, policy: PrivacyPolicy) -> _Known:
        """The same with another policy in force."""
        others = (one for one in self.policies if (one.rules, one.thorough) != (policy.rules, policy.thorough))
        return _Known((*others, policy)[-FORMER_MAX - 1 :])

    def actions(self, data_class: str) -> frozenset[str]:
        """Everything that may become, or have become, of values of a class."""
        known = self._actions.get(data_class)
        if known is None:
            some = frozenset(action for policy in self.policies for action in _actions(data_class, policy.rules))
            known = self._actions[data_class] = some
        return known

    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        """Rules that run in some field of some source."""
        everything = any(policy.thorough for policy in self.policies)
        return tuple(
            rule for rule in RULES if (everything or rule.group != SPARSE) and self.actions(rule.data_class) != {_KEEP}
        )

    @cached_property
    def _gates(self) -> dict[str, re.Pattern[str]]:
        return {rule.gate: re.compile(rule.gate, re.ASCII) for rule in self._rules}

    @cached_property
    def _gate(self) -> re.Pattern[str]:
        """All gates as one."""
        return re.compile("|".join(self._gates) or r"(?!)", re.ASCII)

    def find(self, text: str) -> list[Found]:
        """The values in a text."""
        if not self._gate.search(text):
            return []
        masked = _MaskedText(text)
        for rule in self._rules:
            if self._gates[rule.gate].search(masked.text):
                masked.apply(rule)
        return masked.found()


def _actions(data_class: str, rules: Iterable[PrivacyRule]) -> Iterable[str]:
    for rule in rules:
        if rule.fits_class(data_class):
            yield rule.action
            if rule.source == "*" and rule.field == "*":
                return
    yield FALLBACK_ACTION


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a text as the rules see it, and the range of the text as it was."""

    shown: str
    start: int
    end: int
    data_class: str = ""
    """Of the value that is hidden here; empty: none is."""

    def part(self, first: int, last: int) -> _Piece:
        """A part of what is shown; of what isn't shown as it was, the range stays whole."""
        if self.end - self.start != len(self.shown) or self.data_class:
            return _Piece(self.shown[first:last], self.start, self.end, self.data_class)
        return _Piece(self.shown[first:last], self.start + first, self.start + last)


class _MaskedText:
    """One text, in which what was found is hidden from the rules that follow: `places.MaskedTexts` for a single one."""

    def __init__(self, text: str) -> None:
        self._pieces = [_Piece(text, 0, len(text))]
        self.text = text
        """As the rules see it."""

    def found(self) -> list[Found]:
        """What is hidden."""
        return [(piece.start, piece.end, piece.data_class) for piece in self._pieces if piece.data_class]

    def apply(self, rule: Rule) -> None:
        """Hide what a rule finds."""
        spans = rule.spans(pl.Series("", [self.text], pl.String))
        if not len(spans):
            return
        encoded = self.text.encode()
        pieces: list[_Piece] = []
        copied = 0
        for first, last in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True):
            start, end = self._widened(len(encoded[:first].decode()), len(encoded[:last].decode()))
            covered = self._cut(max(start, copied), end)
            if not covered:
                continue
            pieces += self._cut(copied, start)
            begin, until = covered[0].start, covered[-1].end
            pieces.append(_Piece(rule.opening, begin, begin))
            pieces.append(_Piece(mask(rule.data_class), begin, until, rule.data_class))
            pieces.append(_Piece(rule.closing if rule.opening else "", until, until))
            copied = end
        pieces += self._cut(copied, len(self.text))
        self._pieces = [piece for piece in pieces if piece.shown]
        self.text = "".join(piece.shown for piece in self._pieces)

    def _widened(self, start: int, end: int) -> tuple[int, int]:
        """A range that holds every value whole which is hidden in it."""
        at = 0
        for piece in self._pieces:
            after = at + len(piece.shown)
            if piece.data_class and at < end and start < after:
                start, end = min(start, at), max(end, after)
            at = after
        return start, end

    def _cut(self, start: int, end: int) -> list[_Piece]:
        """What is shown between two places."""
        cut: list[_Piece] = []
        at = 0
        for piece in self._pieces:
            first, last = max(start - at, 0), min(end - at, len(piece.shown))
            at += len(piece.shown)
            if first < last:
                cut.append(piece.part(first, last))
        return cut
