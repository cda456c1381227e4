"""Searching by a value that was erased: only what came in after that is found, by its token everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from heimdall_server.crypto.keyring import Keyring
from heimdall_server.domain.expression.fields import resolve
from heimdall_server.domain.expression.tree import All, And, Compare, Expression, Not, Operator, Or, Words
from heimdall_server.domain.personal import TokenName
from heimdall_server.domain.records import with_position
from heimdall_server.language.format import format_query, normalise
from heimdall_server.language.parser import parse
from heimdall_server.language.predicate import compile_predicate
from heimdall_server.planner.erased_values import FOREVER, ErasedValues
from heimdall_server.ports.vault import Tombstone
from heimdall_server.protect.policy import PrivacyPolicy, PrivacyRule
from tests.support.personal_search import Search, keyring
from tests.support.query_server import records

ALICE, BOB = "alice@example.com", "bob@example.com"
BODY = resolve("body")
NOTHING = Not(All())


@pytest.fixture
def search(ring: Keyring) -> Search:
    """Nothing was erased yet."""
    return Search.of(ring)


def tombstone(search: Search, data_class: str, form: str, through: int, *, blocked: bool = False) -> Tombstone:
    return Tombstone(TokenName(data_class, search.word(data_class, form)), through, blocked, "erasure", 0)


def erase(search: Search, form: str, through: int, *, data_class: str = "email", blocked: bool = False) -> None:
    search.erased.add([tombstone(search, data_class, form, through, blocked=blocked)])


def since(term: Expression, through: int) -> And:
    return And((term, Compare(resolve("position"), Operator.GT, float(through))))


def found(search: Search, text: str, batch: pa.RecordBatch) -> list[str]:
    mask = compile_predicate(search.rewritten(text).filter)(batch)
    return list(batch.filter(mask)["body"].to_pylist())


def stored(search: Search, *frames: tuple[int, list[str]]) -> pa.RecordBatch:
    """Records as a watch sees them, by the positions of their frames."""
    placed = [
        with_position(search.protected(records(bodies)), shard=0, position=position) for position, bodies in frames
    ]
    return pa.Table.from_batches(placed).combine_chunks().to_batches()[0]


@pytest.mark.parametrize(
    "text", [f"email:{ALICE}", ALICE, f'body:"{ALICE}"', f"email:{ALICE} OR email:Alice@EXAMPLE.com"]
)
def test_a_value_finds_only_what_came_in_after_it_was_erased(search: Search, text: str) -> None:
    before = search.asked(text)
    erase(search, ALICE, 17)
    after = search.asked(text)
    expected = since(search.anywhere(("email", ALICE)), 17)
    assert normalise(after.query.filter) == normalise(expected if " OR " not in text else Or((expected, expected)))
    assert after.binding == before.binding
    assert after.matched == before.matched


def test_records_are_told_apart_by_their_frames(search: Search) -> None:
    batch = stored(search, (16, [f"a {ALICE}", f"b {BOB}"]), (17, [f"c {ALICE}"]), (18, [f"d {ALICE}", "e nobody"]))
    token = search.token("email", ALICE)
    assert len(found(search, f"email:{ALICE}", batch)) == 3
    erase(search, ALICE, 17)
    assert found(search, f"email:{ALICE}", batch) == [f"d {token}"]
    assert found(search, f"email:{BOB} OR email:{ALICE}", batch) == [f"b {search.token('email', BOB)}", f"d {token}"]
    assert found(search, f'"c {ALICE}" OR "d {ALICE}"', batch) == [f"d {token}"]
    assert [text[0] for text in found(search, f"NOT email:{ALICE}", batch)] == ["a", "b", "c", "e"]
    assert [text[0] for text in found(search, f'body:"{token}"', batch)] == ["a", "c", "d"]
    assert [text[0] for text in found(search, f"email:{search.word('email', ALICE)}", batch)] == ["a", "c", "d"]
    erase(search, ALICE, 0, blocked=True)
    assert found(search, f"email:{ALICE}", batch) == []


def test_fields_and_phrases_are_bound_to_the_last_erasure_among_their_values(search: Search) -> None:
    erase(search, ALICE, 17)
    erase(search, BOB, 20)
    user = Compare(resolve("user"), Operator.EQ, search.token("email", ALICE))
    assert search.rewritten(f'user:"{ALICE}"').filter == since(user, 17)
    words = ("email", search.word("email", ALICE), "wrote", "email", search.word("email", BOB))
    assert search.rewritten(f'"{ALICE} wrote {BOB}"').filter == since(Words(BODY, words), 20)
    assert "position" not in format_query(search.rewritten("email:carol@example.com"))


def test_every_form_of_a_value_goes_with_the_one_that_was_erased(search: Search) -> None:
    erase(search, "4915112345678", 5, data_class="phone")
    forms = (("phone", "+4915112345678"), ("phone", "4915112345678"))
    assert search.rewritten("phone:+4915112345678").filter == since(search.anywhere(*forms), 5)


def test_a_blocked_value_finds_nothing_whatever_epoch_begins(tmp_path: Path) -> None:
    search = Search.of(keyring(tmp_path))
    erase(search, ALICE, 17)
    asyncio.run(search.ring.new_epoch())
    later = search.rewritten(f"email:{ALICE}").filter
    assert isinstance(later, And)
    assert later.operands[1] == Compare(resolve("position"), Operator.GT, 17.0)
    search.blocklist.block(["email"], search.ring.digests("email", [ALICE]))
    assert search.rewritten(f"email:{ALICE}").filter == NOTHING
    assert search.rewritten(f"email:{ALICE} OR login").filter == Or((NOTHING, Words(BODY, ("login",))))
    assert "position" not in format_query(search.rewritten(f"email:{BOB}"))


def test_what_stands_in_plain_is_still_found(ring: Keyring) -> None:
    search = Search.of(ring, PrivacyPolicy(rules=(PrivacyRule("keep", source="edge-*"), PrivacyRule("tokenise"))))
    erase(search, ALICE, 0, blocked=True)
    assert search.rewritten(ALICE).filter == Words(BODY, ("alice", "example", "com"))


def test_where_no_stage_left_a_position_an_erased_value_finds_nothing(search: Search) -> None:
    question = f"* | stats count() by user | where user = {ALICE}"
    assert search.token("email", ALICE) in format_query(search.rewritten(question))
    erase(search, ALICE, 17)
    assert format_query(search.rewritten(question)).endswith("| where NOT *:*")
    assert format_query(search.rewritten(f"* | fields user | where user = {ALICE}")).endswith("| where NOT *:*")
    assert format_query(search.rewritten(f"* | where user = {ALICE} | stats count() by user")) == (
        f'*:* | where user:"{search.token("email", ALICE)}" AND position:>17 | stats count() by user'
    )


def test_a_filter_of_a_deletion_is_read_again_from_its_text(search: Search) -> None:
    erase(search, ALICE, 2**53)
    erase(search, BOB, 0, blocked=True)
    for text in (f"email:{ALICE}", f"email:{ALICE} OR login", f"NOT email:{ALICE}", f"email:{BOB} AND login"):
        query = search.rewritten(text)
        shown = format_query(query)
        assert normalise(parse(shown, now_ns=0).filter) == normalise(query.filter)
        assert search.terms.rewrite(query).query == query


def test_an_erasure_counts_once_and_keeps_the_greater_position(search: Search) -> None:
    erased, word = ErasedValues(), search.word("email", ALICE)
    assert (erased.version, erased.through("email", word)) == (0, 0)
    versions = []
    for through, blocked in ((5, False), (3, False), (5, False), (9, False), (9, True), (11, False)):
        erased.add([tombstone(search, "email", ALICE, through, blocked=blocked)])
        versions.append((erased.version, erased.through("email", word)))
    assert versions == [(1, 5), (1, 5), (1, 5), (2, 9), (3, FOREVER), (3, FOREVER)]
    assert erased.through("phone", word) == 0
    before = search.terms.erasures
    erase(search, ALICE, 1)
    assert search.terms.erasures == before + 1
