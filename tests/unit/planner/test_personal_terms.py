"""Queries with personal values: what each kind of term becomes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import QuerySyntaxError
from heimdall_server.domain.expression.fields import FieldRef, Scope, resolve
from heimdall_server.domain.expression.tree import Compare, Operator, Or, Query, Words
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.language.sql import parse_sql
from heimdall_server.planner.personal_terms import Matched
from tests.support.personal_search import Search, keyring

BODY, TOKENS = resolve("body"), resolve("tokens")
ALICE = "alice@example.com"


def equal(field: str, *texts: str | float) -> Compare | Or:
    found = tuple(Compare(resolve(field), Operator.EQ, text) for text in texts)
    return found[0] if len(found) == 1 else Or(found)


@pytest.mark.parametrize(
    "text",
    [
        "email:alice@example.com",
        "email:Alice@EXAMPLE.com",
        'email:"alice@example.com"',
        "personal.email:alice@example.com",
        "alice@example.com",
        "Alice@EXAMPLE.com",
        "<alice@example.com>",
        "body:alice@example.com",
        'body:"alice@example.com"',
        'message:"(alice@example.com)"',
    ],
)
def test_a_mail_address_is_asked_for_by_its_token_wherever_it_stands(search: Search, text: str) -> None:
    rewritten = search.asked(text)
    assert rewritten.query.filter == search.anywhere(("email", ALICE))
    assert rewritten.matched == (Matched("email", (search.word("email", ALICE),)),)


@pytest.mark.parametrize(
    ("text", "data_class", "forms"),
    [
        ("phone:+4915112345678", "phone", ["+4915112345678", "4915112345678"]),
        ('phone:"+49 151 12345678"', "phone", ["+4915112345678", "4915112345678"]),
        ('phone:"+49 (151) 123-456-78"', "phone", ["+4915112345678", "4915112345678"]),
        ("phone:4915112345678", "phone", ["+4915112345678", "4915112345678"]),
        ("phone:00491511234567", "phone", ["+491511234567", "491511234567"]),
        ("+4915112345678", "phone", ["+4915112345678", "4915112345678"]),
        ('phone:"0151 12345678"', "phone", ["015112345678"]),
        ("card:4111111111111111", "card", ["4111111111111111"]),
        ('card:"4111 1111 1111 1111"', "card", ["4111111111111111"]),
        ('"4111-1111-1111-1111"', "card", ["4111111111111111"]),
        ("card:6011000990139424000", "card", ["6011000990139424000"]),
        ('iban:"DE89 3704 0044 0532 0130 00"', "iban", ["DE89370400440532013000"]),
        ("iban:de89370400440532013000", "iban", ["DE89370400440532013000"]),
        ('"DE89 3704 0044 0532 0130 00"', "iban", ["DE89370400440532013000"]),
        ("ssn:123-45-6789", "ssn", ["123456789"]),
        ("ssn:123456789", "ssn", ["123456789"]),
        ("birth_date:1990-01-31", "birth_date", ["1990-01-31"]),
        ("national_id:12345678901", "national_id", ["12345678901"]),
        ('personal.name:"Alice  Smith"', "name", ["Alice Smith"]),
        ('personal.address:"1 Main Street"', "address", ["1 Main Street"]),
        ('personal.secret:"hunter2"', "secret", ["hunter2"]),
    ],
)
def test_every_spelling_of_a_value_is_one_value(search: Search, text: str, data_class: str, forms: list[str]) -> None:
    rewritten = search.asked(text)
    assert rewritten.query.filter == search.anywhere(*((data_class, form) for form in forms))
    assert rewritten.matched == (Matched(data_class, tuple(search.word(data_class, form) for form in forms)),)


@pytest.mark.parametrize(
    "text", ["ip:10.1.2.3", "ipv4:10.1.2.3", "10.1.2.3", "ip:10.1.2.3/32", "ip:::ffff:10.1.2.3", "personal.ip:10.1.2.3"]
)
def test_an_ipv4_address_is_asked_for_as_it_is_and_mapped(search: Search, text: str) -> None:
    assert search.rewritten(text).filter == search.anywhere(("ipv4", "10.1.2.3"), ("ipv6", "::ffff:10.1.2.3"))


@pytest.mark.parametrize(
    "text",
    [
        "ip:2001:db8::1",
        "ipv6:2001:DB8:0:0:0:0:0:1",
        'ip:"2001:0db8:0000:0000:0000:0000:0000:0001"',
        '"2001:db8::1"',
        "ip:2001:db8::1/128",
    ],
)
def test_an_ipv6_address_is_one_in_each_of_its_writings(search: Search, text: str) -> None:
    assert search.rewritten(text).filter == search.anywhere(("ipv6", "2001:db8::1"))


def test_values_in_parentheses_and_behind_not_are_rewritten_where_they_stand(search: Search) -> None:
    alice, bob = (search.anywhere(("email", each)).operands for each in (ALICE, "bob@example.com"))
    assert search.rewritten("email:(alice@example.com OR bob@example.com)").filter == Or((*alice, *bob))
    assert format_query(search.rewritten("NOT email:alice@example.com AND service:api")) == (
        f'NOT ({search.word("email", ALICE)} OR tokens:{search.word("email", ALICE)}) AND service:"api"'
    )


def test_a_number_and_its_spelling_in_a_list_are_one_value_each(search: Search) -> None:
    rewritten = search.asked("phone:(004915112345678 OR 004915112345679)")
    assert [len(each.words) for each in rewritten.matched] == [2, 2]
    assert ">=" not in format_query(rewritten.query)


def test_an_unknown_field_before_a_number_is_looked_for_as_text_too(search: Search) -> None:
    known = ["user"]
    rewritten = search.asked("ip:10.1.2.3", known_fields=known)
    assert Words(BODY, ("ip", "ipv4", search.word("ipv4", "10.1.2.3"))) in rewritten.query.filter.operands  # type: ignore[union-attr] # it is an OR
    assert "10 1 2 3" not in format_query(search.asked("phone:+4915112345678", known_fields=known).query)
    assert "4915112345678" not in format_query(search.asked("phone:+4915112345678", known_fields=known).query)


def test_a_phrase_keeps_its_words_around_the_token(search: Search) -> None:
    rewritten = search.asked('"Mail from alice@example.com to bob@example.com failed"')
    assert rewritten.query.filter == Words(
        BODY,
        (
            "mail",
            "from",
            "email",
            search.word("email", ALICE),
            "to",
            "email",
            search.word("email", "bob@example.com"),
            "failed",
        ),
    )
    assert [each.data_class for each in rewritten.matched] == ["email", "email"]


def test_every_epoch_is_asked_for_and_a_phrase_holds_tokens_of_one(tmp_path: Path) -> None:
    search = Search.of(keyring(tmp_path))
    before = search.asked('email:alice@example.com OR "alice@example.com wrote bob@example.com"')
    assert list(search.terms.epochs) == [0]
    asyncio.run(search.ring.new_epoch())
    after = search.asked('email:alice@example.com OR "alice@example.com wrote bob@example.com"')
    assert list(search.terms.epochs) == [0, 1]
    assert after.binding == before.binding
    assert before.query != after.query
    old, new = search.ring.words_of_all_epochs("email", ALICE)
    bob_old, bob_new = search.ring.words_of_all_epochs("email", "bob@example.com")
    assert after.query.filter == Or(
        (
            *(Words(column, (each,)) for column in (BODY, TOKENS) for each in (old, new)),
            Words(BODY, ("email", old, "wrote", "email", bob_old)),
            Words(BODY, ("email", new, "wrote", "email", bob_new)),
        )
    )
    assert after.matched == (Matched("email", (old, new)), Matched("email", (bob_old, bob_new)))


@pytest.mark.parametrize(
    ("text", "field", "data_class", "form"),
    [
        ("attributes.mail:Alice@example.com", "attributes.mail", "email", ALICE),
        ("attributes.email:alice@example.com", "attributes.email", "email", ALICE),
        ('user.name:"alice@example.com"', "user.name", "email", ALICE),
        ('first_name:"Alice"', "first_name", "name", "Alice"),
        ('resource.owner:"alice@example.com"', "resource.owner", "email", ALICE),
        ('service:"alice@example.com"', "service", "email", ALICE),
        ('dump:"alice@example.com"', "dump", "email", ALICE),
        ('password:"alice@example.com"', "password", "secret", ALICE),
        ("amount:4111111111111111", "amount", "card", "4111111111111111"),
        ("credit_card:4111111111111111", "credit_card", "card", "4111111111111111"),
        ("social_security_no:123456789", "social_security_no", "ssn", "123456789"),
        ("attributes.client:2001:DB8::1", "attributes.client", "ipv6", "2001:db8::1"),
    ],
)
def test_a_field_is_asked_for_the_token_that_it_holds(
    search: Search, text: str, field: str, data_class: str, form: str
) -> None:
    rewritten = search.asked(text)
    assert rewritten.query.filter == equal(field, search.token(data_class, form))
    assert rewritten.matched == (Matched(data_class, (search.word(data_class, form),)),)


def test_a_text_of_a_field_may_hold_values_in_its_middle(search: Search) -> None:
    assert search.rewritten('job:"mail alice@example.com from 10.1.2.3"').filter == equal(
        "job", f"mail {search.token('email', ALICE)} from {search.token('ipv4', '10.1.2.3')}"
    )


@pytest.mark.parametrize(
    ("network", "words"),
    [("10.1.2.0/24", 1), ("10.1.2.0/23", 2), ("10.4.0.0/14", 1024), ("2001:db8::/48", 1), ("2001:db8::/38", 1024)],
)
def test_a_network_is_asked_for_by_the_networks_in_it(search: Search, network: str, words: int) -> None:
    rewritten = search.asked(f"ip:{network}")
    (matched,) = rewritten.matched
    assert matched.data_class == ("ipv6_48" if ":" in network else "ipv4_24")
    assert len(matched.words) == words
    assert rewritten.query.filter in (
        Words(TOKENS, matched.words),
        Or(tuple(Words(TOKENS, (each,)) for each in matched.words)),
    )
    first = network.replace("23", "24").replace("/14", "/24").replace("/38", "/48")
    assert matched.words[0] == search.word(matched.data_class, first)


def test_networks_follow_the_prefixes_that_are_kept(ring: Keyring) -> None:
    search = Search.of(ring, prefixes=(20, 56))
    (four,) = search.asked("ip:10.1.16.0/20").matched
    assert four == Matched("ipv4_20", (search.word("ipv4_20", "10.1.16.0/20"),))
    (six,) = search.asked("ip:2001:db8::/55").matched
    assert len(six.words) == 2


def test_whole_addresses_may_be_kept_as_networks(ring: Keyring) -> None:
    search = Search.of(ring, prefixes=(32, 128))
    (four,) = search.asked("ip:10.1.16.0/31").matched
    assert four.words == tuple(search.ring.words("ipv4_32", ["10.1.16.0", "10.1.16.1"]))


@pytest.mark.parametrize("text", ['attributes.mail:"[email:{}]"', 'job:"see [email:{}]"', 'service:"[email:{}]"'])
def test_a_token_in_a_query_is_no_value(search: Search, text: str) -> None:
    query = parse(text.format(search.word("email", ALICE)), now_ns=0)
    rewritten = search.terms.rewrite(query)
    assert rewritten.query is query
    assert rewritten.matched == ()


@pytest.mark.parametrize(
    "text", ["[email:{}]", 'body:"[email:{}]"', "email:{}", 'email:"[email:{}]"', "personal.email:{}"]
)
def test_a_token_is_found_wherever_it_stands_without_a_permission(search: Search, text: str) -> None:
    rewritten = search.asked(text.format(search.word("email", ALICE)))
    assert rewritten.query.filter == search.anywhere(("email", ALICE))
    assert rewritten.matched == ()


def test_a_rewritten_query_stays_as_it_is(search: Search) -> None:
    for text in ("email:alice@example.com", '"mail alice@example.com"', "ip:10.1.2.0/23", "mail:alice@example.com"):
        once = search.rewritten(text)
        assert search.terms.rewrite(once).query == once
        assert search.terms.rewrite(parse(format_query(once), now_ns=0)).query == once


@pytest.mark.parametrize(
    ("words", "data_class", "form"),
    [
        (("alice", "example", "com"), "email", ALICE),
        (("alice", "smith", "mail", "example", "com"), "email", "alice.smith.mail@example.com"),
        (("10", "1", "2", "3"), "ipv4", "10.1.2.3"),
        (("4111", "1111", "1111", "1111"), "card", "4111111111111111"),
        (("4111111111111111",), "card", "4111111111111111"),
        (("123", "45", "6789"), "ssn", "123456789"),
        (("2001", "db8", "1", "2", "3", "4", "5", "6"), "ipv6", "2001:db8:1:2:3:4:5:6"),
    ],
)
def test_words_without_their_text_are_a_value_if_all_of_them_make_one(
    search: Search, words: tuple[str, ...], data_class: str, form: str
) -> None:
    rewritten = search.terms.rewrite(Query(Words(BODY, words)))
    assert rewritten.matched[0].words[0] in [
        *search.ring.words(data_class, [form]),
        *search.ring.words("email", ["alice@smith.mail.example.com"]),
    ]
    assert not set(words) & set(format_query(rewritten.query).split())


@pytest.mark.parametrize(
    "words", [("connection", "reset", "by", "peer"), ("status", "500"), ("v1", "2", "3"), ("order", "4111111111111111")]
)
def test_words_without_their_text_that_make_no_value_stay(search: Search, words: tuple[str, ...]) -> None:
    query = Query(Words(BODY, words))
    assert search.terms.rewrite(query).query is query


def test_words_of_tokens_are_looked_for_in_tokens_only_if_that_was_asked(search: Search) -> None:
    assert search.rewritten("tokens:alice@example.com").filter == Words(TOKENS, (search.word("email", ALICE),))


def test_behind_stats_and_extract_a_value_is_equal_to_its_token(search: Search) -> None:
    tail = f'where attributes.mail:"{search.token("email", ALICE)}"'
    assert format_query(
        search.rewritten("* | stats count() by attributes.mail | where attributes.mail = alice@example.com")
    ).endswith(tail)
    found = search.rewritten(r"* | extract body /user=(?P<email>\S+)/ | where email = alice@example.com")
    assert format_query(found).endswith(f'where email:"{search.token("email", ALICE)}"')


def test_where_before_stats_asks_for_a_value_anywhere_and_behind_fields_in_the_field(search: Search) -> None:
    alice = search.word("email", ALICE)
    assert (
        format_query(search.rewritten("* | where email = alice@example.com"))
        == f"*:* | where {alice} OR tokens:{alice}"
    )
    assert format_query(search.rewritten("* | fields time, email | where email = alice@example.com")) == (
        f'*:* | fields time, email | where email:"{search.token("email", ALICE)}"'
    )
    with pytest.raises(QuerySyntaxError, match="filter before it"):
        search.asked("* | fields ip | where ip:10.1.2.0/24")


def test_nothing_of_a_value_is_shown_by_what_comes_out(search: Search) -> None:
    rewritten = search.asked('email:alice@example.com phone:+4915112345678 "for alice@example.com" x:4111111111111111')
    shown = repr(rewritten) + repr(rewritten.query) + repr(rewritten.binding) + format_query(rewritten.query)
    for secret in ("alice", "4915112345678", "4111111111111111"):
        assert secret not in shown


def test_an_equal_value_is_matched_once(search: Search) -> None:
    assert len(search.asked("email:alice@example.com OR alice@EXAMPLE.com OR email:Alice@example.com").matched) == 1
    assert len(search.asked("phone:4915112345678 OR phone:+4915112345678 OR +4915112345678").matched) == 1
    assert len(search.asked("ip:10.1.2.3 OR 10.1.2.3 OR ip:::ffff:10.1.2.3").matched) == 1


def test_digests_bind_each_value_apart(search: Search) -> None:
    texts = (
        "email:alice@example.com",
        "email:bob@example.com",
        "personal.name:alice@example.com",
        "ip:10.1.2.0/24",
        "ip:10.1.3.0/24",
    )
    bindings = {format_query(search.asked(text).binding) for text in texts}
    assert len(bindings) == len(texts)
    assert format_query(search.asked("email:Alice@Example.com").binding) in bindings


def test_sql_is_rewritten_like_the_query_language(search: Search) -> None:
    alice = search.anywhere(("email", ALICE))
    asked = search.terms.rewrite(parse_sql("SELECT * FROM logs WHERE email = 'Alice@example.com'", now_ns=0))
    assert asked.query.filter == alice
    assert asked.query.stages == parse_sql("SELECT * FROM logs", now_ns=0).stages
    for refused in (
        "SELECT * FROM logs WHERE email LIKE '%@example.com'",
        "SELECT * FROM logs WHERE body LIKE '%alice@example.com%'",
        "SELECT * FROM logs WHERE email > 'alice@example.com'",
    ):
        with pytest.raises(QuerySyntaxError):
            search.terms.rewrite(parse_sql(refused, now_ns=0))


def test_a_tree_that_a_program_made_is_rewritten_like_a_typed_one(search: Search) -> None:
    field = FieldRef(Scope.ANY, "phone")
    tree = Query(Compare(field, Operator.EQ, 4915112345678))
    assert search.terms.rewrite(tree).query == search.rewritten("phone:4915112345678")
