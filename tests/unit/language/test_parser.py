from __future__ import annotations

import string
from collections.abc import Collection

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.check import check_query
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.tree import (
    Aggregate,
    All,
    And,
    Bucket,
    Cidr,
    Compare,
    Expression,
    Function,
    Limit,
    Operator,
    Or,
    Query,
    Sort,
    SortKey,
    Stats,
    TimeLiteral,
    Wildcard,
    Words,
)
from heimdall_server.language.parser import QUERY_BYTES_MAX, parse

NOW_NS = 1_767_225_600_000_000_000
BODY = FieldRef(Scope.CORE, "body")
FRAGMENTS = (
    *("service:", "severity:", "time:", "body:", "user:", "trace_id:", '"my field":', "_exists_:", "http://", "12:30"),
    *(
        "api",
        "ERROR",
        "now-1h",
        "2026-01-01",
        "10.0.0.0/8",
        "::1",
        "1.10",
        "-5",
        "true",
        "*",
        "a*",
        "?",
        "/re/",
        "/re",
        '"',
        '"a b"',
    ),
    *(
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        " TO ",
        "AND",
        "OR",
        "NOT",
        "-",
        "!",
        "+",
        "&&",
        "||",
        "|",
        ">",
        ">=",
        "<",
        "=",
        ",",
        " ",
        "\\",
        "\n",
        ":",
    ),
    *(
        "| stats count()",
        "| where ",
        "| top 5 ",
        "| sort -",
        "| limit 3",
        "| fields ",
        "| timechart 1m count()",
        "p95(",
        " by ",
        " as ",
    ),
    *("| extract /(?P<ms>[0-9]+)/", "bucket(time, 1m)", "é", "\x01", "~2", "^3", "@timestamp", "k.dotted"),
)


def tree(text: str, known_fields: Collection[str] = ()) -> Expression:
    return parse(text, now_ns=NOW_NS, known_fields=known_fields).filter


def outcome(text: str, known_fields: Collection[str] = ()) -> Query | QuerySyntaxError:
    try:
        return parse(text, now_ns=NOW_NS, known_fields=known_fields)
    except QuerySyntaxError as error:
        return error


def refused(text: str) -> QuerySyntaxError:
    with pytest.raises(QuerySyntaxError) as caught:
        parse(text, now_ns=NOW_NS)
    return caught.value


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
@example("(" * 500)
@example("NOT " * 500)
@example("-" * 5000)
@example("service:(" * 100)
@example("[" * 100)
def test_any_text_is_a_good_tree_or_a_pointed_error(text: str) -> None:
    query = outcome(text)
    if isinstance(query, Query):
        check_query(query)
        return
    assert 0 <= query.column <= len(text)
    assert "^" in query.pointed()


@given(st.text(max_size=40), st.lists(st.text(max_size=5), max_size=3))
def test_any_characters_are_a_good_tree_or_an_error(text: str, known_fields: list[str]) -> None:
    query = outcome(text, known_fields)
    if isinstance(query, Query):
        check_query(query)
    else:
        assert 0 <= query.column <= len(text)


@given(st.text(string.printable + "äß你", max_size=30))
def test_a_quoted_text_is_that_text(text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert tree(f"user:{quoted}") == Compare(FieldRef(Scope.ANY, "user"), Operator.EQ, text)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("sevice:api", 0, "unknown field 'sevice': did you mean 'service'?"),
        ("a AND hosts:x", 6, "unknown field 'hosts': did you mean 'host'?"),
        ("tracid:x", 0, "did you mean 'trace_id'?"),
        ("(a OR b", 0, "the ) of this ( is missing"),
        ("a)", 1, "a ) without its ("),
        ('user:"alice', 5, 'a closing " is missing'),
        ("/var/log/app.log", 0, 'quote a path: "/var/log/app.log"'),
        ("file:/var/log", 5, 'quote a path: file:"/var/log"'),
        ("/a(/", 0, "not a regex (RE2): missing )"),
        ("/a(?=b)/", 0, "not a regex (RE2)"),
        ("ip:10.0.0.0/99", 3, "not an IP network"),
        ("severity:EROR", 9, "unknown severity 'EROR': did you mean 'error'?"),
        ("time:yesterday", 5, "not a time"),
        ("flags:x", 6, "flags is a number, and this isn't one"),
        ("status:[1 TO 2", 7, "the closing ] or } of this range is missing"),
        ("status:[1 2]", 7, "TO is missing in this range"),
        ("status:[1 TO b]", 8, "one end of the range is a number and the other a text"),
        ("ok:>true", 4, "true and false have no order"),
        ("severity:err*", 9, "severity is a severity, which a wildcard can't match"),
        ("trace_id:abc", 9, "trace_id is 32 hex digits"),
        ("body:>a", 6, "body holds words, which have no order"),
        ("---", 2, "nothing stands behind '-'"),
        ('"---"', 0, "no word to search for"),
        ('"a b"~3', 5, "something stands right behind the closing quote"),
        ("service:", 8, "a value is missing behind service:"),
        ("AND a", 0, "AND needs a term on each side"),
        ("a OR", 4, "a term is missing here"),
        ("a | stat count()", 4, "unknown stage 'stat': did you mean 'stats'?"),
        ("| stats cuont()", 8, "unknown function 'cuont': did you mean 'count'?"),
        ("| stats sum(service)", 8, "sum needs numbers, and service is keyword"),
        ("| stats count() by sevice", 19, "unknown field 'sevice': did you mean 'service'?"),
        ("| stats count() by service | sort -cuont", 35, "unknown column 'cuont': did you mean 'count'?"),
        ("| stats count() by service | where host:x", 35, "unknown column 'host'"),
        ("| stats count() by service | where api", 35, "there is no body to search here"),
        ("| stats count(), count()", 7, "two columns would be named 'count'"),
        ("| stats quantile(took, 2)", 23, "a quantile's level lies between 0 and 1"),
        ("| stats count() by bucket(time, 5x)", 32, "not an interval"),
        ("| fields service | where host:x", 25, "unknown column 'host'"),
        ("| limit 0", 8, "a limit lies between 1 and"),
        ("| extract /no group/", 10, "it has no named group"),
        ("| extract /(?P<service>.)/", 10, "a field is named 'service' already"),
        ("| where", 7, "where needs a condition"),
        ("a |", 3, "a stage is missing behind |"),
        ("| limit 5 nonsense", 10, "this isn't understood here"),
        ("a\0b", 1, "a character that no text has"),
    ],
)
def test_an_error_points_at_its_place_and_helps(text: str, column: int, message: str) -> None:
    error = refused(text)
    assert message in str(error)
    assert error.column == column


def test_the_caret_stands_under_the_problem() -> None:
    assert refused("service:api\nsevice:x").pointed() == "sevice:x\n^"


def test_a_known_field_is_never_taken_for_a_misspelt_one() -> None:
    assert tree("hosts:x", known_fields=["hosts"]) == Compare(FieldRef(Scope.ANY, "hosts"), Operator.EQ, "x")
    assert tree("attributes.hosts:x") == Compare(FieldRef(Scope.ATTRIBUTES, "hosts"), Operator.EQ, "x")
    assert tree('"hosts":x') == Compare(FieldRef(Scope.ANY, "hosts"), Operator.EQ, "x")


@pytest.mark.parametrize("name", ["source_ip", "service_id", "user", "port", "cost", "type", "k8s.pod", "rows_sent"])
def test_a_plain_attribute_is_no_misspelt_field(name: str) -> None:
    assert tree(f"{name}:x") == Compare(FieldRef(Scope.ANY, name), Operator.EQ, "x")


def test_an_unknown_name_before_slashes_is_text_unless_it_is_known() -> None:
    assert tree("http://a") == Words(BODY, ("http", "a"))
    assert refused("service://a").column == 8
    assert isinstance(tree("std::string"), Words)
    assert tree("peer:::1") == Compare(FieldRef(Scope.ANY, "peer"), Operator.EQ, "::1")


def test_with_a_catalogue_an_unknown_name_before_a_number_is_text_as_well() -> None:
    field = Compare(FieldRef(Scope.ANY, "code"), Operator.EQ, 7.0)
    assert tree("code:7", known_fields=["user"]) == Or((field, Words(BODY, ("code", "7"))))
    assert tree("code:7", known_fields=["code"]) == field
    assert tree("code:7") == field


def test_and_binds_tighter_than_or_and_nests_flat() -> None:
    a, b, c = (Words(BODY, (word,)) for word in "abc")
    assert tree("a OR b c") == Or((a, And((b, c))))
    assert tree("(a AND b) c") == And((a, b, c))
    assert tree("a OR (b OR c)") == Or((a, b, c))


def test_only_capitals_are_operators() -> None:
    assert tree("a and b") == And((Words(BODY, ("a",)), Words(BODY, ("and",)), Words(BODY, ("b",))))


def test_backslashes_make_characters_plain() -> None:
    assert tree("user:a\\ b\\*c") == Compare(FieldRef(Scope.ANY, "user"), Operator.EQ, "a b*c")
    assert tree("user:a\\*b*") == Wildcard(FieldRef(Scope.ANY, "user"), "a\\*b*")
    assert tree('path:"C:\\temp\\new"') == Compare(FieldRef(Scope.ANY, "path"), Operator.EQ, "C:\\temp\\new")


def test_networks_are_canonical() -> None:
    assert tree("ip:10.1.2.3/8") == Cidr(FieldRef(Scope.ANY, "ip"), "10.0.0.0/8")
    assert tree("ip:(2001:DB8::/32)") == Cidr(FieldRef(Scope.ANY, "ip"), "2001:db8::/32")
    assert tree("path:a/8") == Compare(FieldRef(Scope.ANY, "path"), Operator.EQ, "a/8")


def test_times_go_by_the_edges_of_what_is_written() -> None:
    field = FieldRef(Scope.CORE, "time")
    day = (TimeLiteral(NOW_NS), TimeLiteral(NOW_NS + 86_400 * 10**9))
    assert tree("time:2026-01-01") == And((Compare(field, Operator.GE, day[0]), Compare(field, Operator.LT, day[1])))
    assert tree("time:>2026-01-01") == Compare(field, Operator.GE, day[1])
    assert tree("time:<=2026-01-01") == Compare(field, Operator.LT, day[1])
    assert tree("time:now-1h") == Compare(field, Operator.EQ, TimeLiteral(NOW_NS - 3600 * 10**9))
    assert tree("@timestamp:>=1767225600") == Compare(field, Operator.GE, day[0])


def test_stages_become_what_they_mean() -> None:
    count = Aggregate(Function.COUNT, None, "count")
    service, user = FieldRef(Scope.CORE, "service"), FieldRef(Scope.ANY, "user")

    def computed(name: str) -> FieldRef:
        return FieldRef(Scope.COMPUTED, name)

    assert parse("| top 3 user by service", now_ns=0) == Query(
        All(),
        (
            Stats((count,), (user, service)),
            Sort(
                (SortKey(computed("count"), descending=True), SortKey(computed("user")), SortKey(computed("service")))
            ),
            Limit(3),
        ),
    )
    assert parse("| timechart span=5m count() by service", now_ns=0).stages == (
        Stats((count,), (Bucket(300 * 10**9), service)),
        Sort((SortKey(computed("time")),)),
    )
    assert parse("| stats p99.9(took) by level | sort -level, +p99.9_took", now_ns=0).stages == (
        Stats(
            (Aggregate(Function.QUANTILE, FieldRef(Scope.ANY, "took"), "p99.9_took", 0.9990000000000001),),
            (FieldRef(Scope.CORE, "severity"),),
        ),
        Sort((SortKey(computed("severity"), descending=True), SortKey(computed("p99.9_took")))),
    )


def test_queries_are_bounded() -> None:
    assert "longer than" in str(refused("a" * (QUERY_BYTES_MAX + 1)))
    assert "more than 1000 terms" in str(refused("a " * 1001))
    assert "nested more than 64 deep" in str(refused("(" * 70 + "a" + ")" * 70))
    assert "nested more than 64 deep" in str(refused("NOT " * 65 + "a"))
    assert "longer than 1024 characters" in str(refused("/" + "a" * 1025 + "/"))
    assert "invalid repetition size" in str(refused("/(a{1000}){1000}/"))
    assert "a name has 1 to 256 characters" in str(refused("a" * 257 + ":x"))
    assert "a name has 1 to 256 characters" in str(refused('| stats count() as ""'))
    assert len(str(refused("severity:" + "x" * 60_000))) < 800
    assert "more than 32 stages" in str(refused("| limit 1 " * 33))
