"""What a search knows of protection is what protection does."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.domain.expression.literals import words_of
from heimdall_server.domain.personal import token
from heimdall_server.protect.catalogue import CLASSES, CREDENTIAL_CLASSES
from heimdall_server.protect.disguises import disguised
from heimdall_server.protect.policy import DEFAULT_KEYED_RULES, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.value_terms import FORMER_MAX, ValueTerms
from tests.support.personal_search import Search, keyring
from tests.unit.protect.labelled_corpus import CLASSES as LABELLED
from tests.unit.protect.labelled_corpus import positives
from tests.unit.protect.reference import batch_of
from tests.unit.protect.test_protector_property import TEXTS


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    return Search.of(keyring(tmp_path_factory.mktemp("keys")))


def tokenised(search: Search, text: str) -> str:
    """A text with tokens in place of what was found in it."""
    pieces, copied = [], 0
    for start, end, data_class in search.values.find_personal(text):
        form = personal_form(data_class, pa.array([text[start:end]])).to_pylist()
        pieces += [text[copied:start], token(data_class, search.ring.words(data_class, form)[0])]
        copied = end
    return "".join([*pieces, text[copied:]])


@settings(max_examples=120, deadline=None)
@given(TEXTS)
@example('"api-key": alice@example.com')
@example('{"phone":4915112345678,"ssn": 123456789}')
@example("é 4111 1111 1111 1111 中 alice@example.com")
def test_the_same_values_are_found_in_a_query_and_in_a_record(search: Search, text: str) -> None:
    # What reads otherwise than it stands is found in records only.
    assume(not len(disguised(pa.array([text], pa.string()))))
    (body,) = search.protected(batch_of([{"body": text}])).column("body").to_pylist()
    assert words_of(tokenised(search, text)) == words_of(body)


@pytest.mark.parametrize("data_class", LABELLED)
def test_values_of_every_class_are_found_as_in_records(search: Search, data_class: str) -> None:
    lines = [one.line for one in positives(data_class, 60, seed=5)]
    bodies = search.protected(batch_of([{"body": line} for line in lines])).column("body").to_pylist()
    for line, body in zip(lines, bodies, strict=True):
        assert words_of(tokenised(search, line)) == words_of(body)


def test_places_are_counted_in_characters(search: Search) -> None:
    assert search.values.find_personal("é中 alice@example.com, 10.1.2.3") == [(3, 20, "email"), (22, 30, "ipv4")]


def test_names_of_parameters_in_structured_data_are_no_mail_addresses(search: Search) -> None:
    assert search.values.find_in_name("exampleSDID@32473.eventSource") == []
    assert search.values.find_in_name("alice@example.com") == [(0, 17, "email")]


def test_an_attribute_tells_its_class_by_its_name(search: Search) -> None:
    names = {"user.email": "email", "clientSecret": "secret", "passportNumber": "passport", "user": None, "name": None}
    assert {name: search.values.class_of_field(name) for name in names} == names


def test_by_default_addresses_are_kept_credentials_masked_and_all_else_is_tokenised() -> None:
    policy = PrivacyPolicy(rules=DEFAULT_KEYED_RULES)
    terms = ValueTerms(lambda: policy)
    assert {name for name in CLASSES if terms.may_keep(name)} == {"ipv4", "ipv6"}
    assert {name for name in CLASSES if not terms.may_tokenise(name)} == {"ipv4", "ipv6", *CREDENTIAL_CLASSES}


@pytest.mark.parametrize(
    ("rules", "keep", "tokenise"),
    [
        ((PrivacyRule("tokenise"), PrivacyRule("keep")), False, True),
        ((PrivacyRule("keep", source="a*"), PrivacyRule("tokenise")), True, True),
        ((PrivacyRule("tokenise", field="body"), PrivacyRule("keep")), True, True),
        ((PrivacyRule("tokenise", "em*", field="body"),), False, True),
        ((PrivacyRule("keep", "em*"), PrivacyRule("tokenise")), True, False),
        ((PrivacyRule("mask", "email"), PrivacyRule("tokenise")), False, False),
        ((PrivacyRule("tokenise", "phone"),), False, False),
    ],
)
def test_what_depends_on_field_or_source_may_happen(rules: tuple[PrivacyRule, ...], keep: bool, tokenise: bool) -> None:
    policy = PrivacyPolicy(rules=rules)
    terms = ValueTerms(lambda: policy)
    assert (terms.may_keep("email"), terms.may_tokenise("email")) == (keep, tokenise)


def test_a_policy_that_is_put_in_force_counts_at_once_and_those_before_it_still_do() -> None:
    policy = PrivacyPolicy(rules=DEFAULT_KEYED_RULES)
    terms = ValueTerms(lambda: policy)
    assert terms.find_personal("10.1.2.3") == []
    assert not terms.may_tokenise("ipv4")
    policy = PrivacyPolicy(version=2, rules=(PrivacyRule("tokenise"),))
    assert terms.find_personal("10.1.2.3") == [(0, 8, "ipv4")]
    assert (terms.may_keep("ipv4"), terms.may_tokenise("ipv4")) == (True, True)
    policy = PrivacyPolicy(version=3, rules=(PrivacyRule("mask"),))
    assert (terms.may_keep("email"), terms.may_tokenise("email")) == (False, True)


def test_policies_of_the_time_before_the_start_count() -> None:
    former = [PrivacyPolicy(version, (PrivacyRule(action),)) for version, action in ((1, "keep"), (2, "tokenise"))]
    policy = PrivacyPolicy(version=3, rules=(PrivacyRule("mask"),))
    terms = ValueTerms(lambda: policy, former)
    assert (terms.may_keep("email"), terms.may_tokenise("email")) == (True, True)
    changed = [
        PrivacyPolicy(number, (PrivacyRule("mask", source=f"s{number}"),)) for number in range(4, 4 + FORMER_MAX)
    ]
    assert not ValueTerms(lambda: policy, [*former, *changed]).may_keep("email")


def test_what_is_looked_for_only_thoroughly_is_found_only_by_a_thorough_policy() -> None:
    policies = [PrivacyPolicy(rules=(PrivacyRule("tokenise"),), thorough=thorough) for thorough in (True, False)]
    thorough, quick = (ValueTerms(lambda policy=policy: policy) for policy in policies)  # type: ignore[misc] # bound early
    assert thorough.find_personal("passport no. C01X00T47")
    assert not quick.find_personal("passport no. C01X00T47")
