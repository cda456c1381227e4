"""What is left alone, and what a policy that keeps some values and tokenises others makes of a query."""

from __future__ import annotations

import pytest

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import CORE_FIELDS, FieldKind, resolve
from heimdall_server.domain.expression.tree import Compare, Operator, Or
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.planner.personal_knowledge import PROTECTED_FIELDS
from heimdall_server.protect.policy import DEFAULT_KEYED_RULES, PrivacyPolicy, PrivacyRule
from tests.support.personal_search import Search
from tests.unit.protect.reference import batch_of

ALICE = "alice@example.com"


def equal(field: str, *texts: str | float) -> Compare | Or:
    found = tuple(Compare(resolve(field), Operator.EQ, text) for text in texts)
    return found[0] if len(found) == 1 else Or(found)


@pytest.mark.parametrize(
    "text",
    [
        "service:api AND timeout",
        "name:nginx",
        "card:visa",
        "geo:berlin",
        "ip:localhost",
        "_exists_:attributes.email",
        "attributes.email:*",
        "* | fields time, email | where email:*",
        "* | stats count() by email | where _exists_:email",
        "email:true",
        "phone:true",
        'source:"alice@example.com"',
        'dataset:"alice@example.com"',
        "source:10.0.0.0/8",
        "time:>2026-01-01 severity:>=WARN",
        "status:>=500",
        "latency:12.5",
        "alice@*",
        "user:al* path:/v[0-9]+/",
        '"order 4111111111111112"',
        "trace_id:0123456789abcdef0123456789abcdef",
        'email:""',
        'attributes.mail:""',
        'attributes.mail:"[email]"',
        'email:"[hash:email:0123456789abcdef0123456789abcdef]"',
        'mail:"[enc:email:AbC-_9]"',
        '"[hash:email:0123456789abcdef0123456789abcdef]"',
        "* | stats count() by email, bucket(time, 1m) | sort -count | fields email",
        "* | stats avg(ms) as phone by source | where phone > 5 | where source:10.0.0.0/8 | limit 3",
        "* | extract body /user=(?P<who>[^ ]+)/ | where who:al*",
    ],
)
def test_what_is_not_personal_stays_the_same_object_and_needs_no_permission(search: Search, text: str) -> None:
    query = parse(text, now_ns=0)
    rewritten = search.terms.rewrite(query)
    assert rewritten.query is query
    assert rewritten.binding is query
    assert rewritten.matched == ()


def test_classes_that_are_never_tokenised_are_left_alone(ring: Keyring) -> None:
    search = Search.of(ring, PrivacyPolicy(rules=DEFAULT_KEYED_RULES))
    for text in (
        "ip:10.1.2.3",
        "ip:10.0.0.0/8",
        "10.1.2.3",
        "client:10.1.2.0/25",
        'password:"hunter2"',
        "ip:>10.0.0.0",
    ):
        assert search.asked(text).matched == ()
        assert search.rewritten(text) == parse(text, now_ns=0)
    assert search.rewritten("email:alice@example.com").filter == search.anywhere(("email", ALICE))


def test_the_policy_in_force_decides_at_each_call(ring: Keyring) -> None:
    search = Search.of(ring, PrivacyPolicy(rules=DEFAULT_KEYED_RULES))
    assert not search.asked("ip:10.1.2.3").matched
    search.protector.replace(PrivacyPolicy(version=2, rules=(PrivacyRule("tokenise"),)))
    assert search.asked("ip:10.1.2.3").matched


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("email:Alice@example.com", 'email:"Alice@example.com" OR "alice example com"'),
        (
            "phone:+4915112345678",
            'phone:>=4915112345678 AND phone:<=4915112345678 OR phone:"+4915112345678" OR 4915112345678',
        ),
        ('personal.name:"Ada Lovelace"', 'personal.name:"Ada Lovelace" OR "ada lovelace"'),
        ("ip:10.1.2.3", 'ip:"10.1.2.3" OR "10 1 2 3"'),
        ("alice@example.com", '"alice example com"'),
        ('"mail alice@example.com"', '"mail alice example com"'),
        ("mail:alice@example.com", 'mail:"alice@example.com"'),
        ("user:alice@example.com", 'user:"alice@example.com"'),
        ("ip:10.1.2.0/24", "ip:10.1.2.0/24"),
        ("amount:4111111111111111", "amount:4111111111111111"),
    ],
)
def test_what_may_be_kept_is_asked_for_in_plain_too_and_never_bound(mixed: Search, text: str, plain: str) -> None:
    rewritten = mixed.asked(text)
    assert format_query(rewritten.query).endswith(f" OR {plain}")
    assert plain not in format_query(rewritten.binding)
    assert len(rewritten.matched) == 1


def test_a_text_with_classes_that_may_be_kept_apart_is_asked_for_in_every_mixture(ring: Keyring) -> None:
    search = Search.of(ring, PrivacyPolicy(rules=(PrivacyRule("keep", "ip*", field="job"), PrivacyRule("tokenise"))))
    email, ip = search.token("email", ALICE), search.token("ipv4", "10.1.2.3")
    assert search.rewritten('job:"alice@example.com 10.1.2.3"').filter == equal(
        "job", f"{email} {ip}", f"{email} 10.1.2.3"
    )


def test_an_address_that_names_the_host_is_asked_for_as_the_policy_treats_it_there(ring: Keyring) -> None:
    batch = batch_of([{"host": "10.1.2.3"}])
    tokenising = Search.of(
        ring, PrivacyPolicy(rules=(PrivacyRule("tokenise", "ip*", field="host"), PrivacyRule("keep")))
    )
    (stored,) = tokenising.protected(batch).select(["host", "tokens"]).to_pylist()
    token = tokenising.token("ipv4", "10.1.2.3")
    assert stored["host"] == token
    assert tokenising.word("ipv4", "10.1.2.3") in stored["tokens"].split()
    assert tokenising.rewritten("host:10.1.2.3").filter == equal("host", token, "10.1.2.3")
    assert tokenising.word("ipv4", "10.1.2.3") in format_query(tokenising.rewritten("ip:10.1.2.3"))
    assert Search.of(ring).rewritten("host:10.1.2.3").filter == equal("host", token)
    default = Search.of(ring, PrivacyPolicy(rules=DEFAULT_KEYED_RULES))
    assert default.protected(batch).column("host").to_pylist() == ["10.1.2.3"]
    assert default.rewritten("host:10.1.2.3") == parse("host:10.1.2.3", now_ns=0)


def test_a_network_in_another_field_is_asked_for_where_addresses_may_be_kept(mixed: Search) -> None:
    query = parse("client:10.1.2.0/24", now_ns=0)
    assert mixed.terms.rewrite(query).query is query


def test_a_network_in_another_field_is_refused_only_if_no_policy_so_far_kept_addresses(ring: Keyring) -> None:
    search = Search.of(ring)
    with pytest.raises(QuerySyntaxError, match="ask ip:ADDRESS/BITS"):
        search.asked("client_ip:198.51.100.0/24")
    once_kept = Search.of(ring, PrivacyPolicy(rules=DEFAULT_KEYED_RULES))
    once_kept.protector.replace(PrivacyPolicy(version=2, rules=(PrivacyRule("tokenise"),)))
    query = parse("client_ip:198.51.100.0/24", now_ns=0)
    assert once_kept.terms.rewrite(query).query is query


def test_the_fields_that_are_rewritten_are_those_that_are_protected(search: Search) -> None:
    keywords = {name for name, kind in CORE_FIELDS.items() if kind in (FieldKind.KEYWORD, FieldKind.TEXT)} - {"tokens"}
    (stored,) = search.protected(batch_of([dict.fromkeys(keywords, ALICE)])).select(sorted(keywords)).to_pylist()
    assert {name for name, text in stored.items() if ALICE not in text} == PROTECTED_FIELDS
