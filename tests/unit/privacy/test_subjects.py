"""Who a subject is: an address goes by its version, whatever the class that was said."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.personal import PersonalValue, TokenName
from heimdall_server.ports.vault import Vault
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.services.privacy.logic.subjects import SubjectNames
from tests.support.personal_search import keyring

ADDRESS = "198.51.100.7"


class Empty:
    """A vault that has nothing."""

    async def get(self, names: object) -> dict[TokenName, object]:
        del names
        return {}


@pytest.fixture
def subjects(tmp_path: Path) -> SubjectNames:
    ring = keyring(tmp_path)

    def form(data_class: str, value: str) -> str:
        return str(personal_form(data_class, pa.array([value], pa.string()))[0])

    return SubjectNames(
        tokeniser=ring, sealer=ring, vault=cast("Vault", Empty()), classes=tuple(CLASSES), personal_form=form
    )


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (ADDRESS, [("ipv4", ADDRESS), ("ipv6", f"::ffff:{ADDRESS}")]),
        (f"::ffff:{ADDRESS}", [("ipv4", ADDRESS), ("ipv6", f"::ffff:{ADDRESS}")]),
        ("2001:DB8:0:0::7", [("ipv6", "2001:db8::7")]),
        (f"[ipv4:0{'a' * 26}]", [("ipv4", f"[ipv4:0{'a' * 26}]")]),
    ],
)
async def test_an_address_is_known_by_each_form_that_records_may_have_of_it(
    subjects: SubjectNames, value: str, same: list[tuple[str, str]]
) -> None:
    assert await subjects.resolve([PersonalValue("ip", value)]) == await subjects.resolve(
        [PersonalValue(*one) for one in same]
    )


async def test_what_is_no_address_is_refused_with_the_other_problems(subjects: SubjectNames) -> None:
    given = [("ip", "web-1"), ("ip", "10.1.2.0/24"), ("ip", f"[email:0{'a' * 26}]"), ("ip", ADDRESS), ("nonsense", "x")]
    with pytest.raises(InvalidArgumentError) as caught:
        await subjects.resolve([PersonalValue(*one) for one in given])
    problems = [(caught.value.field, caught.value.rule), *caught.value.further]
    assert [field for field, _ in problems] == [
        *(f"subject[{index}].value" for index in (0, 1, 2)),
        "subject[4].data_class",
    ]
    assert "web-1" not in str(problems)
