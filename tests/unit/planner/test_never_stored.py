"""Values that no record holds, by the policies that count: who names one must be told, and the name mustn't be kept."""

from __future__ import annotations

import pytest

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.protect.policy import DEFAULT_KEYED_RULES, PrivacyPolicy, PrivacyRule
from tests.support.personal_search import Search

KEY = f"ghp_{'a1B2c3' * 6}"


@pytest.fixture(scope="module")
def default(ring: Keyring) -> Search:
    """Credentials are masked, addresses of machines kept, all else is tokenised."""
    return Search.of(ring, PrivacyPolicy(rules=DEFAULT_KEYED_RULES))


@pytest.mark.parametrize("text", [f'body:"{KEY}"', f"seen {KEY} twice", "password=hunter22"])
def test_what_is_masked_everywhere_is_never_stored(default: Search, text: str) -> None:
    assert {one.data_class for one in default.terms.never_stored(text)} == {"secret"}


@pytest.mark.parametrize(
    "text", ["alice@example.com", "ip:10.1.2.3", "service:api AND timeout", "password:*", "_exists_:password"]
)
def test_what_is_tokenised_or_kept_and_what_is_not_personal_may_be_named(default: Search, text: str) -> None:
    assert not default.terms.never_stored(text)


def test_what_is_kept_somewhere_may_be_named(ring: Keyring) -> None:
    rules = (PrivacyRule("keep", "secret", source="edge-*"), PrivacyRule("mask"))
    search = Search.of(ring, PrivacyPolicy(rules=rules))
    assert not search.terms.never_stored(KEY)
    assert search.terms.never_stored("alice@example.com")
