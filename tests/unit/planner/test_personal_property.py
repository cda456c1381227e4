"""Whatever the value and wherever it stands: its record is found by the rewritten query, which doesn't tell the value."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.check import WORDS_MAX
from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.literals import words_of
from heimdall_server.domain.expression.tree import And, Compare, Exists, Expression, Not, Operator, Or, Query, Words
from heimdall_server.language.format import format_query, quote
from heimdall_server.language.predicate import compile_predicate
from tests.support.personal_search import Search
from tests.unit.protect.labelled_corpus import positives
from tests.unit.protect.reference import batch_of

EXACT = (
    "email",
    "phone",
    "card",
    "iban",
    "ssn",
    "ipv4",
    "ipv6",
    "crypto_wallet",
    "national_id",
    "passport",
    "birth_date",
    "bank_account",
)
"""Classes of which the corpus's value is what the rules find, to the character."""
AROUND = st.lists(
    st.sampled_from(["user", "from", "ok", "=", "(", ")", "[", "]", "#", ",", ";", "\t", " ", "ü", "中", "x1"]),
    max_size=5,
)
LOCALS = st.text(st.sampled_from(string.ascii_letters + string.digits + "._+-"), min_size=1, max_size=12)


def finds(search: Search, query: Query, record: dict[str, object]) -> bool:
    batch = search.protected(batch_of([record, {"body": "another"}]))
    found: list[bool] = compile_predicate(query.filter)(batch).to_pylist()
    assert not found[1]
    return found[0]


def shown(query: Query) -> str:
    return (repr(query) + format_query(query)).lower()


@pytest.mark.parametrize("data_class", EXACT)
def test_a_value_is_found_by_itself_in_its_line_and_as_its_line(search: Search, data_class: str) -> None:
    lines = [
        one for one in positives(data_class, 25, seed=random.randrange(10**6)) if len(words_of(one.line)) <= WORDS_MAX
    ]
    bodies = search.protected(batch_of([{"body": one.line} for one in lines])).column("body").to_pylist()
    for one, body in zip(lines, bodies, strict=True):
        if f"[{data_class}:" not in body:
            continue
        alone = search.asked(f"personal.{data_class}:{quote(one.value)}")
        assert finds(search, alone.query, {"body": one.line}), one
        line = search.asked(quote(one.line))
        assert finds(search, line.query, {"body": one.line}), one
        assert line.matched
        for query in (alone.query, alone.binding, line.query, line.binding):
            assert one.value.lower() not in shown(query)


@settings(max_examples=20, deadline=None)
@given(local=LOCALS, before=AROUND, after=AROUND, upper=st.booleans())
def test_a_mail_address_is_found_in_whatever_stands_around_it(
    search: Search, local: str, before: list[str], after: list[str], upper: bool
) -> None:
    value = f"q{local}z@mail.example.org"
    body = f"{''.join(before)} {value} {''.join(after)}"
    asked = value.upper() if upper else value
    for text in (quote(asked), f"email:{quote(asked)}"):
        rewritten = search.asked(text)
        assert finds(search, rewritten.query, {"body": body})
        assert finds(search, rewritten.query, {"body": "", "attributes": {"note": body}})
        assert value.lower() not in shown(rewritten.query)
        assert not finds(search, rewritten.query, {"body": body.replace("@mail", "@mails")})
    phrase = search.asked(quote(body))
    assert finds(search, phrase.query, {"body": body})
    assert value.lower() not in shown(phrase.query)
    field = search.asked(f"attributes.note:{quote(body)}")
    assert finds(search, field.query, {"body": "", "attributes": {"note": body}})
    assert value.lower() not in shown(field.query)


@settings(max_examples=60, deadline=None)
@given(octets=st.tuples(*[st.integers(0, 255)] * 4), bits=st.integers(14, 24))
def test_an_address_is_found_by_every_network_around_it(search: Search, octets: tuple[int, ...], bits: int) -> None:
    value = ".".join(map(str, octets))
    assume(search.values.find_personal(f"from {value} port"))
    rewritten = search.asked(f"ip:{value}/{bits}")
    assert finds(search, rewritten.query, {"body": f"from {value} port"})
    assert finds(search, rewritten.query, {"body": "", "attributes": {"client": value}})
    assert not finds(search, rewritten.query, {"body": f"from {octets[0] ^ 1}{value[len(str(octets[0])) :]} port"})


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=40),
    st.sampled_from(
        ["{}", "user:{}", "attributes.mail:{}", "email:{}", "phone:{}", "ip:{}", "service:{}", "* | where x = {}"]
    ),
)
def test_any_text_is_rewritten_or_refused(search: Search, text: str, form: str) -> None:
    try:
        rewritten = search.asked(form.format(quote(text)))
    except QuerySyntaxError:
        return
    assert (rewritten.query is rewritten.binding) <= (not rewritten.matched)
    assert search.terms.rewrite(rewritten.query).query == rewritten.query


VALUES = (
    "alice@example.com",
    "bob@example.org",
    "10.1.2.3",
    "2001:db8::1",
    "+4915112345678",
    "4111111111111111",
    "DE89370400440532013000",
)
TEXTS = st.builds(
    " ".join,
    st.lists(st.sampled_from((*VALUES, "from", "to", "ok")), min_size=1, max_size=4),
)
PHRASES = st.builds(
    lambda word, value: f"{word} {value}", st.sampled_from(("from", "to", "ok")), st.sampled_from((*VALUES, "ok"))
)
FIELDS = st.sampled_from(("service", "job", "attributes.job", "resource.owner"))
LEAVES = st.one_of(
    st.builds(lambda text: Words(resolve("body"), words_of(text), text), PHRASES),
    st.builds(lambda field, text: Compare(resolve(field), Operator.EQ, text), FIELDS, TEXTS),
    st.builds(lambda field: Exists(resolve(field)), FIELDS),
)
TREES: st.SearchStrategy[Expression] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda some: And(tuple(some)), st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda some: Or(tuple(some)), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "body": TEXTS,
            "service": TEXTS,
            "attributes": st.fixed_dictionaries({}, optional={"job": TEXTS}),
            "resource": st.fixed_dictionaries({}, optional={"owner": TEXTS, "job": TEXTS}),
        }
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(tree=TREES, records=RECORDS)
def test_a_rewritten_tree_finds_in_protected_records_what_the_tree_finds_in_plain_ones(
    search: Search, tree: Expression, records: list[dict[str, object]]
) -> None:
    plain = batch_of(records)
    wanted = compile_predicate(tree)(plain).to_pylist()
    rewritten = search.terms.rewrite(Query(tree))
    assert compile_predicate(rewritten.query.filter)(search.protected(plain)).to_pylist() == wanted
    assert not any(value.lower() in shown(rewritten.query) for value in VALUES)
