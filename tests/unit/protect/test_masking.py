"""What people write and call things is masked by the policy in force."""

from __future__ import annotations

from heimdall_server.protect.policy import DEFAULT_KEYED_RULES, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.texts import masking

SAID = "alice@example.com came from 203.0.113.7 and 2001:db8::7"


def test_addresses_stay_in_what_people_write_where_the_policy_keeps_them() -> None:
    mask = masking(lambda: PrivacyPolicy(1, DEFAULT_KEYED_RULES))
    assert mask(SAID) == "[email] came from 203.0.113.7 and 2001:db8::7"


def test_addresses_go_as_soon_as_the_policy_does_anything_else_with_them() -> None:
    policy = PrivacyPolicy(1, DEFAULT_KEYED_RULES)
    mask = masking(lambda: policy)
    policy = PrivacyPolicy(2, (PrivacyRule("keep", "ipv4", field="host"), PrivacyRule("tokenise")))
    assert mask(SAID) == "[email] came from [ipv4] and [ipv6]"
