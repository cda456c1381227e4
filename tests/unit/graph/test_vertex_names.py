from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from heimdall_server.services.graph.logic.naming import VertexNames
from heimdall_server.services.graph.model import Named


class _NoOwners:
    async def learn(self, tokens: Iterable[str], *, through: int) -> Mapping[str, str]:
        del through
        raise AssertionError(list(tokens))


@pytest.mark.parametrize(
    ("named", "asked"),
    [
        (Named(type="domain", value="evil.example"), []),
        (Named(type="url", value="https://evil.example/a"), []),
        (Named(type="ip", value="203.0.113.7"), ["ipv4"]),
        (Named(type="email", value="alice@example.com"), ["email"]),
    ],
)
async def test_only_values_of_personal_classes_need_a_permission_even_where_the_policy_tokenises_everything(
    named: Named, asked: list[str]
) -> None:
    matched: list[str] = []

    async def match(data_class: str, value: str) -> None:
        assert value
        matched.append(data_class)

    names = VertexNames(
        classes=frozenset({"email", "ipv4", "ipv6"}),
        may_tokenise=lambda _: True,
        mac=lambda text: text[:32].ljust(32),
        owners=_NoOwners(),
        match=match,
    )
    assert await names.ids(named)
    assert matched == asked
