"""What a person typed as a value of a class: refused with a reason that doesn't hold it, or let pass."""

from __future__ import annotations

import pytest

from heimdall_server.canonical.possible import why_impossible


@pytest.mark.parametrize(
    ("data_class", "text", "reason"),
    [
        ("email", "notmail", "around an @"),
        ("email", "a@b.co,c@d.co", "several values"),
        ("email", "polly.m@planted-mail", "no dot"),
        ("card", "4111111111111112", "check digit"),
        ("iban", "DE00370400440532013000", "check digits"),
        ("phone", "call me", "not a phone number"),
        ("ipv4", "10.1.2.0/24", "network"),
        ("ipv4", "300.1.1.1", ""),
    ],
)
def test_what_no_value_can_be_is_told_without_naming_it(data_class: str, text: str, reason: str) -> None:
    told = why_impossible(data_class, text)
    assert told
    assert reason in told
    assert text not in told


@pytest.mark.parametrize(
    ("data_class", "text"),
    [
        ("email", "Alice@Example.com"),
        ("email", "alice@[198.51.100.7]"),
        ("card", "4111 1111 1111 1111"),
        ("phone", "0151 1234567"),
        ("phone", "+49 151 12345678"),
        ("ipv6", "2001:db8::7"),
        ("national_id", "anything"),
    ],
)
def test_what_may_be_one_passes(data_class: str, text: str) -> None:
    assert why_impossible(data_class, text) == ""
