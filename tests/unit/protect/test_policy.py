from __future__ import annotations

import fnmatch
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.config import _privacy
from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.globs import covers, glob_flaw
from heimdall_server.protect.policy import DEFAULT_RULES, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from tests.unit.protect.reference import batch_of, rows_of


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


def test_a_rule_that_is_no_table_is_told_with_the_others() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PrivacyPolicy.parse(["x", {"action": "nothing"}])  # type: ignore[list-item]
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "privacy.rules[0]",
        "privacy.rules[1].action",
    ]


def problems(*rules: dict[str, object], **policy: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        PrivacyPolicy.parse(list(rules), **policy)  # type: ignore[arg-type]
    return list(caught.value.problems)


def test_all_that_is_wrong_is_told_at_once_also_beside_rules_that_cannot_be_read() -> None:
    found = problems(
        {"class": "email"},
        {"class": "emial", "action": "mask"},
        {"action": "shred", "source": "a[bc"},
        {"action": "tokenise"},
        {"action": "mask"},
        {"class": "card", "action": "drop"},
        version=0,
        ip_prefixes=[33, 48],
    )
    assert [one.partition(":")[0] for one in found] == [
        "privacy.version",
        "privacy.ip_prefixes",
        "privacy.rules[0]",
        "privacy.rules[1].class",
        "privacy.rules[2].source",
        "privacy.rules[2].action",
        "privacy.rules[3].action",
        "privacy.rules[5]",
    ]
    assert "tokenise needs a key that this server hasn't" in found[6]
    assert "is never reached, since privacy.rules[4] fits all of it" in found[7]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"class": "ip*"}, {"class": "ipv4"}),
        ({"source": "web-*"}, {"source": "web-1"}),
        ({"source": "web-*"}, {"source": "web-1?"}),
        ({"source": "*-1*"}, {"source": "web-1-*"}),
        ({"field": "attributes.*"}, {"field": "attributes.user"}),
        ({"field": "user.*"}, {"field": "attributes.user.mail"}),
        ({"field": "user.*"}, {"field": "resource.user.m*"}),
    ],
)
def test_a_rule_that_is_never_reached_is_refused(earlier: dict[str, object], later: dict[str, object]) -> None:
    (found,) = problems({**earlier, "action": "keep"}, {**later, "action": "mask"})
    assert found.startswith("privacy.rules[1]: is never reached")
    PrivacyPolicy.parse([{**later, "action": "mask"}, {**earlier, "action": "keep"}])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"class": "email"}, {"class": "*"}),
        ({"source": "web-?"}, {"source": "web-*"}),
        ({"source": "web-[12]"}, {"source": "web-[13]"}),
        ({"field": "attributes.user"}, {"field": "user"}),
        ({"field": "attributes.*"}, {"field": "resource.x"}),
        ({"field": "body", "source": "a"}, {"field": "body"}),
    ],
)
def test_a_rule_that_can_be_reached_is_taken(earlier: dict[str, object], later: dict[str, object]) -> None:
    PrivacyPolicy.parse([{**earlier, "action": "keep"}, {**later, "action": "mask"}])


@given(st.text("ab*?", max_size=5), st.text("ab*?", max_size=5), st.text("ab", max_size=6))
def test_what_one_glob_covers_it_fits(wider: str, narrower: str, text: str) -> None:
    if covers(wider, narrower) and fnmatch.fnmatchcase(text, narrower):
        assert fnmatch.fnmatchcase(text, wider)


@pytest.mark.parametrize("glob", ["[", "a[b", "[]", "[!]", "x[]y", "[a][b"])
def test_a_bracket_that_is_not_closed_is_told(glob: str) -> None:
    assert "without its ]" in glob_flaw(glob)


@pytest.mark.parametrize("glob", ["*", "a[bc]", "[!a]", "[]]", "[[]", "[!]]x", "]"])
def test_a_glob_that_is_well_formed_has_no_flaw(glob: str) -> None:
    assert glob_flaw(glob) == ""


@pytest.mark.parametrize("prefixes", [[24], [24, 48, 64], [-1, 48], [24, 129], ["24", 48], [True, 48], 24, None])
def test_prefixes_that_are_none_are_refused(prefixes: object) -> None:
    (found,) = problems({"action": "mask"}, ip_prefixes=prefixes)
    assert found.startswith("privacy.ip_prefixes: must be two numbers")


def test_prefixes_are_configured_and_no_prefix_is_possible() -> None:
    assert PrivacyPolicy.parse([], ip_prefixes=[16, 0]).ip_prefixes == (16, 0)
    assert PrivacyPolicy.parse([]).ip_prefixes == (24, 48)
    text = 'ip_prefixes = [16, 64]\nrules = [{ class = "ip*", action = "tokenise" }]\n'
    config = _privacy(tomllib.loads(text))
    assert (config.ip_prefixes, config.rules[0].data_class) == ((16, 64), "ip*")


def test_a_class_that_no_rule_speaks_of_is_masked_in_every_field() -> None:
    policy = PrivacyPolicy(rules=(PrivacyRule("keep", "email"),))
    row = {"body": "a@b.org 4111111111111111", "attributes": {"n": "4111111111111111"}}
    (after,) = rows_of(PolicyProtector(policy).protect(batch_of([row])).batch)
    assert (after["body"], dict(after["attributes"])) == ("a@b.org [card]", {"n": "[card]"})


def test_a_policy_that_is_refused_leaves_the_running_one_in_force() -> None:
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
    with pytest.raises(ConfigurationError):
        protector.replace(PrivacyPolicy(2, (PrivacyRule("mask"), PrivacyRule("keep", "email"))))
    (after,) = rows_of(protector.protect(batch_of([{"body": "a@b.org"}])).batch)
    assert (after["body"], after["policy_version"]) == ("[email]", 1)


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({"source": "*alice@example.com*"}, ["source"]),
        ({"field": "attributes.alice@example.com"}, ["field"]),
        ({"field": "attributes.alice?example.com"}, ["field"]),
        ({"source": "[a]lice@example.*"}, ["source"]),
        ({"source": "al*ice@example.com"}, ["source"]),
        ({"source": "4111*1111*1111*1111"}, ["source"]),
        ({"source": "4111?1111?1111?1111*"}, ["source"]),
        ({"field": "*DE89370400440532013000"}, ["field"]),
        ({"class": "alice@example.com", "source": "alice@example.com[", "field": "[]"}, ["class", "source"]),
    ],
)
def test_globs_that_hold_personal_data_are_refused_and_not_repeated(rule: dict[str, str], names: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PrivacyPolicy.parse([{"action": "keep", **rule}, {"action": "shred"}])
    told = [problem for problem in caught.value.problems if "holds personal data" in problem]
    assert [problem.split(":")[0] for problem in told] == [f"privacy.rules[0].{name}" for name in names]
    assert any("unknown action 'shred'" in problem for problem in caught.value.problems)
    for part in ("alice", "lice", "1111", "DE89"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    "glob",
    [
        "*",
        "*@example.com",
        "sshd@*",
        "sshd@web-[0-9]?",
        "10.0.0.1",
        "web-??.prod.example.*",
        "attributes.http.request.header.authorization",
        "resource.k8s.pod.*",
        "attributes.user.*.mail",
        "kube-*-7d9f8b6c5d-?????",
        "*password*",
        "[[]email]*",
    ],
)
def test_globs_that_name_nobody_are_taken(glob: str) -> None:
    PrivacyPolicy.parse([{"action": "keep", "source": glob, "field": glob}])


def test_a_policy_that_was_in_force_goes_on_whatever_its_globs_hold() -> None:
    policy = PrivacyPolicy(rules=(PrivacyRule("keep", source="*alice@example.com*"),))
    assert policy.problems() == []
    assert PolicyProtector(policy).policy is policy
