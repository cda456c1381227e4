"""What stands in a frame beside its records: dead letters, and sentences and names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heimdall_server.crypto.envelope import RootKey
from heimdall_server.crypto.field_cipher import DataKeyFieldCipher, key_class
from heimdall_server.crypto.format_preserving import Ff1Preserver
from heimdall_server.crypto.key_encryption.local import LocalKeyEncryption
from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.decoding import DecodeContext, Format, FormatKind, RowError
from heimdall_server.domain.personal import TOKEN
from heimdall_server.domain.sealed_values import SIDECAR, decode
from heimdall_server.ports.journal import DeadLetter, Entry, RequestMark, SourceKey, SourceMark
from heimdall_server.protect.catalogue import CLASSES
from heimdall_server.protect.control import protected_entry, text_of
from heimdall_server.protect.keyed import keyed_actions
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.services.ingest.logic.dead_letters import letters_of
from tests.unit.protect.reference import batch_of, rows_of

ALICE = "alice@example.com"
FORGED = "[email:1" + "a" * 26 + "]"
MASKING = PolicyProtector()


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    path: Path = tmp_path_factory.mktemp("keys")
    classes = (*CLASSES, *map(key_class, CLASSES))
    return asyncio.run(Keyring.load(path / "keyring", LocalKeyEncryption(RootKey(bytes(range(32)))), classes=classes))


def protecting(keyring: Keyring, *rules: PrivacyRule) -> PolicyProtector:
    return PolicyProtector(
        PrivacyPolicy(rules=rules), keyed_actions(keyring, keyring, cipher=DataKeyFieldCipher(keyring))
    )


def letter(raw: bytes, *, source: str = "s", kind: str = "ndjson", **facts: Any) -> DeadLetter:
    format_ = json.dumps({"kind": kind, "options": {}})
    return replace(DeadLetter(SourceKey("p", source), 0, 0, "not JSON", 1, raw, format_), **facts)


def kept(protector: PolicyProtector, *letters: DeadLetter) -> Sequence[DeadLetter]:
    return protector.protect_control(Entry(None, dead_letters=letters)).entry.dead_letters


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "latin-1"])
def test_bytes_that_are_text_keep_their_encoding_and_lose_their_values(encoding: str) -> None:
    raw = f'{{"user": "{ALICE}", "café": }}'.encode(encoding)
    (after,) = kept(MASKING, letter(raw))
    assert after.raw.decode(encoding) == '{"user": "[email]", "café": }'
    assert after.protected


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (bytes(range(256)) + ALICE.encode(), "text"),
        (b"\x0a\x12" + ALICE.encode(), "otlp"),
        (ALICE.encode(), "arrow"),
        (b"\xff\xfe" + ALICE.encode() + b"\0", "text"),
        (ALICE.encode("utf-32-le"), "text"),
    ],
)
def test_bytes_that_cannot_be_searched_are_kept_only_where_the_policy_keeps_everything(raw: bytes, kind: str) -> None:
    (after,) = kept(MASKING, letter(raw, kind=kind))
    assert (after.raw, after.reason) == (b"", f"not JSON; its {len(raw)} bytes aren't text and weren't kept")
    keeping = PolicyProtector(
        PrivacyPolicy(rules=(PrivacyRule("keep", source="raw-*", field="dead_letter"), PrivacyRule("mask")))
    )
    both = kept(keeping, letter(raw, kind=kind, source="raw-1"), letter(raw, kind=kind))
    assert [one.raw for one in both] == [raw, b""]
    assert [one.protected for one in both] == [False, True]


def test_each_source_has_its_own_rules_and_a_letter_can_go_whole(keyring: Keyring) -> None:
    protector = protecting(
        keyring,
        PrivacyRule("drop", source="a", field="dead_letter"),
        PrivacyRule("partial", field="dead_letter"),
        PrivacyRule("mask"),
    )
    letters = [letter(f"x {ALICE}".encode(), source=source) for source in ("a", "b", "a", "b")]
    assert [one.raw for one in kept(protector, *letters)] == [b"", b"x [email]@example.com"] * 2
    assert kept(protector, letter(b"nothing here", source="a"))[0].raw == b"nothing here"


def test_values_are_tokenised_and_sealed_into_the_frame_with_those_of_its_records(keyring: Keyring) -> None:
    protector = protecting(keyring, PrivacyRule("tokenise"))
    records = protector.protect(batch_of([{"body": "bob@example.com"}]))
    entry = Entry(records.batch, dead_letters=[letter(ALICE.encode())], sidecars=records.sidecars)
    done = protector.protect_control(entry)
    assert TOKEN.fullmatch(done.entry.dead_letters[0].raw.decode())
    assert len(decode(done.entry.sidecars[SIDECAR])) == 2
    assert done.hits == {"email": 1}
    for settle in done.settlers:
        settle()
    again = protector.protect_control(entry)
    assert len(decode(again.entry.sidecars[SIDECAR])) == 1


def test_a_letter_that_is_decoded_again_keeps_its_tokens_and_is_found_by_them(keyring: Keyring) -> None:
    protector = protecting(keyring, PrivacyRule("encrypt", "card"), PrivacyRule("tokenise"))
    (stored,) = kept(protector, letter(f"{ALICE} {FORGED} 4111111111111111 password=hunter2".encode()))
    text = stored.raw.decode()
    assert "[~email:1" in text
    row = {"body": text, "attributes": {"email": text.split()[0], "note": text, "password": "[secret]", "user": ALICE}}
    (read,) = rows_of(protector.protect(batch_of([row]), again=True).batch)
    token = TOKEN.search(text)
    assert token is not None
    assert read["body"] == text
    assert dict(read["attributes"]) == {"email": token[0], "password": "[secret]", "note": text, "user": token[0]}
    assert token[2] in read["tokens"].split()
    assert "[~email:0" in rows_of(protector.protect(batch_of([row])).batch)[0]["body"]


def test_records_that_are_kept_together_are_treated_one_by_one() -> None:
    lines = [f"bad {ALICE}".encode(), "grüße".encode(), b"-----BEGIN PRIVATE KEY-----", b"", b"x" * 20, b"last"]
    errors = [RowError(number, number, "not JSON", "", line) for number, line in enumerate(lines * 40)]
    made = letters_of(
        errors,
        key=SourceKey("p", "s"),
        format_=Format(FormatKind.NDJSON),
        context=DecodeContext("s", "logs", 1),
        keep_raw=True,
    )
    assert max(len(one.part_sizes) for one in made) > 1
    after = kept(MASKING, *made)
    wanted = [
        line.replace(ALICE.encode(), b"[email]").replace(b"-----BEGIN PRIVATE KEY-----", b"[secret]") for line in lines
    ]
    assert b"\n".join(one.raw for one in after).split(b"\n") == wanted * 40


def test_a_letter_that_cannot_be_protected_costs_its_bytes_and_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    def protect(sources: Sequence[str], texts: Sequence[str]) -> Sequence[str | None]:
        del sources
        if any("poison" in text for text in texts):
            raise ZeroDivisionError
        return [text.upper() for text in texts]

    entry = Entry(None, dead_letters=[letter(b"fine"), letter(b"poison"), letter(b"good")])
    done = protected_entry(entry, keeps=lambda _: False, protect=protect, mask=list)
    assert [one.raw for one in done.dead_letters] == [b"FINE", b"", b"GOOD"]
    assert "couldn't be protected" in done.dead_letters[1].reason
    assert "protection of dead letters failed" in caplog.text


def test_sentences_and_names_are_masked_whatever_the_policy_says() -> None:
    protector = PolicyProtector(PrivacyPolicy(rules=(PrivacyRule("keep"),)))
    context = json.dumps({"source": "s", "dump": ALICE, "host": "10.0.0.1", "first_record_number": 1})
    one = letter(b"x", reason=f"unexpected {ALICE}", field=ALICE, context=context)
    header = json.dumps({"kind": "csv", "options": {"header": json.dumps(["id", ALICE])}})
    entry = Entry(
        None,
        sources=[SourceMark(SourceKey("p", "s"), 1, 0, 1, 1, 0, format=header)],
        requests=[RequestMark("p", b"d", 1, 1, 1, f"record 3: {ALICE}")],
        dead_letters=[one],
    )
    done = protector.protect_control(entry).entry
    assert ALICE not in repr(done)
    (after,) = done.dead_letters
    assert (after.reason, after.field) == ("unexpected [email]", "[email]")
    assert json.loads(after.context) == {"source": "s", "dump": "[email]", "host": "10.0.0.1", "first_record_number": 1}
    assert json.loads(json.loads(done.sources[0].format)["options"]["header"]) == ["id", "[email]"]
    assert done.requests[0].message == "record 3: [email]"


def test_addresses_go_from_sentences_and_names_as_soon_as_the_policy_does_anything_with_them() -> None:
    addresses = ("203.0.113.7", "2001:db8::7")
    said = f"no host {addresses[0]}, nor {addresses[1]}"
    header = json.dumps({"kind": "csv", "options": {"header": json.dumps(["id", *addresses, "10.0.0.1"])}})
    entry = Entry(
        None,
        sources=[SourceMark(SourceKey("p", "s"), 1, 0, 1, 1, 0, format=header)],
        requests=[RequestMark("p", b"d", 1, 1, 1, said)],
        dead_letters=[letter(b"x", reason=said, field=addresses[0], context=json.dumps({"host": addresses[1]}))],
    )
    assert MASKING.protect_control(entry).entry.requests == entry.requests
    policy = PrivacyPolicy(rules=(PrivacyRule("keep", "ip*", field="host"), PrivacyRule("mask")))
    done = PolicyProtector(policy).protect_control(entry).entry
    assert not any(address in repr(done) for address in addresses)
    (after,) = done.dead_letters
    assert (after.reason, after.field) == ("no host [ipv4], nor [ipv6]", "[ipv4]")
    assert json.loads(after.context) == {"host": "[ipv6]"}
    assert json.loads(json.loads(done.sources[0].format)["options"]["header"]) == ["id", "[ipv4]", "[ipv6]", "[ipv4] 2"]


def test_a_value_that_would_keep_its_form_is_a_token_in_a_letter_and_stays_one(keyring: Keyring) -> None:
    actions = keyed_actions(keyring, keyring, preserver=Ff1Preserver(keyring.identity_key))
    protector = PolicyProtector(
        PrivacyPolicy(rules=(PrivacyRule("format_preserving", "card"), PrivacyRule("mask"))), actions
    )
    row = {"body": "paid by 4111111111111111", "attributes": {"card": "4111111111111111"}}
    (record,) = rows_of(protector.protect(batch_of([row])).batch)
    assert "[" not in record["body"]
    done = protector.protect_control(Entry(None, dead_letters=[letter(b'"card": 4111111111111111, broken')]))
    text = done.entry.dead_letters[0].raw.decode()
    token = TOKEN.search(text)
    assert token is not None
    assert token[1] == "card"
    assert len(decode(done.entry.sidecars[SIDECAR])) == 1
    again = {"body": text, "attributes": {"card": token[0]}}
    (read,) = rows_of(protector.protect(batch_of([again]), again=True).batch)
    assert (read["body"], read["attributes"]) == (text, [("card", token[0])])


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_what_is_taken_for_text_becomes_the_same_bytes_again(raw: bytes) -> None:
    found = text_of(raw)
    if found is not None:
        text, encoding = found
        assert text.encode(encoding) == raw


@given(st.binary(max_size=100), st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]), st.binary(max_size=100))
def test_no_letter_holds_an_address_that_was_in_its_bytes(before: bytes, encoding: str, behind: bytes) -> None:
    address = f" {ALICE} ".encode(encoding)
    (after,) = kept(MASKING, letter(before + address + behind))
    assert ALICE.encode(encoding) not in after.raw
