"""Whose tokens are: the vault is asked once while they are remembered, and no more of them are than may be."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import pytest

from heimdall_server.domain.personal import SealedValue, TokenName
from heimdall_server.projections.graph import identities as module
from heimdall_server.projections.graph.identities import Identities


class CountingVault:
    """Has a value for every token, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get(self, names: Collection[TokenName]) -> Mapping[TokenName, SealedValue]:
        self.asked += sorted(name.word[-1] for name in names)
        return {name: SealedValue(name, 1, name.word.encode()) for name in names}

    def open(self, value: SealedValue) -> str:
        return f"{value.name.word}@mail.example"


def token(letter: str) -> str:
    return f"email:1{letter * 26}"


async def test_what_is_asked_for_again_stays_known_and_the_rest_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    vault = CountingVault()

    async def applied(_: int) -> bool:
        return True

    identities = Identities(
        vault,  # type: ignore[arg-type]
        vault,  # type: ignore[arg-type]
        lambda message: hashlib.sha256(message).digest(),
        wait_applied=applied,
    )
    first = await identities.learn([token("a"), token("b")], through=1)
    for letter in "cdefgh":
        again = await identities.learn([token("a"), token(letter)], through=1)
        assert again[token("a")] == first[token("a")]
    assert vault.asked == list("abcdefgh")
    await identities.learn([token("b")], through=1)
    assert vault.asked[8:] == ["b"], "it was let go"
    identities.forget([f"[{token('a')}]"])
    await identities.learn([token("a")], through=1)
    assert vault.asked[9:] == ["a"]
