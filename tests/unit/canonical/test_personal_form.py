from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heimdall_server.canonical.catalogue import TYPE_OF_CLASS, TYPES, personal_form
from heimdall_server.canonical.column import Canonical
from heimdall_server.canonical.email import read_email, settled_email
from heimdall_server.canonical.personal_text import NUMBER_CLASSES
from heimdall_server.protect.catalogue import CLASSES
from tests.unit.canonical.spellings import SEEDS, spelled

TRIED = [*TYPE_OF_CLASS, "ssn", "secret", "name", "ipv4_24", "ipv6_48", "whatever"]


def forms(data_class: str, *texts: str | None) -> list[str]:
    out: list[str] = personal_form(data_class, pa.array(texts, pa.string())).to_pylist()
    return out


def test_spellings_of_a_value_have_one_form() -> None:
    assert (
        len(
            set(
                forms(
                    "email", "Alice@Example.com", "alice@example.com.", " <alice@example.com>", "alice(at)example[.]com"
                )
            )
        )
        == 1
    )
    assert len(set(forms("phone", "+49 30 123456", "+4930123456", "0049 (0)30 123456"))) == 1
    assert len(set(forms("iban", "DE89 3704 0044 0532 0130 00", "de89370400440532013000"))) == 1
    assert (
        len(
            set(
                forms(
                    "ssn",
                    "123-45-6789",
                    "123 45 6789",
                    " 123.45.6789",
                    "\uff11\uff12\uff13456789",
                    "123\u201345\u20136789",
                )
            )
        )
        == 1
    )
    assert len(set(forms("national_id", "AB 12 34 56 C", "ab123456c"))) == 1


@given(
    st.lists(st.from_regex(r"[a-c0X!=._-]{1,66}@[a-c0nx-]{1,9}(\.[a-c0nx-]{1,4}){0,2}", fullmatch=True), max_size=20)
)
def test_an_address_that_is_settled_at_a_glance_is_what_the_exact_rule_makes_of_it(texts: list[str]) -> None:
    settled = settled_email(pa.array(texts, pa.string())).to_pylist()
    for text, sure in zip(texts, settled, strict=True):
        read = read_email(text)
        assert not sure or (isinstance(read, Canonical) and read.value == text)
    assert settled_email(pa.array(["a.b-c+d@a-b.example.com", "xn--a@xn--b.com", "A@b.com"])).to_pylist() == [
        True,
        False,
        False,
    ]
    assert forms("email", "a@b.com", "A@B.com", "xn--a@b.com") == ["a@b.com", "a@b.com", "xn--a@b.com"]


def test_what_is_refused_has_a_form_too() -> None:
    assert forms("email", "  not  an\u200b email ", None, "") == ["not an email", "", ""]
    assert forms("card", "4111 1111 1111 1112") == ["4111111111111112"]
    assert forms("ssn", "-- ") == ["--"]


def test_secrets_and_names_keep_their_case_and_separators() -> None:
    assert forms("secret", "Hunter-2.x", "hunter-2.x") == ["Hunter-2.x", "hunter-2.x"]
    assert forms("name", " Jean-Luc   Picard") == ["Jean-Luc Picard"]


def test_classes_of_numbers_are_classes_that_exist() -> None:
    assert set(CLASSES) >= NUMBER_CLASSES


def test_classes_of_networks_are_known_by_their_network() -> None:
    assert forms("ipv4_24", "10.1.2.3", "10.1.2.0/24", "::ffff:10.1.2.9") == ["10.1.2.0/24"] * 3
    assert forms("ipv6_48", "2001:db8:1:2::3", "x") == ["2001:db8:1::/48", "x"]
    assert forms("ipv4_33", "10.1.2.3") == ["10.1.2.3"]


def test_every_class_with_a_type_names_one_that_exists() -> None:
    assert set(TYPE_OF_CLASS.values()) <= set(TYPES)


@pytest.mark.parametrize("data_class", TRIED)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_form_of_a_form_is_itself_and_never_null(data_class: str, data: st.DataObject) -> None:
    seeds = SEEDS.get(TYPE_OF_CLASS.get(data_class, "ip"), SEEDS["ip"])
    anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    texts = data.draw(st.lists(st.one_of(st.none(), spelled(seeds), anything), min_size=1, max_size=12))
    once = personal_form(data_class, pa.array(texts, pa.string()))
    assert len(once) == len(texts)
    assert once.null_count == 0
    assert personal_form(data_class, once).to_pylist() == once.to_pylist()
