"""What is found in many texts at once is what the rules' checks say of each."""

from __future__ import annotations

import random
from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pytest

from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.rules import Rule
from heimdall_server.protect.spans import PLACE, Spans, large, spliced

FOUND = [rule for rule in RULES if rule.finder is not None]
PIECES = (
    "4111111111111111", "5555555555554444", "378282246310005", "6011000990139424", "4222222222222", "4111111111111112", "9999999999999999",
    "4000 4000 0000 0004 4000", "4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005", "3782-822463-10005", "4111", "1111", "822463", "10005", "123", "1234567890123",
    "+1 202 555 0123", "+49 30 1234567", "(202) 555-0123", "202-555-0123", "202.555.0123", "0049 30 1234567", "+4930123456789", "+49 (0)30 1234567",
    "+1 (202) 555-0123", "a.+49 30 1234567", "x-+4930123456", "00", "0", "DE89", "DE89 3704 ", "gb29", "é", "€", "😀", "(", ")", "+", "-", ".", ",",
    " ", "  ", "_", "]", "[", "{", '"', ": ", ':"', "\\", "\\n", "\\\\t", "\\\\\\\\\\\\\\\\r", "\n", "\t", "a", "n", "Z", "5", PLACE, "\ue004", "",
)  # fmt: skip


def singly(rule: Rule, texts: Sequence[str]) -> list[tuple[int, int, int]]:
    return [
        (row, start, end)
        for row, text in enumerate(texts)
        for _, start, end in spans_of(rule.spans(pl.Series([text], dtype=pl.String)))
    ]


def spans_of(spans: Spans) -> list[tuple[int, int, int]]:
    return list(zip(spans.rows.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True))


@pytest.mark.parametrize("rule", FOUND, ids=lambda rule: rule.name)
@pytest.mark.parametrize("pieces", [3, 9])
def test_many_texts_have_the_spans_that_each_has(rule: Rule, pieces: int) -> None:
    draw = random.Random(f"{rule.name} {pieces}")
    texts = ["".join(draw.choices(PIECES, k=draw.randrange(pieces + 1))) for _ in range(6000)]
    assert spans_of(rule.spans(pl.Series(texts, dtype=pl.String))) == singly(rule, texts)


@pytest.mark.parametrize("rule", FOUND, ids=lambda rule: rule.name)
def test_a_piece_of_a_column_is_searched_as_a_column_is(rule: Rule) -> None:
    draw = random.Random(rule.name)
    texts = ["".join(draw.choices(PIECES, k=4)) for _ in range(300)]
    column = pl.Series(["4111111111111111 +49 30 1234567", *texts, "1"], dtype=pl.String)
    assert spans_of(rule.spans(column[1:-1])) == spans_of(rule.spans(pl.Series(texts, dtype=pl.String)))


@pytest.mark.parametrize("rule", FOUND, ids=lambda rule: rule.name)
@pytest.mark.parametrize("text", ["", "x", "1", "4", "\\", "("])
def test_texts_without_a_number_have_no_spans(rule: Rule, text: str) -> None:
    assert not len(rule.spans(pl.Series([text] * 200, dtype=pl.String)))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("paid with 4111111111111111.", True),
        ("paid with 4111 1111 1111 1111, thanks", True),
        ("order 4111111111111112", True),
        ("two: 4111111111111111, 5555555555554444", True),
        ("0.4111111111111111", False),
        ("DE89 4111111111111111", False),
        ("4000 4000 0000 0004 4000", False),
    ],
)
def test_what_is_plain_needs_no_check(text: str, plain: bool) -> None:
    rule = next(rule for rule in RULES if rule.name == "card")
    assert rule.finder is not None
    assert rule.finder(large(pl.Series([text], dtype=pl.String)))[1].tolist() == [not plain]


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("first", [0, 5])
def test_spans_are_replaced_in_a_column_as_in_each_text(first: int, one: bool) -> None:
    draw = random.Random(f"{first} {one}")
    texts = ["".join(draw.choices("ab\u00e9\u20ac", k=draw.randrange(9))).encode() for _ in range(200)]
    found: list[tuple[int, int, int]] = []
    wanted: list[str] = []
    stood: list[str] = []
    inserts = ["[x]" if one else "\u00fc" * draw.randrange(3) for _ in range(2000)]
    for row, text in enumerate(texts[first:]):
        bounds = [at for at in range(len(text) + 1) if at == len(text) or text[at] & 0xC0 != 0x80]
        chosen = sorted(draw.sample(bounds, 2 * draw.randrange(len(bounds) // 2 + 1)))
        written, copied = b"", 0
        for start, end in zip(chosen[::2], chosen[1::2], strict=True):
            written += text[copied:start] + inserts[len(found)].encode()
            stood.append(text[start:end].decode())
            found.append((row, start, end))
            copied = end
        wanted.append((written + text[copied:]).decode())
    column = pa.array([text.decode() for text in texts], pa.large_string()).slice(first)
    array = pa.array(inserts[:1] if one else inserts[: len(found)], pa.large_string())
    after, taken = spliced(column, Spans.of(found), array)
    after.validate(full=True)
    assert after.to_pylist() == wanted
    assert taken.to_pylist() == stood


def test_nothing_to_replace_leaves_a_column() -> None:
    column = pa.array(["a", "", "b"], pa.large_string())
    after, taken = spliced(column.slice(1), Spans.of(()), pa.array([], pa.large_string()))
    assert after.to_pylist() == ["", "b"]
    assert not len(taken)
