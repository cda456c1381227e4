from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.domain.expression.literals import number_text, parse_network, parse_number, words_of
from heimdall_server.domain.expression.patterns import (
    check_regex,
    escape,
    extract_pattern,
    phrase_regex,
    wildcard_regex,
    wildcard_runs,
    wildcard_words_regex,
)
from heimdall_server.language.lookup import spelt_numbers


def matches(pattern: str, text: str) -> bool:
    return bool(pc.match_substring_regex(pa.array([text]), pattern)[0].as_py())


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_back_from_its_text(number: float) -> None:
    assert parse_number(number_text(number)) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (200.0, "200"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (1e20, "100000000000000000000"),
        (1e21, "1e21"),
        (1e-6, "0.000001"),
        (1.2e-7, "1.2e-7"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_a_number_has_one_text(number: float, text: str) -> None:
    assert number_text(number) == text


@given(st.from_regex(re.compile(r"[+-]?[0-9]{0,3}\.?[0-9]{0,3}([eE][+-]?[0-9]{1,3})?", re.ASCII), fullmatch=True))
def test_texts_spell_the_same_numbers_in_columns_as_alone(text: str) -> None:
    (found,) = spelt_numbers(pa.array([text])).tolist()
    alone = parse_number(text)
    assert alone is None if found != found else found == alone  # noqa: PLR0124 # NaN is no number


def test_words_are_runs_of_letters_digits_and_non_ascii() -> None:
    assert words_of("Foo-bar_1 ÄÖ, 你好\u00a0x") == ("foo", "bar", "1", "ÄÖ", "你好\u00a0x")
    assert words_of("--- /") == ()


@given(st.text(max_size=20))
def test_an_escaped_text_matches_itself_only(text: str) -> None:
    if "\0" not in text:
        check_regex(escape(text) or "a")
    assert matches(rf"\A{escape(text)}\z", text)
    assert not matches(rf"\A{escape(text)}\z", text + "x")


@given(st.text(st.sampled_from("ab*?\\é."), max_size=8), st.text(st.sampled_from("ab*é.\\"), max_size=6))
def test_a_wildcard_matches_as_a_slow_matcher_says(pattern: str, text: str) -> None:
    assert matches(wildcard_regex(pattern), text) == slow_wildcard(pattern, text)


def slow_wildcard(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(slow_wildcard(pattern[1:], text[start:]) for start in range(len(text) + 1))
    literal = pattern[1] if pattern[0] == "\\" and len(pattern) > 1 else pattern[0]
    rest = pattern[2:] if pattern[0] == "\\" and len(pattern) > 1 else pattern[1:]
    fits = bool(text) and (pattern[0] == "?" or text[0] == literal)
    return fits and slow_wildcard(rest, text[1:])


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "ä"]), min_size=1, max_size=3),
    st.text(st.sampled_from("abäÄ -_"), max_size=12),
)
def test_a_phrase_is_consecutive_words(words: list[str], text: str) -> None:
    found = words_of(text)
    expected = any(list(found[start : start + len(words)]) == words for start in range(len(found)))
    assert matches(phrase_regex(words), text) is expected


def test_wildcards_of_words_keep_to_words() -> None:
    assert wildcard_words_regex("*") == ""
    assert wildcard_runs("Ti?me*out-é\\*x") == ("ti", "me", "out", "é", "x")
    assert matches(wildcard_words_regex("ti*t"), "a timeout b")
    assert not matches(wildcard_words_regex("ti*t"), "time out")
    assert not matches(wildcard_words_regex("ime*"), "time")


@pytest.mark.parametrize(
    ("pattern", "canonical", "names"),
    [
        ("(?<a>x)", "(?P<a>x)", ("a",)),
        (r"(a|b)\((?P<a>[(]\d)(?:c)(?i)", r"(?:a|b)\((?P<a>[(]\d)(?:c)(?i)", ("a",)),
        (r"\Q(x\E(?P<a>.)", r"\Q(x\E(?P<a>.)", ("a",)),
        ("[]()](?P<a>.)[[:alpha:](]", "[]()](?P<a>.)[[:alpha:](]", ("a",)),
    ],
)
def test_only_named_groups_capture(pattern: str, canonical: str, names: tuple[str, ...]) -> None:
    assert extract_pattern(pattern) == (canonical, names)
    assert extract_pattern(canonical) == (canonical, names)


@pytest.mark.parametrize("pattern", ["(", "abc", "(?P<a>.)" * 33, "(?P<1a>.)", "(?=a)(?P<b>.)", "a" * 2000])
def test_what_extract_cannot_use_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        extract_pattern(pattern)


@pytest.mark.parametrize(
    ("text", "canonical", "is_ipv4"),
    [
        ("10.1.2.3/8", "10.0.0.0/8", True),
        ("1.2.3.4", "1.2.3.4/32", True),
        ("2001:DB8::1/32", "2001:db8::/32", False),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8", True),
        ("::/0", "::/0", False),
    ],
)
def test_networks_have_one_text(text: str, canonical: str, is_ipv4: bool) -> None:
    network = parse_network(text)
    assert (network.text, network.is_ipv4) == (canonical, is_ipv4)


@pytest.mark.parametrize("text", ["10.0.0.0/33", "x", "", "1.2.3/8", "fe80::1%eth0/64", "010.0.0.0/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_network(text)
