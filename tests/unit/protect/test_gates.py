from __future__ import annotations

import random
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.columns import string_bytes
from heimdall_server.protect.gates import Gate
from heimdall_server.protect.rules import SPARSE
from heimdall_server.protect.stems import folded, literals
from heimdall_server.protect.windows import Windows, suits

STEMS = tuple(dict.fromkeys(stem for rule in RULES if rule.group == SPARSE for stem in rule.stems))
SUITING = tuple(filter(suits, STEMS))
WINDOWS = Windows(SUITING)
GATE = Gate(RULES)


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


def test_a_large_column_passes_as_its_pieces_do() -> None:
    draw = random.Random(7)
    words = [
        "dob: 1985-03-12",
        "passport no C1234567",
        "lat=48.85661",
        "order",
        "status 200",
        "a@b.example",
        "x" * 90,
        "11.22.33-444.55",
    ]
    texts = [" ".join(draw.choices(words, k=2)) for _ in range(40_000)]
    whole = GATE.passed([pa.array(texts, pa.string())])
    assert whole.labelled is None
    pieces = [GATE.passed([pa.array(texts[start : start + 500], pa.string())]) for start in range(0, len(texts), 500)]
    assert all(piece.labelled is not None for piece in pieces)
    assert np.array_equal(whole.any, np.concatenate([piece.any for piece in pieces]))


def test_texts_that_are_mostly_alike_are_asked_once_and_answered_each() -> None:
    texts = [("eu-west-1", "a@b.example", "dob: 1985-03-12")[row % 3] for row in range(5000)]
    passed = GATE.passed([pa.array(["x"] * 10), pa.array(texts, pa.string())])
    assert passed.any.tolist() == [False] * 10 + [row % 3 > 0 for row in range(5000)]
    assert passed.labelled is not None
    assert passed.labelled.tolist() == [False] * 10 + [row % 3 > 1 for row in range(5000)]


def test_no_texts_pass_nothing() -> None:
    assert not len(GATE.passed([pa.array([], pa.string())]).any)
    assert not len(WINDOWS.find(*string_bytes(pa.array(["", ""])))[0])
