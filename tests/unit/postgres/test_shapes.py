"""Statements and plans as the slow log tells them: whatever they were asked with isn't there."""
# ruff: noqa: S608 - nothing of it is run

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.storage.postgres.shapes import plan_without_values, shape_of

VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).map(
    lambda text: f"QZ{text}ZQ"
)
CYPHER = "SELECT * FROM ag_catalog.cypher('heimdall_graph', $q0${}$q0$) AS (c0 ag_catalog.agtype) LIMIT 11"


@given(VALUE)
def test_no_literal_of_sql_is_left(value: str) -> None:
    plain, escaped = value.replace("'", "''"), value.replace("\\", "\\\\").replace("'", "\\'")
    statement = (
        f"SELECT a, 17.5e3 FROM t /* {value.replace('*/', '')} */ WHERE b = '{plain}' AND c = E'{escaped}' "
        f"AND d = $x${value.replace('$x$', '')}$x$ AND e IN (1, 2, 3) LIMIT 201"
    )
    text = shape_of(statement).text
    assert "QZ" not in text
    assert text == "SELECT a, ? FROM t WHERE b = ? AND c = ? AND d = ? AND e IN (?) LIMIT ?"


@given(VALUE)
def test_no_literal_and_no_chosen_name_of_cypher_is_left(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace("'", "\\'").replace("$q0$", "")
    text = f"MATCH (qzalice:Entity {{value: '{quoted}'}})<-[:OF_ENTITY]-(s) WHERE s.day > 12 RETURN count(s) AS qzbob, qzalice.value"
    shape = shape_of(CYPHER.format(text))
    assert shape.is_cypher
    assert "qz" not in shape.text.lower()
    assert (
        "MATCH (n1:Entity {value: ?})<-[:OF_ENTITY]-(n2) WHERE n2.day > ? RETURN count(n2) AS n3, n1.value"
        in shape.text
    )


@given(st.text(max_size=60))
def test_any_text_has_a_shape_without_its_strings(text: str) -> None:
    assert "planted" not in shape_of(f"SELECT 'planted' || {text}").text.split("||")[0]
    assert "planted" not in shape_of(CYPHER.format(f"RETURN 'planted', {text}".replace("$", ""))).text


def test_what_no_quote_closes_is_cut() -> None:
    assert shape_of("SELECT a WHERE b = 'secret and no end").text == "SELECT a WHERE b = …"
    assert shape_of(CYPHER.format('MATCH (n) WHERE n.value = "secret')).text.endswith(
        "$$) AS (c0 ag_catalog.agtype) LIMIT ?"
    )


def test_statements_that_differ_in_values_have_one_fingerprint() -> None:
    one, other = shape_of("SELECT a FROM t WHERE b = 'x' LIMIT 5"), shape_of("select a FROM t WHERE b = 'y' LIMIT 7")
    assert one.fingerprint == shape_of("SELECT  a\nFROM t WHERE b = 'longer' LIMIT 90").fingerprint
    assert one.fingerprint != other.fingerprint


def test_conditions_of_plans_have_no_constants_and_those_of_cypher_are_not_told() -> None:
    node = {"Node Type": "Seq Scan", "Relation Name": "t", "Alias": "alice", "Filter": "(word = 'secret'::text)"}
    plan = [
        {"Plan": {**node, "Plans": [{"Node Type": "Sort", "Sort Key": ["secretly", "'secret'"], "New": "'secret'"}]}}
    ]
    ours = json.loads(plan_without_values(plan))[0]["Plan"]
    assert ours["Filter"] == "(word = ?::text)"
    assert ours["Plans"][0]["Sort Key"] == ["secretly", "?"]
    cypher = plan_without_values(plan, is_cypher=True)
    assert "secret" not in cypher
    assert "alice" not in cypher
    assert "Seq Scan" in cypher
