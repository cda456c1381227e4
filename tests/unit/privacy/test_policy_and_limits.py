"""Versions of the policy, and how much a caller may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from heimdall_server.domain.errors import (
    BudgetExceededError,
    ConfigurationError,
    EtagMismatchError,
    InvalidArgumentError,
    StoreError,
)
from heimdall_server.ports.operations import PolicyRule
from heimdall_server.services.privacy.logic.limits import CallerRates, PrivacyLimits
from heimdall_server.services.privacy.logic.policy import PolicyUseCase
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller, DataClass, PolicySample, PolicyTrial
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.ledger.ledger import FileLedger
from tests.support.journal import ManualClock
from tests.support.sealed_filters import FILTERS

ANNA = Caller("spiffe://test.heimdall/client/anna", "r")
MASK, KEEP = PolicyRule("mask"), PolicyRule("keep", "ip*")


@dataclass
class Control:
    """A protector's policy."""

    version: int = 1
    rules: Sequence[PolicyRule] = (KEEP, MASK)
    fallback_action: str = "mask"
    classes: Sequence[DataClass] = (DataClass("email", "an address", credential=False),)
    actions: Sequence[str] = ("keep", "mask")
    key_problem: StoreError | None = None

    def check(self, rules: Sequence[PolicyRule], version: int) -> None:
        del version
        bad = [
            f"privacy.rules[{i}].action: unknown action {r.action!r}" for i, r in enumerate(rules) if r.action == "x"
        ]
        if bad:
            raise ConfigurationError(tuple(bad))

    async def prepare(self, rules: Sequence[PolicyRule], version: int) -> None:
        self.check(rules, version)
        if self.key_problem is not None:
            raise self.key_problem

    async def replace(self, rules: Sequence[PolicyRule], version: int) -> None:
        self.check(rules, version)
        self.rules, self.version = tuple(rules), version

    async def test(self, sample: PolicySample) -> PolicyTrial:
        self.check(sample.rules, 1)
        return PolicyTrial(1, 0, (), ("{}",))


@asynccontextmanager
async def restored(folder: Path, control: Control) -> AsyncIterator[PolicyUseCase]:
    clock = ManualClock()
    audit = await FileAuditLog.open(folder / "audit", clock=clock, mask_text=str)
    ledger = await FileLedger.open(folder / "privacy", clock=clock, filters=FILTERS)
    policy = PolicyUseCase(
        control=control, log=ledger.policies, trail=AuditTrail(audit), clock=clock, mask_text=lambda text: text.upper()
    )
    try:
        await policy.restore()
        yield policy
    finally:
        await ledger.close()
        await audit.close()


async def replaced(policy: PolicyUseCase, rules: Sequence[PolicyRule], **changes: str) -> int:
    values = {"reason": "since", "etag": "", "request_id": "", **changes}
    return (await policy.replace(ANNA, rules, **values)).version.version


async def test_the_newest_policy_wins_over_an_older_configuration_and_a_newer_one_over_it(tmp_path: Path) -> None:
    control = Control()
    async with restored(tmp_path, control) as policy:
        assert policy.current().policy.version.changed_by == "configuration"
        assert await replaced(policy, [MASK]) == 2
        assert (control.version, control.rules) == (2, (MASK,))
    control = Control()
    async with restored(tmp_path, control) as policy:
        assert (control.version, control.rules) == (2, (MASK,))
        assert policy.current().policy.version.reason == "SINCE"
    control = Control(version=3)
    async with restored(tmp_path, control) as policy:
        assert control.rules == (KEEP, MASK)
        found, more = await policy.versions(before=0, count=2)
        assert ([one.version.version for one in found], more) == ([3, 2], 2)
        found, more = await policy.versions(before=more, count=2)
        assert ([one.version.version for one in found], more) == ([1], 0)


async def test_a_bad_policy_is_refused_with_every_problem_and_the_running_one_stays(tmp_path: Path) -> None:
    control = Control()
    async with restored(tmp_path, control) as policy:
        with pytest.raises(InvalidArgumentError) as caught:
            await replaced(policy, [PolicyRule("x"), MASK, PolicyRule("x")])
        assert (caught.value.field, len(caught.value.further)) == ("rules[0].action", 1)
        with pytest.raises(InvalidArgumentError):
            await policy.test(PolicySample([PolicyRule("x")], b"a", "", "s", 1))
        assert (control.version, policy.current().policy.version.version) == (1, 1)


async def test_a_policy_whose_keys_cannot_be_made_leaves_no_trace_but_the_refusal(tmp_path: Path) -> None:
    control = Control(key_problem=StoreError("aws_kms", "it doesn't answer"))
    async with restored(tmp_path, control) as policy:
        with pytest.raises(StoreError):
            await replaced(policy, [MASK])
        assert (control.version, policy.current().policy.version.version) == (1, 1)
        found, _ = await policy.versions(before=0, count=9)
        assert [one.version.version for one in found] == [1]


async def test_somebody_elses_change_is_noticed_and_a_repeat_is_harmless(tmp_path: Path) -> None:
    async with restored(tmp_path, Control()) as policy:
        etag = policy.current().policy.etag
        assert await replaced(policy, [MASK], etag=etag, request_id="r-1") == 2
        assert await replaced(policy, [MASK], etag=etag, request_id="r-1") == 2
        with pytest.raises(EtagMismatchError):
            await replaced(policy, [KEEP], etag=etag)
        with pytest.raises(InvalidArgumentError, match="request_id"):
            await replaced(policy, [KEEP], request_id="r-1")


def test_a_callers_bucket_empties_and_fills_and_is_its_own() -> None:
    clock = ManualClock()
    rates = CallerRates(PrivacyLimits(values_per_minute=600, values_burst=1000), clock)
    rates.take("a", 1000)
    with pytest.raises(BudgetExceededError) as caught:
        rates.take("a", 100)
    assert 10 <= caught.value.retry_after_s <= 11
    rates.take("b", 1000)
    clock.advance(caught.value.retry_after_s)
    rates.take("a", 100)
    with pytest.raises(BudgetExceededError):
        rates.take("a", 100)


def test_limits_that_cannot_work_are_refused_together() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PrivacyLimits(values_per_minute=0, values_burst=10)
    assert len(caught.value.problems) == 2
