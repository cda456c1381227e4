from __future__ import annotations

import asyncio

import pytest

from heimdall.privacy.v1 import privacy_service_pb2 as pb
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.protect.names_model import NamesModel
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.services.privacy.model import PolicySample, PolicyTrial
from heimdall_server.services.privacy.translate import sample_in
from heimdall_server.wiring.clock import SystemClock
from heimdall_server.wiring.policy_control import ProtectorPolicy

SAMPLE = "kontakt,remark\n" + "".join(
    f"0176{number:07},John Smith from Acme Corporation called on Monday\n" for number in range(1234567, 1234587)
)


def tried(*, as_dump: bool = False, find_names: bool = False) -> PolicyTrial:
    async def prepare(policy: PrivacyPolicy) -> None:
        del policy

    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),)))
    control = ProtectorPolicy(protector, SystemClock(), prepare)
    sample = PolicySample((), SAMPLE.encode(), "csv", "people", 5, as_dump=as_dump, find_names=find_names)
    return asyncio.run(control.test(sample))


def found(trial: PolicyTrial) -> dict[tuple[str, str], int]:
    return {(one.data_class, one.field): one.value_count for one in trial.findings}


def test_columns_of_a_sample_are_classified_where_it_counts_as_a_dump() -> None:
    assert found(tried()) == {}
    assert found(tried(as_dump=True)) == {("phone", "attributes.kontakt"): 20}


@pytest.mark.skipif(not NamesModel.available(), reason="the optional model of names isn't installed")
@pytest.mark.filterwarnings("default")
def test_names_in_a_sample_are_told_by_field_and_shown_masked() -> None:
    trial = tried(as_dump=True, find_names=True)
    assert found(trial) == {
        ("phone", "attributes.kontakt"): 20,
        ("name", "attributes.remark"): 20,
        ("organisation", "attributes.remark"): 20,
    }
    assert all("Smith" not in row and "[name]" in row for row in trial.rows)


def test_sample_of_a_server_without_the_model_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NamesModel, "available", staticmethod(lambda: False))
    with pytest.raises(InvalidArgumentError, match=r"heimdall-mesh\[names\]"):
        tried(as_dump=True, find_names=True)


def test_sample_in_which_names_are_looked_for_counts_as_a_dump() -> None:
    plain, dump, names = (
        sample_in(pb.TestPolicyRequest(sample=b"x", as_dump=as_dump, find_names=find_names))
        for as_dump, find_names in ((False, False), (True, False), (False, True))
    )
    assert (plain.as_dump, plain.find_names) == (False, False)
    assert (dump.as_dump, dump.find_names) == (True, False)
    assert (names.as_dump, names.find_names) == (True, True)
