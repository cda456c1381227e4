from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.protect import gates, lookalikes, shapes
from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.columns import Flags, string_bytes
from heimdall_server.protect.gates import Gate, passed_gates
from heimdall_server.protect.rules import SPARSE
from heimdall_server.protect.stems import folded, literals
from heimdall_server.protect.windows import Windows, suits
from tests.unit.protect.corpus import Corpus

STEMS = tuple(dict.fromkeys(stem for rule in RULES if rule.group == SPARSE for stem in rule.stems))
SUITING = tuple(filter(suits, STEMS))
WINDOWS = Windows(SUITING)
GATE = Gate(RULES)
POSITIVES = [line for _, _, line in Corpus(3).personal(200)]


def held(texts: list[str]) -> list[set[str]]:
    found: list[set[str]] = [set() for _ in texts]
    rows, stems = WINDOWS.find(*string_bytes(pa.array(texts, pa.string())))
    for row, stem in zip(rows.tolist(), stems.tolist(), strict=True):
        found[row].add(SUITING[stem])
    return found


def test_only_short_stems_do_not_suit() -> None:
    assert all(min(len(literal.encode()) for literal in literals((stem,))) < 5 for stem in STEMS if not suits(stem))
    assert len(SUITING) > 0.9 * len(STEMS)


@pytest.mark.parametrize("lead", range(5))
def test_every_way_to_write_a_stem_is_found_wherever_it_stands(lead: int) -> None:
    draw = random.Random(lead)
    texts, expected = [], []
    for stem in SUITING:
        for literal in literals((stem,)):
            written = "".join(
                draw.choice((letter, letter.upper() if letter.isascii() else letter)) for letter in literal
            )
            signs = {"=": (": ", "=", '": "', '\\":', " no ", "#"), "~": (" ", "\t", "  ")}.get(stem[-1], ("",))
            sign = draw.choice(signs)
            texts.append(f"{'x' * lead}{written}{sign}7{'y' * draw.randrange(4)}")
            expected.append(stem)
    for stem, found, text in zip(expected, held(texts), texts, strict=True):
        assert stem in found, text


WORDS = st.sampled_from([*(literal for stem in STEMS[::7] for literal in literals((stem,))), "=", ": ", '"', " no", "x", "é", "中", " ", "\\", "status", "lat", "LON"])  # fmt: skip
TEXTS = st.lists(WORDS | st.text(max_size=4), max_size=8).map("".join)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), start=st.integers(0, 3))
def test_what_the_regex_finds_in_the_middle_of_a_text_the_windows_find(texts: list[str], start: int) -> None:
    # A label at the very end has no value behind it.
    texts = [f"{text} 1" for text in texts]
    array = pa.array([*["ab"] * start, *texts], pa.string()).slice(start)
    flags = np.zeros(len(texts), np.bool_)
    flags[WINDOWS.find(*string_bytes(array))[0]] = True
    for text, flag in zip(texts, flags.tolist(), strict=True):
        assert flag or not re.search(folded(SUITING), text, re.ASCII), text


WORDY = [
    "dob: 1985-03-12",
    "passport no C1234567",
    "lat=48.85661",
    "order",
    "status 200",
    "a@b.example",
    "x" * 90,
    "11.22.33-444.55",
]


def test_a_large_column_passes_as_its_pieces_do() -> None:
    draw = random.Random(7)
    texts = [f"{''.join(draw.choices('ghkmnq', k=9))} {' '.join(draw.choices(WORDY, k=2))}" for _ in range(30_000)]
    whole = GATE.passed([pa.array(texts, pa.string())])
    assert not whole.answers.known.any(), "so few have another's shape that none is asked by it"
    pieces = [GATE.passed([pa.array(texts[start : start + 500], pa.string())]) for start in range(0, len(texts), 500)]
    assert all(piece.answers.known.all() for piece in pieces)
    assert np.array_equal(whole.any, np.concatenate([piece.any for piece in pieces]))


def test_texts_of_one_shape_are_asked_once_and_answered_each() -> None:
    asked: list[int] = []

    class Counting(shapes.Shapes):
        def __init__(self, gates: Iterable[str], ask: shapes.Ask) -> None:
            def counted(texts: pl.Series) -> Mapping[str, Flags]:
                asked.append(len(texts))
                return ask(texts)

            super().__init__(gates, counted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "Shapes", Counting)
        gate = Gate(RULES)
    texts = [f"order {row} of {('nobody', 'a@b.example', 'dob: 1985-03-12')[row % 3]}" for row in range(1000, 9000)]
    for _ in range(2):
        passed = gate.passed([pa.array(["x"] * 10), pa.array(texts, pa.string())])
        assert passed.any.tolist() == [False] * 10 + [row % 3 > 0 for row in range(1000, 9000)]
    assert asked == [4]


@pytest.mark.parametrize("gate", sorted({rule.gate for rule in RULES} | {lookalikes.GATE}))
def test_the_shape_of_what_passes_a_gate_passes_it(gate: str) -> None:
    itself, by_shape = (re.compile(pattern, re.ASCII) for pattern in (gate, shapes.zeroed_pattern(gate)))

    @settings(max_examples=60, deadline=None)
    @given(text=st.from_regex(itself, alphabet=st.characters(codec="utf-8")))
    def holds(text: str) -> None:
        (shape,) = shapes.zeroed(pa.array([text], pa.string())).to_pylist()
        assert by_shape.search(shape)

    holds()


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(TEXTS | st.text(), max_size=8), start=st.integers(0, 3))
def test_a_shape_has_zeros_for_digits_and_nothing_else_changed(texts: list[str], start: int) -> None:
    array = pa.array([*["7é"] * start, *texts], pa.string()).slice(start)
    assert shapes.zeroed(array).to_pylist() == [re.sub("[0-9]", "0", text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS | st.sampled_from(POSITIVES), min_size=1, max_size=30))
def test_what_a_rule_finds_passes_its_gate_by_shape_and_asked_by_itself(texts: list[str]) -> None:
    passed = GATE.passed([pa.array(texts, pa.string())])
    values = pl.Series("", texts, pl.String)
    by_shape = passed_gates(RULES, values, passed.answers)
    for found in (by_shape, passed_gates(RULES, values)):
        for rule in RULES:
            flags = found.get(rule.gate, np.zeros(len(texts), np.bool_)).tolist()
            for text, flag in zip(texts, flags, strict=True):
                assert flag or rule.substitute_text(text, "x") == text, (rule.name, text)
    assert all(passed.any[row] for flags in by_shape.values() for row in np.flatnonzero(flags).tolist())


def test_a_gate_that_names_certain_digits_is_asked_again_of_many() -> None:
    texts = [f"took {900_000_000_000 + row} ns" for row in range(300)]
    passed = GATE.passed([pa.array(texts, pa.string())])
    phones = next(rule.gate for rule in RULES if rule.name == "phone")
    assert passed.answers.by_gate()[phones].all()
    assert not passed_gates(RULES, pl.Series("", texts), passed.answers)[phones].any()


def test_shapes_are_forgotten_after_a_minute_and_when_there_are_too_many() -> None:
    now_s, asked = [0.0], list[int]()

    def ask(texts: pl.Series) -> dict[str, Flags]:
        asked.append(len(texts))
        return {"@": texts.str.contains("@", literal=True).to_numpy()}

    known = shapes.Shapes(["@"], ask, now_s=lambda: now_s[0])
    texts = pa.array(["a@b", "c"] * 3)
    for seconds in (0.0, 59.0, 61.0):
        now_s[0] = seconds
        assert known.answers(texts).any().tolist() == [True, False] * 3
    assert asked == [2, 2]
    many = pa.array([f"{'xyz'[row % 3]}{bin(row)[2:].translate(str.maketrans('01', 'ab'))}" for row in range(60_000)])
    known.answers(many)
    known.answers(texts)
    assert asked[2:] == [60_000, 2]
    long = pa.array([f"{text}{'-' * 900}" for text in many[:20_000].to_pylist()])
    known.answers(long)
    known.answers(texts)
    assert asked[4:] == [20_000, 2]


def test_a_class_that_leaves_out_certain_digits_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves out certain digits"):
        shapes.zeroed_pattern("a[^1-5]b")


def test_no_texts_pass_nothing() -> None:
    assert not len(GATE.passed([pa.array([], pa.string())]).any)
    assert not len(WINDOWS.find(*string_bytes(pa.array(["", ""])))[0])
