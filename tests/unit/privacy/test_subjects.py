"""Who a subject is: an address goes by its version, whatever the class that was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow as pa
import pytest

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.canonical.possible import why_impossible
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.personal import PersonalValue, TokenName
from heimdall_server.ports.vault import Vault
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.services.privacy.logic.subjects import SubjectNames
from tests.support.personal_search import keyring

ADDRESS = "198.51.100.7"


@dataclass
class Few:
    """A vault that has these, with nothing in them to open."""

    names: set[TokenName] = field(default_factory=set)

    async def get(self, names: Sequence[TokenName]) -> dict[TokenName, object]:
        return {name: b"" for name in names if name in self.names}


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return keyring(tmp_path)


@pytest.fixture
def vault() -> Few:
    return Few()


@pytest.fixture
def subjects(ring: Keyring, vault: Few) -> SubjectNames:

    def form(data_class: str, value: str) -> str:
        return str(personal_form(data_class, pa.array([value], pa.string()))[0])

    return SubjectNames(
        tokeniser=ring,
        sealer=ring,
        vault=cast("Vault", vault),
        classes=tuple(CLASSES),
        personal_form=form,
        why_impossible=why_impossible,
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


async def test_what_no_value_can_be_is_refused_with_every_problem_and_unnamed(subjects: SubjectNames) -> None:
    given = [
        ("email", "notmail"),
        ("card", "4111111111111112"),
        ("email", "a@b.co,c@d.co"),
        ("email", "polly.m@planted-mail"),
        ("email", "alice@example.com"),
        ("phone", "0151 1234567"),
    ]
    with pytest.raises(InvalidArgumentError) as caught:
        await subjects.resolve([PersonalValue(*one) for one in given])
    problems = [(caught.value.field, caught.value.rule), *caught.value.further]
    assert [field for field, _ in problems] == [f"subject[{index}].value" for index in range(4)]
    assert "Luhn" in problems[1][1]
    assert "several" in problems[2][1]
    assert not any(value in str(problems) for _, value in given)


async def test_an_odd_value_that_the_vault_holds_is_a_subject(
    subjects: SubjectNames, ring: Keyring, vault: Few
) -> None:
    (word,) = ring.words("email", ["polly.m@planted-mail"])
    vault.names.add(TokenName("email", word))
    found = await subjects.resolve([PersonalValue("email", "Polly.M@planted-mail")])
    assert list(found.names) == [TokenName("email", word)]
