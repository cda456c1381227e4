"""Records of the time of former policies are found after a restart: what those allowed, a search still reckons with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from heimdall_server.config import load
from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.language.format import format_query
from heimdall_server.language.parser import parse
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.ports.operations import PolicyRule, PolicyVersion
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.storage.ledger.audit import FileAuditLog
from heimdall_server.storage.ledger.ledger import FileLedger
from heimdall_server.wiring.clock import SystemClock
from heimdall_server.wiring.keys import PrivacyKeys
from heimdall_server.wiring.searching import make_personal_search
from tests.support.sealed_filters import FILTERS


async def test_a_class_that_is_masked_now_is_still_found_by_the_tokens_of_before(tmp_path: Path) -> None:
    clock = SystemClock()
    ring = await Keyring.load(tmp_path / "keyring", LocalKeyEncryption(RootKey(bytes(32))), classes=CLASSES)
    protector = PolicyProtector(PrivacyPolicy(3, (PrivacyRule("mask"),)), keyed_actions(ring, ring))
    keys = cast("PrivacyKeys", SimpleNamespace(keyring=ring, protector=protector))
    audit = await FileAuditLog.open(tmp_path / "audit", clock=clock, mask_text=str)
    ledger = await FileLedger.open(tmp_path / "ledger", clock=clock, filters=FILTERS)
    for version, rules in ((1, (("keep", "phone"), ("tokenise", "email"))), (2, (("mask", "*"),))):
        made = tuple(PolicyRule(action=action, data_class=name) for action, name in rules)
        await ledger.policies.append(PolicyVersion(version, made, "configuration", 0))
    config, _ = load()
    try:
        search = await make_personal_search(config, keys, audit, clock, ledger.policies, ErasedValues())
        rewritten = search.terms.rewrite(parse("email:alice@example.com phone:+4915112345678", now_ns=0))
        (word,) = ring.words("email", ["alice@example.com"])
        assert format_query(rewritten.query).startswith(f"({word} OR tokens:{word}) AND ")
        assert [one.data_class for one in rewritten.matched] == ["email"]
    finally:
        await ledger.close()
        await audit.close()
