"""Keys and policies for queries with personal values."""

from __future__ import annotations

import pytest

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from tests.support.personal_search import Search, keyring


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Keys with one epoch."""
    return keyring(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def search(ring: Keyring) -> Search:
    """Everything is tokenised."""
    return Search.of(ring)


@pytest.fixture(scope="module")
def mixed(ring: Keyring) -> Search:
    """Everything is tokenised, but for some sources."""
    return Search.of(ring, PrivacyPolicy(rules=(PrivacyRule("keep", source="edge-*"), PrivacyRule("tokenise"))))
