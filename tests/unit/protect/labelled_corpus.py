"""How well each class is found in lines that hold one personal value each, and left alone in lines that nearly do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.labelled import national, near, papers, shapes
from tests.unit.protect.labelled.lines import Item, line
from tests.unit.protect.reference import batch_of

COUNT = 2_000
RECALL_MIN = 0.99
PRECISION_MIN = 0.97
_MAKERS: dict[str, Callable[[random.Random], Item]] = {
    "email": shapes.email,
    "phone": shapes.phone,
    "card": shapes.card,
    "iban": shapes.iban,
    "ssn": shapes.ssn,
    "ipv4": shapes.ipv4,
    "ipv6": shapes.ipv6,
    "jwt": shapes.jwt,
    "crypto_wallet": shapes.crypto_wallet,
    "secret": papers.secret,
    "cookie": papers.cookie,
    "national_id": national.national_id,
    "passport": papers.passport,
    "driving_licence": papers.driving_licence,
    "birth_date": papers.birth_date,
    "name": papers.name,
    "bank_account": papers.bank_account,
    "geo": papers.geo,
    "address": papers.address,
}
CLASSES = tuple(_MAKERS)
"""All that rules find."""


@dataclass(frozen=True, slots=True)
class Positive:
    """A line with one personal value."""

    line: str
    value: str
    data_class: str
    accepted: frozenset[str]

    def masked(self, data_class: str) -> str:
        """The line with a class in place of the value."""
        shown = (
            self.value
            if self.value in self.line
            else self.value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        )
        assert shown in self.line, (shown, self.line)
        return self.line.replace(shown, f"[{data_class}]")


@dataclass(slots=True)
class Score:
    """How a class was detected."""

    positives: int = 0
    near_misses: int = 0
    found: int = 0
    wrong: int = 0
    """Near misses taken for the class, and values of other classes, too."""
    missed_lines: list[str] = field(default_factory=list)
    wrong_lines: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """Found of what there is."""
        return self.found / self.positives

    @property
    def precision(self) -> float:
        """Right of what was found, where as many near misses stand beside."""
        return self.found / max(1, self.found + self.wrong)


def positives(data_class: str, count: int, seed: int) -> list[Positive]:
    """Lines that hold a value of a class."""
    draw = random.Random(f"{data_class} {seed}")
    items = [_MAKERS[data_class](draw) for _ in range(count)]
    return [Positive(line(draw, item), item.value, data_class, item.accepted | {data_class}) for item in items]


def scores(seed: int = 11, count: int = COUNT) -> dict[str, Score]:
    """Detect everything in a corpus.

    Args:
        seed: Of the corpus.
        count: Positives a class, and near misses a class.

    Returns:
        By class; in its `wrong` are its near misses that were taken for values of it, and values of other classes that were.
    """
    table = {name: Score(count, count) for name in CLASSES}
    truths = [one for name in CLASSES for one in positives(name, count, seed)]
    near_lines = {name: near.near_misses(name, count, seed) for name in CLASSES}
    answers = _masked([one.line for one in truths])
    hoped = _masked([one.masked(one.data_class) for one in truths])
    for truth, answer, wanted in zip(truths, answers, hoped, strict=True):
        score = table[truth.data_class]
        if answer == wanted or any(_right(truth, answer, name) for name in truth.accepted):
            score.found += 1
        else:
            score.missed_lines.append(f"{truth.line} → {answer}")
        for name in CLASSES:
            if name not in truth.accepted and answer.count(f"[{name}]") > wanted.count(f"[{name}]"):
                table[name].wrong += 1
                table[name].wrong_lines.append(f"{truth.line} → {answer}")
    for name, lines in near_lines.items():
        answers, others = (_masked(list(column)) for column in zip(*lines, strict=True))
        for (before, _), answer, other in zip(lines, answers, others, strict=True):
            if answer.count(f"[{name}]") > other.count(f"[{name}]"):
                table[name].wrong += 1
                table[name].wrong_lines.append(f"{before} → {answer}")
    return table


def _right(truth: Positive, answer: str, data_class: str) -> bool:
    """Whether nothing of the value is left, and a mask of the class has come."""
    left = any(piece in answer and piece not in truth.masked("") for piece in re.findall(r"[^\W_]{3,}", truth.value))
    return not left and truth.value not in answer and f"[{data_class}]" in answer


def _masked(lines: list[str]) -> list[str]:
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
    return list(protector.protect(batch_of([{"body": one} for one in lines])).batch["body"].to_pylist())


def weak(found: dict[str, Score]) -> dict[str, Score]:
    """Classes that aren't found as well as promised."""
    return {
        name: score for name, score in found.items() if score.recall < RECALL_MIN or score.precision < PRECISION_MIN
    }


def table(found: dict[str, Score]) -> str:
    """Scores as a table for people, the worst first, with a line that was missed or wrongly taken."""
    found = dict(sorted(found.items(), key=lambda one: min(one[1].recall, one[1].precision)))
    rows = [f"{'class':16} {'positives':>9} {'near':>6} {'recall':>7} {'precision':>9}"]
    for name, score in found.items():
        example = ascii(next(iter(score.missed_lines + score.wrong_lines), ""))[1:121]
        figures = f"{score.positives:9} {score.near_misses:6} {score.recall:7.4f} {score.precision:9.4f}"
        rows.append(f"{name:16} {figures}  {example}".rstrip())
    return "\n".join(rows)
