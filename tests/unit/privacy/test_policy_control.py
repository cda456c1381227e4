"""What a policy would do to a sample, told by class, field and rule; and policies that are put in force, or not."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from heimdall_server.domain.errors import ConfigurationError, FormatError
from heimdall_server.ports.operations import PolicyRule
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.services.privacy.model import PolicySample
from heimdall_server.wiring.policy_control import ProtectorPolicy
from tests.support.journal import ManualClock

ALICE, BOB, CARD = "alice@example.com", "bob@example.com", 4111111111111111
RULES = (
    PolicyRule("keep", "ip*"),
    PolicyRule("drop", "email", "*", "note"),
    PolicyRule("partial", "email", "*", "attributes.*"),
    PolicyRule("keep", "email", "other"),
    PolicyRule("mask", "email"),
)


def lines(*rows: dict[str, object]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


class Controlled:
    """A control, and what was asked of the keys."""

    def __init__(self) -> None:
        self.protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
        self.prepared: list[PrivacyPolicy] = []
        self.control = ProtectorPolicy(self.protector, ManualClock(), self._prepare)

    async def _prepare(self, policy: PrivacyPolicy) -> None:
        self.prepared.append(policy)

    async def findings(
        self, data: bytes, rules: Sequence[PolicyRule] = RULES, source: str = ""
    ) -> set[tuple[object, ...]]:
        trial = await self.control.test(PolicySample(rules, data, "", source, 5))
        assert ALICE not in repr(trial)
        return {(one.data_class, one.field, one.action, one.value_count, one.rule_index) for one in trial.findings}


async def test_findings_are_told_by_class_field_and_rule() -> None:
    row = {
        "message": f"{ALICE} {BOB} from 10.0.0.1",
        "user": ALICE,
        "note": f"{ALICE} and {BOB}",
        "card": {"value": CARD},
        "host": "10.0.0.9",
        "service": ALICE,
        ALICE: True,
        "password": "hunter22",
    }
    # What is counted stands in each record: of two with the same service there are two.
    found = await Controlled().findings(lines(row, {"message": "nothing", "service": ALICE}))
    assert found == {
        ("email", "body", "mask", 2, 4),
        ("email", "attributes.user", "partial", 1, 2),
        ("email", "attributes.note", "drop", 2, 1),
        ("email", "service", "mask", 2, 4),
        ("email", "attributes.[email]", "partial", 1, 2),
        ("ipv4", "body", "keep", 1, 0),
        ("ipv4", "host", "keep", 1, 0),
        ("card", "attributes.card.value", "mask", 1, -1),
        ("secret", "attributes.password", "mask", 1, -1),
    }


async def test_a_source_has_its_own_rules() -> None:
    data = lines({"message": BOB})
    assert await Controlled().findings(data, source="other") == {("email", "body", "keep", 1, 3)}
    assert await Controlled().findings(data, source="web") == {("email", "body", "mask", 1, 4)}


async def test_a_sample_is_shown_as_it_would_be_stored_and_changes_nothing() -> None:
    made = Controlled()
    trial = await made.control.test(PolicySample(RULES, lines({"message": f"{ALICE} 10.0.0.1"}), "ndjson", "", 1))
    assert json.loads(trial.rows[0])["body"] == "[email] 10.0.0.1"
    assert (trial.record_count, trial.rejected_count) == (1, 0)
    assert (made.prepared, made.protector.policy_version) == ([], 1)
    with pytest.raises(FormatError):
        await made.control.test(PolicySample(RULES, b"x", "no such format", "", 1))


async def test_a_policy_with_problems_is_refused_with_all_of_them_and_the_running_one_stays() -> None:
    made = Controlled()
    bad = (
        PolicyRule("keep", "emial"),
        PolicyRule("shred"),
        PolicyRule("encrypt", "email"),
        PolicyRule("mask", "*", "a[b"),
        PolicyRule("mask"),
        PolicyRule("drop", "card"),
    )
    with pytest.raises(ConfigurationError) as caught:
        await made.control.replace(bad, 2)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "privacy.rules[0].class",
        "privacy.rules[1].action",
        "privacy.rules[2].action",
        "privacy.rules[3].source",
        "privacy.rules[5]",
    ]
    assert (made.control.version, made.prepared) == (1, [])
    assert [rule.action for rule in made.control.rules] == ["mask"]


async def test_a_policy_whose_globs_name_somebody_is_neither_tried_nor_prepared_and_one_of_the_ledger_goes_on() -> None:
    made = Controlled()
    named = (PolicyRule("keep", "*", f"*{ALICE}*"), PolicyRule("mask", "*", "*", f"attributes.{ALICE}"))
    for attempt in (
        lambda: made.control.prepare(named, 2),
        lambda: made.control.test(PolicySample(named, b"x", "text", "", 1)),
    ):
        with pytest.raises(ConfigurationError, match="holds personal data") as caught:
            await attempt()
        places = [problem.split(":")[0] for problem in caught.value.problems]
        assert places == ["privacy.rules[0].source", "privacy.rules[1].field"]
        assert ALICE not in f"{caught.value} {caught.value!r}"
    assert (made.control.version, made.prepared) == (1, [])
    await made.control.replace(named, 2)
    await made.control.test(PolicySample((), b"x", "text", "", 1))
    assert made.control.version == 2


async def test_keys_are_made_before_a_policy_is_in_force_and_what_else_is_configured_stays() -> None:
    made = Controlled()
    made.protector.replace(PrivacyPolicy(1, (PrivacyRule("mask"),), thorough=False, ip_prefixes=(16, 0)))
    await made.control.replace(RULES, 7)
    (prepared,) = made.prepared
    assert (prepared.version, prepared.thorough, prepared.ip_prefixes) == (7, False, (16, 0))
    assert made.protector.policy is prepared
