from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher, key_class
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.errors import IntegrityError
from heimdall_server.domain.personal import TOKEN, TokenName
from heimdall_server.domain.sealed_values import decode
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.lookalikes import escaped_text, restored
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.sealed_lately import SealedLately
from tests.unit.protect.reference import Row, batch_of, rows_of
from tests.unit.protect.test_protector_property import rows

EVERYTHING = PrivacyPolicy(rules=(PrivacyRule("tokenise"),))
FORGED = "[email:1" + "a" * 26 + "]"


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    path: Path = tmp_path_factory.mktemp("keys")
    classes = (*CLASSES, *map(key_class, CLASSES))
    return asyncio.run(Keyring.load(path / "keyring", LocalKeyEncryption(RootKey(bytes(range(32)))), classes=classes))


def tokenising(
    keyring: Keyring, policy: PrivacyPolicy = EVERYTHING, lately: SealedLately | None = None
) -> PolicyProtector:
    return PolicyProtector(policy, keyed_actions(keyring, keyring, lately=lately, cipher=DataKeyFieldCipher(keyring)))


def masked(text: str) -> str:
    return TOKEN.sub(r"[\1]", text)


def test_what_a_warm_up_names_is_sealed_with_the_first_record_that_does(keyring: Keyring) -> None:
    protector = tokenising(keyring)
    protector.warm_up()
    assert protector.protect(batch_of([{"body": "to somebody@example.com"}])).sidecars


@settings(max_examples=40, deadline=None)
@given(records=st.lists(rows(), max_size=10))
def test_tokens_stand_where_masks_would(keyring: Keyring, records: list[Row]) -> None:
    batch = batch_of(records)
    tokenised = tokenising(keyring).protect(batch).batch
    tokenised.validate(full=True)
    wanted = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("mask"),))).protect(batch).batch
    for got, want in zip(rows_of(tokenised), rows_of(wanted), strict=True):
        words = set(got.pop("tokens").split())
        want.pop("tokens")
        outside = {key: value for key, value in got.items() if key != "body"}
        assert {found[2] for found in TOKEN.finditer(repr(outside))} <= words
        for key, value in got.items():
            if isinstance(value, str):
                assert masked(value) == want[key]
            elif isinstance(value, list):
                assert sorted((masked(k), masked(v) if isinstance(v, str) else v) for k, v in value) == want[key]


def test_every_token_leads_to_its_value(keyring: Keyring) -> None:
    body = "Alice@Example.com and alice@example.com paid with 4111 1111 1111 1111 from 10.1.2.3"
    protected = tokenising(keyring).protect(batch_of([{"body": body}]))
    sealed = {value.name: keyring.open(value) for value in decode(protected.sidecars["vault"])}
    found = [TokenName(*match.groups()) for match in TOKEN.finditer(protected.batch["body"][0].as_py())]
    assert [name.data_class for name in found] == ["email", "email", "card", "ipv4"]
    assert [sealed[name] for name in found][2:] == ["4111111111111111", "10.1.2.3"]
    assert keyring.words("ipv4_24", ["10.1.2.0/24"]) == protected.batch["tokens"][0].as_py().split()


def test_value_is_sealed_again_until_its_frame_is_durable(keyring: Keyring) -> None:
    protector, batch = tokenising(keyring), batch_of([{"body": "a@b.org"}])
    first, second = protector.protect(batch), protector.protect(batch)
    assert first.sidecars
    assert second.sidecars
    second.on_durable()
    assert not protector.protect(batch).sidecars


def test_what_was_pending_at_an_erasure_never_counts(keyring: Keyring) -> None:
    lately = SealedLately()
    protector, batch = tokenising(keyring, lately=lately), batch_of([{"body": "a@b.org"}])
    pending = protector.protect(batch)
    (value,) = decode(pending.sidecars["vault"])
    lately.forget([value.name])
    assert len(lately) == 0
    pending.on_durable()
    assert protector.protect(batch).sidecars


def test_cache_is_bounded() -> None:
    lately = SealedLately(entries_max=100)
    for first in range(0, 1000, 10):
        lately.learn("email", 0, {str(number): "w" for number in range(first, first + 10)})
    assert len(lately) <= 120
    assert lately.words("email", 0, ["999", "0"]) == ["w", None]
    assert lately.words("email", 1, ["999"]) == [None]
    assert "999" not in repr(lately)


@pytest.mark.parametrize("rules", [(PrivacyRule("keep"),), (PrivacyRule("mask"),), (PrivacyRule("tokenise"),)])
def test_forged_token_is_escaped_wherever_it_stands(keyring: Keyring, rules: tuple[PrivacyRule, ...]) -> None:
    row: Row = dict.fromkeys(("body", "service", "host", "event_name", "overflow", "dump"), f"x {FORGED}")
    row |= {"attributes": {FORGED: FORGED}, "resource_number": {FORGED: 1.0}}
    (got,) = rows_of(tokenising(keyring, PrivacyPolicy(rules=rules)).protect(batch_of([row])).batch)
    assert FORGED not in repr(got)
    assert got["body"] == f"x {FORGED.replace('[', '[~')}"
    assert got["resource_number"] == [(FORGED.replace("[", "[~"), 1.0)]


@given(st.lists(st.sampled_from([FORGED, "[~", "~", "[", FORGED[1:], " x"])).map("".join))
def test_escaping_is_undone_exactly(text: str) -> None:
    assert restored(escaped_text(text)) == text
    assert not TOKEN.search(escaped_text(text))


def test_key_that_holds_a_value_is_protected(keyring: Keyring) -> None:
    row: Row = {"attributes": {"a@b.org": "x"}, "attributes_bool": {"c@d.org": True}}
    protected = tokenising(keyring).protect(batch_of([row, {"attributes": {"plain": "y"}}])).batch
    keys = [protected[name][0].as_py()[0][0] for name in ("attributes", "attributes_bool")]
    assert [masked(key) for key in keys] == ["[email]", "[email]"]
    assert set(protected["tokens"][0].as_py().split()) == {TOKEN.search(key)[2] for key in keys}  # type: ignore[index]
    assert protected["attributes"][1].as_py() == [("plain", "y")]
    assert protected["tokens"][1].as_py() == ""


def test_encrypted_value_is_read_again_in_its_own_field_only(keyring: Keyring) -> None:
    policy = PrivacyPolicy(rules=(PrivacyRule("encrypt"),))
    batch = batch_of([{"body": "a@b.org a@b.org", "attributes": {"k": "a@b.org"}}])
    (row,) = rows_of(tokenising(keyring, policy).protect(batch).batch)
    texts = re.findall(r"\[enc:email:([A-Za-z0-9_-]+)\]", row["body"])
    assert len(set(texts)) == 2
    cipher = DataKeyFieldCipher(keyring)
    assert [cipher.decrypt("email", text, "body") for text in texts] == ["a@b.org"] * 2
    for data_class, field, text in (
        ("email", "overflow", texts[0]),
        ("phone", "body", texts[0]),
        ("email", "body", texts[0][:-3]),
    ):
        with pytest.raises(IntegrityError):
            cipher.decrypt(data_class, text, field)


def test_mixed_policy_treats_each_class_its_own_way(keyring: Keyring) -> None:
    rules = tuple(
        PrivacyRule(action, name)
        for action, name in (
            ("keep", "ip*"),
            ("mask", "secret"),
            ("partial", "card"),
            ("hash", "phone"),
            ("drop", "iban"),
        )
    )
    protector = tokenising(keyring, PrivacyPolicy(rules=(*rules, PrivacyRule("tokenise"))))
    row: Row = {
        "body": "password=x a@b.org 4111111111111111 +4915112345678 10.0.0.1",
        "overflow": "DE89370400440532013000 a@b.org",
    }
    (got,) = rows_of(protector.protect(batch_of([row])).batch)
    assert re.fullmatch(
        r"password=\[secret\] \[email:\w{27}\] \[card\]1111 \[hash:phone:[0-9a-f]{32}\] 10\.0\.0\.1", got["body"]
    )
    assert got["overflow"] == ""


def test_large_batches_are_treated_as_their_rows(keyring: Keyring) -> None:
    draw = random.Random(7)
    pieces = (
        "a@b.org",
        "c@d.org",
        "4111111111111111",
        " ",
        "x",
        "password=ab::1cd",
        "+4915112345678",
        "é",
        "[email]",
        FORGED,
    )
    bodies = ["".join(draw.choices(pieces, k=5)) for _ in range(3000)]
    protector = tokenising(keyring)
    together = protector.protect(batch_of([{"body": body} for body in bodies])).batch["body"].to_pylist()
    alone = [protector.protect(batch_of([{"body": body}])).batch["body"][0].as_py() for body in bodies[:60]]
    assert together[:60] == alone


def test_encrypted_value_under_a_key_that_holds_one_is_bound_to_the_scope(keyring: Keyring) -> None:
    policy = PrivacyPolicy(rules=(PrivacyRule("encrypt"),))
    row: Row = {"attributes": {"a@b.org": "c@d.org", "plain": "e@f.org"}, "attributes_bool": {"g@h.org": True}}
    batch = tokenising(keyring, policy).protect(batch_of([row])).batch
    (key, under), (_, beside) = batch["attributes"][0].as_py()
    ((flag, _),) = batch["attributes_bool"][0].as_py()
    cipher = DataKeyFieldCipher(keyring)
    places = ((key, "attributes"), (under, "attributes"), (beside, "attributes.plain"), (flag, "attributes"))
    texts = [cipher.decrypt("email", text.removeprefix("[enc:email:").rstrip("]"), field) for text, field in places]
    assert texts == ["a@b.org", "c@d.org", "e@f.org", "g@h.org"]
