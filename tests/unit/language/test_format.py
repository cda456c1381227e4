from __future__ import annotations

import pytest
from hypothesis import given

from heimdall_server.domain.expression.tree import Compare, Expression, Or, Query, Regex, Words
from heimdall_server.language.format import format_expression, format_query, normalise
from heimdall_server.language.parser import parse
from tests.support.random_records import BODY, expressions


@given(expressions)
def test_parsing_the_text_of_a_tree_gives_the_tree(tree: Expression) -> None:
    assert parse(format_expression(tree), now_ns=0).filter == normalise(tree)


@pytest.mark.parametrize(
    "text",
    [
        "*:*",
        "timeout",
        '"connection reset"',
        'service:"api" AND (severity:>=17 OR NOT _exists_:user)',
        "status:504 AND took:<=2.5 AND ok:true",
        'version:>=1.1 AND version:<=1.1 OR version:"1.10"',
        "ip:10.0.0.0/8",
        r"path:/^\/var\/log/",
        r"user:a\*b*",
        '"my key":"y"',
        '"hosts":"x"',
        "time:>=2026-01-01T00:00:00.000000000Z",
        "*:* | stats count() by service, bucket(time, 5m) | sort -count, service | limit 10",
        "*:* | stats quantile(took, 0.95), dc(user) as users by resource.region | where users:>5 | fields users",
        r"*:* | extract body /took (?P<ms>\d+)/ | where ms:>5 | stats avg(ms) as mean",
    ],
)
def test_canonical_text_is_a_fixed_point(text: str) -> None:
    canonical = format_query(parse(text, now_ns=0))
    assert canonical == text.replace("dc(", "count_distinct(")
    assert format_query(parse(canonical, now_ns=0)) == canonical


def test_a_reserved_word_is_quoted() -> None:
    for word in ("and", "or", "not"):
        assert parse(format_expression(Words(BODY, (word,))), now_ns=0).filter == Words(BODY, (word,))


def test_a_nested_or_of_one_is_unwrapped() -> None:
    leaf = Regex(BODY, "a/b\nc")
    assert isinstance(normalise(Or((Or((leaf,)),))), Regex)
    assert parse(format_query(Query(leaf)), now_ns=0).filter == Regex(BODY, "a/b\nc")


def test_numbers_keep_their_canonical_text() -> None:
    tree = parse("a:1e21 b:0.000001 c:123456789012345680", now_ns=0).filter
    assert parse(format_expression(tree), now_ns=0).filter == tree
    assert any(isinstance(each, Compare) for each in getattr(tree, "operands", ()))
