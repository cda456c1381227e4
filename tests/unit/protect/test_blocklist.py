"""A value that is blocked is tokenised like any other, and never sealed: not in this epoch, not in the next, not after a restart."""

from __future__ import annotations

from pathlib import Path

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.personal import TOKEN, TokenName
from heimdall_server.domain.sealed_values import SIDECAR, decode
from heimdall_server.protect.blocklist import Blocklist
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.sealed_lately import SealedLately
from tests.support.journal import make_batch

ALICE, BOB = "alice@example.com", "bob@example.org"
EVERYTHING = PrivacyPolicy(rules=(PrivacyRule("tokenise"),))


async def make(folder: Path) -> tuple[Keyring, Blocklist, PolicyProtector]:
    ring = await Keyring.load(
        folder / "keyring", LocalKeyEncryption(RootKey(b"k" * 32)), classes=("email", "person", "domain")
    )
    blocklist = Blocklist()
    actions = keyed_actions(ring, ring, lately=SealedLately(), blocklist=blocklist)
    return ring, blocklist, PolicyProtector(EVERYTHING, actions)


def protected(protector: PolicyProtector, *, keep: bool = True) -> tuple[set[TokenName], set[TokenName]]:
    """The tokens of a record that names both, and those whose values ride with it."""
    done = protector.protect(make_batch([f"{ALICE} wrote to {BOB}"]))
    if keep:
        done.on_durable()
    body = str(done.batch.column("body")[0].as_py())
    sealed = decode(done.sidecars[SIDECAR]) if SIDECAR in done.sidecars else []
    return {TokenName(found[1], found[2]) for found in TOKEN.finditer(body)}, {value.name for value in sealed}


def name(ring: Keyring, value: str) -> TokenName:
    return TokenName("email", ring.words("email", [value])[0])


async def test_a_blocked_value_is_never_sealed_in_any_epoch_to_come(tmp_path: Path) -> None:
    ring, blocklist, protector = await make(tmp_path)
    blocklist.block(["email"], ring.digests("email", [ALICE]))
    for _ in range(3):
        tokens, sealed = protected(protector)
        assert tokens == {name(ring, ALICE), name(ring, BOB)}
        assert sealed == {name(ring, BOB)}
        assert protected(protector)[1] == set()
        await ring.new_epoch()
    ring, blocklist, protector = await make(tmp_path)
    blocklist.block(["email"], ring.digests("email", [ALICE]))
    assert protected(protector)[1] == {name(ring, BOB)}


async def test_nothing_else_is_blocked_by_it(tmp_path: Path) -> None:
    ring, blocklist, protector = await make(tmp_path)
    blocklist.block(["email"], ring.digests("person", [ALICE]))
    blocklist.block(["person"], ring.digests("email", [ALICE]))
    blocklist.block(["email"], [])
    assert protected(protector)[1] == {name(ring, ALICE), name(ring, BOB)}


async def test_what_is_blocked_after_it_was_sealed_is_not_sealed_again_once_it_is_forgotten(tmp_path: Path) -> None:
    ring = await Keyring.load(tmp_path / "keyring", LocalKeyEncryption(RootKey(b"k" * 32)), classes=("email",))
    lately, blocklist = SealedLately(), Blocklist()
    protector = PolicyProtector(EVERYTHING, keyed_actions(ring, ring, lately=lately, blocklist=blocklist))
    assert protected(protector)[1] == {name(ring, ALICE), name(ring, BOB)}
    blocklist.block(["email"], ring.digests("email", [ALICE]))
    lately.clear()
    assert protected(protector)[1] == {name(ring, BOB)}
