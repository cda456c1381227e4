"""What of a query asks the graph, in every form that it may come in; what can't be asked so."""

from __future__ import annotations

import pytest

from heimdall_server.canonical.entity_sets import entity_set
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import FieldRef, Scope
from heimdall_server.domain.expression.needs import query_needs
from heimdall_server.domain.expression.tree import All, Compare, Holds, Operator, Query, TimeRange
from heimdall_server.domain.graph_sets import GraphTerm
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql
from heimdall_server.planner.graph_terms import graph_terms, records_holding, with_sets
from heimdall_server.services.query.translate.tree import query_in, query_out

FORUM = GraphTerm("sighted_in", "forum-2026-03")
C2 = GraphTerm("entity_label", "c2")
WORD = "1" + "a" * 26
ADDRESS = entity_set({"ipv4": ["203.0.113.7"]})
PERSON = entity_set({"email": [f"[email:{WORD}]"]})


def test_terms_are_found_wherever_a_filter_stands_and_each_once() -> None:
    text = "(sighted_in:forum-2026-03 OR NOT entity_label:c2) service:api | where sighted_in:forum-2026-03 | limit 5"
    query = parse(text, now_ns=0)
    assert set(graph_terms(query)) == {FORUM, C2}
    sql = parse_sql("SELECT host FROM logs WHERE sighted_in = 'forum-2026-03'", now_ns=0)
    assert graph_terms(sql) == (FORUM,)
    assert graph_terms(query_in(query_out(query))) == graph_terms(query)
    assert graph_terms(parse("tlp:red attributes.sighted_in:x resource.entity_label:y", now_ns=0)) == ()
    assert graph_terms(parse("sighted_in:2024", now_ns=0)) == (GraphTerm("sighted_in", "2024"),), "a name, no number"
    assert graph_terms(parse("entity_tlp:amber+strict", now_ns=0)) == (GraphTerm("entity_tlp", "amber+strict"),)


def test_sets_stand_in_place_of_terms_and_text_and_wire_show_the_terms() -> None:
    query = parse("sighted_in:forum-2026-03 service:api | where NOT entity_label:c2", now_ns=0)
    filled = with_sets(query, {FORUM: ADDRESS, C2: PERSON})
    assert format_query(filled) == format_query(query)
    assert query_out(filled) == query_out(query)
    assert "203.0.113.7" not in repr(filled)
    assert set(graph_terms(filled)) == {FORUM, C2}
    assert with_sets(query, {}) is query


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sighted_in:forum-*", "with one name"),
        ("sighted_in:/forum/", "with one name"),
        ("_exists_:sighted_in", "with one name"),
        ("sighted_in:>forum", "with one name"),
        ("sighted_in:10.0.0.0/8", "with one name"),
        ("entity_tlp:pink", "with a marking"),
        ("* | stats count() by sighted_in", "filters and where only"),
        ("* | fields sighted_in", "filters and where only"),
        ("* | sort entity_label", "filters and where only"),
    ],
)
def test_what_the_graph_cant_be_asked_is_refused_with_what_to_do(text: str, told: str) -> None:
    with pytest.raises(QuerySyntaxError, match=told):
        graph_terms(parse(text, now_ns=0))
    with pytest.raises(QuerySyntaxError):
        parse("* | stats count() as n | where sighted_in:x", now_ns=0)


def test_a_tree_that_names_what_the_graph_doesnt_know_is_refused() -> None:
    query = Query(Compare(FieldRef(Scope.GRAPH, "owner"), Operator.EQ, "x"))
    with pytest.raises(QuerySyntaxError, match="can be asked entity_label"):
        graph_terms(query)


def test_only_sets_of_words_alone_are_told_by_an_index() -> None:
    ref = FieldRef(Scope.GRAPH, "sighted_in")
    assert query_needs(Query(Holds(ref, "x", PERSON))).words == (WORD,)
    assert query_needs(Query(Holds(ref, "x", ADDRESS))).words == ()
    assert (
        query_needs(Query(Holds(ref, "x", entity_set({"ipv4": ["203.0.113.7"], "email": [f"[email:{WORD}]"]})))).words
        == ()
    )
    asked = records_holding(ADDRESS, TimeRange(1, 2), through={0: 9}, filter_=All())
    assert asked.through == {0: 9}
