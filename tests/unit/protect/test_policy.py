from __future__ import annotations

import pytest

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.policy import DEFAULT_RULES, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector


def test_default_keeps_addresses_and_masks_all_else() -> None:
    policy = PrivacyPolicy()
    assert policy.action("ipv4", "s", "body") == "keep"
    assert policy.action("email", "s", "attributes.x") == "mask"


def test_first_fitting_rule_decides() -> None:
    policy = PrivacyPolicy.parse(
        [
            {"class": "email", "source": "crm-*", "field": "user.*", "action": "keep"},
            {"class": "email", "action": "drop"},
        ],
        version=4,
    )
    assert policy.version == 4
    assert policy.action("email", "crm-1", "attributes.user.mail") == "keep"
    assert policy.action("email", "crm-1", "resource.user.mail") == "keep"
    assert policy.action("email", "crm-1", "body") == "drop"
    assert policy.action("email", "web", "attributes.user.mail") == "drop"
    assert policy.action("card", "web", "body") == "mask"


def test_glob_with_a_scope_is_for_that_scope_only() -> None:
    rule = PrivacyRule("keep", field="attributes.user")
    assert rule.fits_field("attributes.user")
    assert not rule.fits_field("resource.user")
    assert not PrivacyRule("keep", field="user").fits_field("body.user")


def test_empty_configuration_is_the_default() -> None:
    assert PrivacyPolicy.parse([]).rules == DEFAULT_RULES


def test_every_problem_names_its_rule() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PrivacyPolicy.parse([{"action": "mask"}, {"class": "email"}, {"action": 3}, {"action": "mask", "fields": "x"}])
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "privacy.rules[1]",
        "privacy.rules[2]",
        "privacy.rules[3]",
    ]


def test_unusable_values_are_all_reported() -> None:
    rules = [{"action": "tokenize"}, {"class": "emial", "action": "mask"}, {"field": "", "action": "keep"}]
    with pytest.raises(ConfigurationError) as caught:
        PrivacyPolicy.parse(rules, version=0)
    version, action, data_class, field = caught.value.problems
    assert version.startswith("privacy.version")
    assert action == "privacy.rules[0].action: unknown action 'tokenize'; use one of keep, mask, partial, drop"
    assert data_class.startswith("privacy.rules[1].class: 'emial' fits no class")
    assert field.startswith("privacy.rules[2].field")


def test_protector_refuses_an_unusable_policy() -> None:
    with pytest.raises(ConfigurationError):
        PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("shred"),)))
