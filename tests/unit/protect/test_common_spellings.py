from __future__ import annotations

import json

import polars as pl
import pytest

from heimdall_server.protect.catalogue import RULES
from heimdall_server.protect.names import class_of_name
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.reference import batch_of

EVERYTHING = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
CARDS_ONLY = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask", "card"), PrivacyRule("keep"))))
MANY = 400
"""More than are treated one by one."""


def masked(text: str, protector: PolicyProtector = EVERYTHING) -> str:
    body: str = protector.protect(batch_of([{"body": text}])).batch["body"][0].as_py()
    return body


FOUND = [
    ("passwort=x1, ok", "passwort=[secret], ok"),
    ("Kennwort: geheim", "Kennwort: [secret]"),
    ("mot_de_passe=abc", "mot_de_passe=[secret]"),
    ("contraseña: abc", "contraseña: [secret]"),
    ("hasło=abc haslo=abc", "hasło=[secret] haslo=[secret]"),
    ("clave_acceso=77a", "clave_acceso=[secret]"),
    ("password_hash=abc pwd_hash: def", "password_hash=[secret] pwd_hash: [secret]"),
    ("pass=x DB_PASS=geheim", "pass=[secret] DB_PASS=[secret]"),
    ("pass: s3cret", "pass: [secret]"),
    ("{'pass': 'o k'}", "{'pass': '[secret]'}"),
    ("dbPass=geheim", "dbPass=[secret]"),
    ("call +49(0)1555 9876543 now", "call [phone] now"),
    ("call +49 (0) 1555 / 98 76 543 now", "call [phone] now"),
    ("tel 0049 1555 9876543", "tel [phone]"),
    ("tel. 0049-1555-9876543", "tel. [phone]"),
    ("Telefon: 01555/9876543", "Telefon: [phone]"),
    ("Handy: 0155 5987654", "Handy: [phone]"),
    ("call 00491555987654 now", "call [phone] now"),
    ("call 0049 1555 9876543", "call [phone]"),
    ("index logs-+4915123456789", "index logs-[phone]"),
    ("to DE75-5121-0800-1245-1261-99 paid", "to [iban] paid"),
    ("to de75 5121 0800 1245 1261 99 paid", "to [iban] paid"),
    ("iban de75512108001245126199", "iban [iban]"),
]


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_a_value_in_a_common_spelling_is_masked_whole(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "pass: 12 fail: 3, pass=12 fail=0, pass=98% pass=3/4 pass=12ms pass=true",
        "second pass: inlining; bypass=1 compass: n2 proxy_pass: http://x",
        '{"pass": 12, "fail": 1}',
        '{"pass": "true"}',
        "passwort vergessen, clave: 5",
        "0030 3132 3334 3536 3738",
        "id 0012345678901 and 000049155598765 tel 5 mobile 2024-05-06",
        "a-4915123456789",
        "de76512108001245126199 de75 5121 0800 1245 DE76-5121-0800-1245 uuid 0e12cdef-3456-7890-ab12-000000000000",
        "a_4556737586899856 k8_4556737586899855",
    ],
)
def test_what_is_only_spelled_alike_is_left(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"passwords": ["a", "b"], "n": 1}, {"passwords": "[secret]", "n": 1}),
        ({"password": {"old": "a}", "new": {"x": 'b"'}}, "n": 1}, {"password": "[secret]", "n": 1}),
        ({"credentials": {"user": "u"}, "n": {}}, {"credentials": "[secret]", "n": {}}),
        ({"pass": 'o\'neil "1"', "n": 1}, {"pass": "[secret]", "n": 1}),
        ({"passwort": "x", "pass": ""}, {"passwort": "[secret]", "pass": ""}),
        ({"log": '{"pass":"x"}'}, {"log": '{"pass":"[secret]"}'}),
        ({"tokens": [1, 2], "secret": {"name": "x"}}, {"tokens": [1, 2], "secret": {"name": "x"}}),
        ({"+4915559876543": 1}, {"[phone]": 1}),
    ],
)
def test_credentials_within_a_member_are_masked_as_json(document: object, expected: object) -> None:
    assert json.loads(masked(json.dumps(document))) == expected


@pytest.mark.parametrize(
    "text", ["DE75-5121-0800-1245-1261-99", "de75 5121 0800 1245 1261 99", "DE75 5121 0800 1245 1261 99"]
)
def test_a_piece_of_an_iban_is_no_card_whatever_the_policy_looks_for(text: str) -> None:
    assert masked(f"to {text}", CARDS_ONLY) == f"to {text}"
    assert masked("DE75 4556-7375-8689-9855", CARDS_ONLY) == "DE75 [card]"


def test_a_column_is_treated_as_each_of_its_texts() -> None:
    texts = [f"{number} {text}" for number in range(MANY // len(FOUND) + 1) for text, _ in FOUND]
    together = EVERYTHING.protect(batch_of([{"body": text} for text in texts])).batch["body"].to_pylist()
    assert together == [f"{number} {text}" for number in range(MANY // len(FOUND) + 1) for _, text in FOUND]


@pytest.mark.parametrize("text", [text for text, _ in FOUND])
def test_each_rule_gives_many_texts_what_it_gives_one(text: str) -> None:
    for rule in RULES:
        if (one := rule.substitute_text(text, "[x]")) != text:
            assert rule.substitute(pl.Series([text] * MANY), "[x]").to_list() == [one] * MANY, rule.name
            assert pl.Series([text]).str.contains(rule.gate.replace("(?i:", "(?i-u:"))[0], rule.name


@pytest.mark.parametrize(
    ("key", "data_class"),
    [
        *((name, "secret") for name in ("passwort", "user.kennwort", "passphrase", "pass", "db_pass", "passwd", "mot_de_passe")),
        *((name, "secret") for name in ("contrasena", "contraseña", "clave_acceso", "haslo", "hasło", "password_hash", "pwd_hash", "pin")),
        *((name, "secret") for name in ("password.old", "user.password.old.value", "passwords.0", "pwd.new")),
        *((name, "cookie") for name in ("sessionid", "session_id", "sessionId")),
        *((name, "phone") for name in ("telefon", "user.handy", "mobil", "mobile", "tel")),
        *((name, "") for name in ("bypass", "compass", "spin", "clave", "session.id", "hotel", "mobility", "tokens", "secret.name")),
        *((name, "") for name in ("password.length", "password.min_length", "password.expires_at", "password_policy", "password.last_changed")),
    ],
)  # fmt: skip
def test_a_name_in_whatever_language_tells_the_class_of_its_value(key: str, data_class: str) -> None:
    assert class_of_name(key) == data_class


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("k.+4915559876543.x", "k.[phone].x"),
        ("+4915559876543", "[phone]"),
        ("a_4556737586899856", "a_4556737586899856"),
    ],
)
def test_a_value_in_an_attribute_name_is_masked(key: str, expected: str) -> None:
    batch = EVERYTHING.protect(batch_of([{"attributes": {key: "v"}}])).batch
    assert batch["attributes"][0].as_py() == [(expected, "v")]


def test_numbers_under_a_telling_name_are_masked() -> None:
    batch = EVERYTHING.protect(batch_of([{"attributes_number": {"tel": 15559876543.0, "pin": 1234.0, "n": 5.0}}])).batch
    assert dict(batch["attributes"][0].as_py()) == {"tel": "[phone]", "pin": "[secret]"}
    assert dict(batch["attributes_number"][0].as_py()) == {"n": 5.0}
