"""Queries that tokens can't answer: refused, by a message that names the field and never the value."""

from __future__ import annotations

import pytest

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.language.parser import parse
from tests.support.personal_search import Search


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("email:*@example.com", "email"),
        ("email:alice@exam?le.com", "email"),
        ("email:/alice.*/", "email"),
        ("email:>alice@example.com", "email"),
        ("email:[alice@example.com TO bob@example.com]", "email"),
        ("email:*", "email"),
        ("NOT email:*", "email"),
        ("_exists_:email", "email"),
        ("_exists_:personal.name", "personal.name"),
        ("* | where _exists_:phone", "phone"),
        ("phone:>=4915112345678", "phone"),
        ("personal.name:Al*", "personal.name"),
        ("attributes.email:*@example.com", "attributes.email"),
        ("mail:/.*@example.com/", "mail"),
        ("credit_card:>4111111111111111", "credit_card"),
        ("*alice@example.com*", "body"),
        (r"/alice@example\.com/", "body"),
        (r"/^(?:From )?(alice)@example[.]com$/", "body"),
        (r"user:/^\+4915112345678$/", "user"),
        ("user:alice@example.com*", "user"),
        ("user:>alice@example.com", "user"),
        ("user:[alice@example.com TO *]", "user"),
        ("user:>4111111111111111", "user"),
        ("body:*de89370400440532013000*", "body"),
        ("ip:10.0.0.0/8", "ip"),
        ("ip:10.1.2.128/25", "ip"),
        ("ip:2001:db8::/32", "ip"),
        ("ip:2001:db8::/64", "ip"),
        ("client:10.1.2.0/24", "client"),
        ("host:10.1.2.0/24", "host"),
        ("host:10.1.2.3*", "host"),
        ("attributes.ip:10.1.2.0/24", "attributes.ip"),
        ('tokens:"from alice@example.com"', "tokens"),
        (r"* | extract body /(?P<to>to) alice@example\.com/", "body"),
        ("* | where user:*alice@example.com*", "user"),
    ],
)
def test_what_tokens_cannot_tell_is_refused_and_the_refusal_names_the_field_alone(
    search: Search, text: str, field: str
) -> None:
    with pytest.raises(QuerySyntaxError) as refused:
        search.asked(text)
    error = refused.value
    assert (error.text, error.column) == (f"{field}:…", 0)
    shown = repr(error) + str(error) + error.pointed()
    for secret in ("alice", "bob", "4915112345678", "411111", "de8937", "DE8937", "10.1", "10.0", "db8"):
        assert secret not in shown


@pytest.mark.parametrize(
    "text",
    [
        "attributes.alice@example.com:admin",
        '"alice@example.com":admin',
        "_exists_:resource.alice@example.com",
        "* | stats count() by attributes.alice@example.com",
        '* | stats count() as "alice@example.com"',
        '* | stats count() by bucket(time, 1m) as "alice@example.com"',
        '* | sort "alice@example.com"',
        '* | fields time, "alice@example.com"',
        '* | extract "alice@example.com" /(?P<x>.)/',
        '* | stats sum("alice@example.com") as n',
    ],
)
def test_a_name_that_is_a_personal_value_is_refused_without_naming_it(search: Search, text: str) -> None:
    with pytest.raises(QuerySyntaxError) as refused:
        search.asked(text)
    assert "alice" not in repr(refused.value) + str(refused.value) + refused.value.pointed()


def test_a_parameter_of_structured_data_is_a_name_like_others(search: Search) -> None:
    query = parse("exampleSDID@32473.eventSource:app", now_ns=0)
    assert search.terms.rewrite(query).query is query


def test_no_networks_are_found_where_no_prefix_is_kept(ring: Keyring) -> None:
    search = Search.of(ring, prefixes=(0, 48))
    with pytest.raises(QuerySyntaxError, match="no networks are kept"):
        search.asked("ip:10.1.2.0/24")
    assert search.asked("ip:2001:db8::/48").matched
