from __future__ import annotations

import json
import random
import re

import polars as pl
import pytest

from heimdall_server.protect.catalogue import CLASSES, RULES
from heimdall_server.protect.names import NAME_GATE, class_of_name
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.rules import Rule, column_form, passing
from heimdall_server.protect.spans import PLACE
from tests.unit.protect.reference import batch_of

EVERYTHING = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))


def masked(text: str) -> str:
    body: str = EVERYTHING.protect(batch_of([{"body": text}])).batch["body"][0].as_py()
    return body


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail alice.b+tag@sub.example.co.uk, thanks", "mail [email], thanks"),
        ("<ÄRGER@example.com>", "<[email]>"),
        ("paid with 4111111111111111.", "paid with [card]."),
        ("paid with 4111 1111 1111 1111 123", "paid with [card] 123"),
        ("amex 3782-822463-10005", "amex [card]"),
        ("to DE89 3704 0044 0532 0130 00 PAID", "to [iban] PAID"),
        ("BE68 5390 0754 7034 BE68 5390 0754 7034", "[iban] [iban]"),
        ("to GB82WEST12345698765432", "to [iban]"),
        ("call +4915112345678 now", "call [phone] now"),
        ("call +1 (415) 555-2671", "call [phone]"),
        ("call (415) 555-2671 or 415-555-2671", "call [phone] or [phone]"),
        ("call +33 1 23 45 67 89", "call [phone]"),
        ("tel: 020 7946 0958", "tel: [phone]"),
        ("ssn 078-05-1120", "ssn [ssn]"),
        ("SSN=123456789", "SSN=[ssn]"),
        ("h eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln t", "h [jwt] t"),
        ("key AKIAIOSFODNN7EXAMPLE", "key [secret]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [secret]"),
        ("github_pat_11ABCDEFG0123456789abcdef_xyz", "[secret]"),
        ("user=bob password=hunter2, ok", "user=bob password=[secret], ok"),
        ("passwd: hunter2", "passwd: [secret]"),
        ("{'password': 'hunter2'}", "{'password': '[secret]'}"),
        ("api_key=abc&x=1", "api_key=[secret]&x=1"),
        ("token: abc123 next", "token: [secret] next"),
        ('client_secret="a b c"', 'client_secret="[secret]"'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [secret]"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic [secret]"),
        ("curl -H bearer abcdefghijklmnop1234", "curl -H bearer [secret]"),
        ("postgres://app:s3cr3t@db/x", "postgres://app:[secret]@db/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE-x/+=\n-----END RSA PRIVATE KEY----- tail", "[secret] tail"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut", "[secret]"),
        ("from 10.1.2.3:8080", "from [ipv4]:8080"),
        ("from 2001:db8::1: refused", "from [ipv6]: refused"),
        ("from ::ffff:10.0.0.1 and fe80::1%eth0", "from [ipv6] and [ipv6]%eth0"),
    ],
)
def test_personal_value_is_masked_and_what_stands_around_stays(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "user@host, icon@2x.png, pkg@1.2.rc1",
        "order 4111111111111112, 1234567890123456, 0.4111111111111111",
        "1700000000000 1700000000000000000",
        "deadbeefdeadbeefdeadbeefdeadbeef 550e8400-e29b-41d4-a716-446655440000",
        "DE89370400440532013001 AB12CDEF34GH56",
        "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000 1-123-45-6789-0",
        "2024-01-02T03:04:05+01:00 +0100 +12345",
        "GET /x 200 512 1024",
        "415-555-2671-99 9.415-555-2671",
        "if password == other: token::parse secretary tokens=5",
        "password= ; password=''",
        "unexpected token: end of file",
        "Bearer authentication failed",
        "AKIAIOSFODNN7 ghp_short eyJhbG",
        "1.2.3.4.5 999.1.1.1",
        "12:34:56 aa:bb:cc:dd:ee:ff std::begin abc::def ::",
        '{"token": null, "password": true}',
    ],
)
def test_what_only_looks_personal_is_left(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"password": 'hun"ter\\2'}, {"password": "[secret]"}),
        ({"token": 12345, "n": 1}, {"token": "[secret]", "n": 1}),
        ({"api_key": ["a", "b"], "x": ["a"]}, {"api_key": "[secret]", "x": ["a"]}),
        ({"card": 4111111111111111, "n": [4111111111111112]}, {"card": "[card]", "n": [4111111111111112]}),
        ([4111111111111111, 5], ["[card]", 5]),
        ({"ssn": 123456789, "phone": 4915112345678}, {"ssn": "[ssn]", "phone": "[phone]"}),
        ({"log": "x\n4111111111111111\nb@c.org"}, {"log": "x\n[card]\n[email]"}),
        ({"müller@example.com": "\u00e9a@b.org"}, {"[email]": "[email]"}),
        ({"log": '{"password":"x"}'}, {"log": '{"password":"[secret]"}'}),
        ({"log": "password=a\\b\nnext"}, {"log": "password=[secret]\nnext"}),
        ({"log": "password=", "b": "x"}, {"log": "password=", "b": "x"}),
        ({"secret": None}, {"secret": None}),
    ],
)
def test_json_text_is_masked_as_json(document: object, expected: object) -> None:
    assert json.loads(masked(json.dumps(document))) == expected


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_gate_has_no_anchor_and_no_mask_passes_for_personal(rule: Rule) -> None:
    assert not re.search(r"\\b|\^|\$", rule.gate)
    for data_class in CLASSES:
        text = f"[{data_class}]"
        assert rule.substitute_text(text, "x") == text


PIECES = (
    "+1 202 555 0123", "+49 30 1234567", "(202) 555-0123", "202.555.0123", "4111111111111111", "4111 1111 1111 1111", "378282246310005", "1732000000000",
    "+999999999999999999", "DE89370400440532013000", "078-05-1120", "10.0.0.1", "a@b.example", "icon@2x.png", '"card": ', "tel: 55512345", "ssn 078051120",
    "-5", ".7", "12-34", " ", ",", "[", "]", ".", "-", "+", "x", "é", '"', "\\n", "\\", PLACE, "\ue000",
)  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_column_is_treated_as_each_of_its_texts(rule: Rule) -> None:
    draw = random.Random(rule.name)
    texts = ["".join(draw.choices(PIECES, k=draw.randrange(1, 7))) for _ in range(4000)]
    texts = [text for text in texts if re.search(rule.gate, text, re.ASCII)] or [rule.name]
    for column in (texts, [text for text in texts if "\\" not in text]):
        expected = [rule.substitute_text(text, "[mask]") for text in column]
        assert rule.substitute(pl.Series(column, dtype=pl.String), "[mask]").to_list() == expected


def test_few_and_many_texts_pass_the_same_gates() -> None:
    draw = random.Random(1)
    few = ["".join(draw.choices(PIECES, k=draw.randrange(7))) for _ in range(300)] + [None]
    gates = ["secret", *dict.fromkeys(rule.gate for rule in RULES if not rule.stems)]
    together = passing(pl.Series(few * 30, dtype=pl.String), gates)
    for count in (0, 1, len(few)):
        apart = passing(pl.Series(few[:count], dtype=pl.String), gates)
        assert {gate: flags.to_list() for gate, flags in apart.items()} == {
            gate: together[gate].head(count).to_list() for gate in gates
        }


def test_names_of_rules_are_unique() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("key", "data_class"),
    [
        ("password", "secret"),
        ("db.Password", "secret"),
        ("clientSecret", "secret"),
        ("http.request.header.authorization", "secret"),
        ("x-api-key", "secret"),
        ("Set-Cookie", "cookie"),
        ("user.ssn", "ssn"),
        ("payment.card_number", "card"),
        ("iban", "iban"),
        ("user.email", "email"),
        ("phone_number", "phone"),
        ("lessn", ""),
        ("tokens", ""),
        ("password_changed", ""),
        ("japan", ""),
        ("key", ""),
        ("", ""),
    ],
)
def test_name_tells_the_class_of_its_value(key: str, data_class: str) -> None:
    assert class_of_name(key) == data_class
    if data_class:
        assert re.search(NAME_GATE.replace("(?i-u:", "(?i:"), f"a{key}b")


def test_column_form_makes_boundaries_ascii() -> None:
    assert column_form(r"\b(?i:x)") == r"(?-u:\b)(?i-u:x)"
