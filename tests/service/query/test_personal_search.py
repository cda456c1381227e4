"""Searching by personal values: found by their tokens, by who may, as often as he may, and written down."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.types.v1 import expression_pb2, position_pb2
from heimdall_server.protect.policy import PrivacyRule
from heimdall_server.rpc.logs import JsonFormatter
from heimdall_server.rpc.status import DETAILS_KEY
from heimdall_server.services.query.logic.matching import MatchLimits
from heimdall_server.storage.clickhouse.embedded import ChdbEngine
from tests.support.personal_server import ALICE, BOB, PersonalServer, personal_server
from tests.support.pki import Pki
from tests.support.query_client import reason_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(pki: Pki, tmp_path_factory: pytest.TempPathFactory, chdb_engine: ChdbEngine) -> Any:
    """Five records; nothing in them stands in plain."""
    folder: Path = tmp_path_factory.mktemp("personal")
    limits = MatchLimits(per_minute=60_000, burst=1_000)
    async with personal_server(pki, folder, chdb_engine, match_limits=limits) as server:
        await server.put(
            [
                f"login of {ALICE} failed",
                "nothing personal",
                f"{BOB} wrote to {ALICE}",
                "call from 10.1.2.3",
                "call from 10.1.3.3",
            ],
            attributes=[{}, {"user": ALICE}, {}, {}, {"peer": "10.1.2.77"}],
            record_number=[0, 1, 2, 3, 4],
            service=["api", "api", "web", "web", "web"],
        )
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def own(pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine) -> AsyncIterator[PersonalServer]:
    """A server of a test's own, on which two values may be searched for."""
    async with personal_server(pki, tmp_path, chdb_engine, match_limits=MatchLimits(2, 2)) as server:
        await server.put([f"login of {ALICE}", f"login of {BOB}"], record_number=[0, 1])
        yield server


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def retry_s(error: grpc.aio.AioRpcError) -> float:
    """When the client is told to come back."""
    details = dict(error.trailing_metadata() or ())[DETAILS_KEY]
    status = status_pb2.Status.FromString(bytes(details))
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    return retry.retry_delay.ToTimedelta().total_seconds()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (f"email:{ALICE}", [0, 1, 2]),
        (f"email:{ALICE.upper().replace('ALICE.LOVELACE', 'alice.lovelace')}", [0, 1, 2]),
        (f'"login of {ALICE}"', [0]),
        (f"user:{ALICE}", [1]),
        (f"email:{ALICE} AND service:web", [2]),
        (f"email:{ALICE} AND NOT email:{BOB}", [0, 1]),
        (f"email:({BOB} OR {ALICE})", [0, 1, 2]),
        (f"NOT email:{ALICE}", [3, 4]),
        ("ip:10.1.2.3", [3]),
        ("ip:10.1.2.0/24", [3, 4]),
        ("ip:10.1.0.0/16", [3, 4]),
        ("ip:10.2.0.0/16", []),
        ("email:nobody@example.com", []),
    ],
)
async def test_an_analyst_finds_records_by_a_value_that_no_store_has(
    shared: PersonalServer, text: str, numbers: list[int]
) -> None:
    assert await shared.numbers(text) == numbers


async def test_what_a_policy_keeps_of_some_sources_is_found_in_their_bodies_too(
    pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine
) -> None:
    rules = (PrivacyRule("keep", source="keep-*"), PrivacyRule("tokenise"))
    async with personal_server(pki, tmp_path, chdb_engine, rules=rules) as server:
        await server.put(
            [f"login of {ALICE}", f"login of {ALICE}", f"login of {BOB}"],
            record_number=[0, 1, 2],
            source=["keep-1", "web", "keep-1"],
        )
        assert await server.numbers(f"email:{ALICE}") == [0, 1]
        assert await server.numbers(f"email:{ALICE} AND source:keep-1") == [0]


async def test_sql_and_a_tree_are_rewritten_as_well(shared: PersonalServer) -> None:
    sql = pb.Question(sql="SELECT record_number FROM logs WHERE user = 'X'".replace("X", ALICE))
    assert (await shared.search("", question=sql)).column("record_number") == [1]
    tree = pb.Question(text=f"user:{ALICE}")
    explained = await shared.explain(tree.text)
    assert ALICE not in str(explained.tree)
    assert (await shared.search("", question=pb.Question(tree=explained.tree))).column("record_number") == [1]
    plain = pb.Question()
    plain.tree.filter.compare.field.name = "user"
    plain.tree.filter.compare.operator = expression_pb2.Expression.Compare.OPERATOR_EQ
    plain.tree.filter.compare.value.text = ALICE
    assert (await shared.search("", question=plain)).column("record_number") == [1]
    error = await refusal(shared.search("", question=plain, who="reader"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_counts_and_values_are_asked_by_value_too(shared: PersonalServer) -> None:
    answer = await shared.search(f"email:{ALICE} | stats count() as n by service | sort service")
    assert answer.rows == [{"service": "api", "n": 2}, {"service": "web", "n": 1}]
    assert ALICE not in answer.schema.canonical_text
    values = pb.ListFieldValuesRequest(field="service", question=pb.Question(text=f"email:{ALICE}"))
    found = await shared.stubs["analyst"].ListFieldValues(values)
    assert {value.value: value.record_count for value in found.values} == {"api": 2, "web": 1}
    assert found.record_count == 3
    error = await refusal(shared.stubs["reader"].ListFieldValues(values))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_erased_value_finds_what_came_in_later_and_its_token_everything(own: PersonalServer) -> None:
    head = own.query.journal.head()[0]
    await own.put([f"again {ALICE}", f"{BOB} wrote"], record_number=[2, 3], attributes=[{"user": ALICE}, {}])
    assert await own.numbers(f"email:{ALICE}") == [0, 2]
    own.erase(ALICE, through=head)
    assert await own.numbers(f"email:{ALICE}") == [2]
    assert await own.numbers(f"user:{ALICE}") == [2]
    assert await own.numbers(f'"login of {ALICE}"') == []
    assert await own.numbers(f"email:{ALICE} OR email:{BOB}") == [1, 2, 3]
    assert await own.numbers(own.token("email", ALICE)) == [0, 2]
    counted = await own.search(f"email:{ALICE} | stats count() as n by service")
    assert [row["n"] for row in counted.rows] == [1]
    own.erase(ALICE, through=head, blocked=True)
    assert await own.numbers(f"email:{ALICE}") == []
    assert await own.numbers(f"email:{ALICE} OR email:{BOB}") == [1, 3]
    assert (await own.search(f"email:{ALICE} | stats count() as n")).rows == [{"n": 0}]
    assert await own.numbers(own.token("email", ALICE)) == [0, 2]


@pytest.mark.parametrize(
    "text",
    [
        "email:>a@example.com",
        "email:alice*",
        "email:/alice.*/",
        f"email:[{ALICE} TO {BOB}]",
        "ip:10.1.2.0/26",
        f"body:/{ALICE}/",
    ],
)
async def test_what_tokens_cannot_tell_is_refused_with_an_explanation(shared: PersonalServer, text: str) -> None:
    error = await refusal(shared.search(text))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "QUERY_INVALID")
    assert "token" in (error.details() or "")
    assert ALICE not in str(error)


async def test_a_reader_is_told_which_permission_he_lacks_and_why_and_nothing_is_allowed(own: PersonalServer) -> None:
    before = await own.acts()
    for call in (
        own.search(f"email:{ALICE}", who="reader"),
        own.search(f"email:{ALICE} | stats count()", who="reader"),
        own.explain(f"email:{ALICE}", who="reader"),
        own.explain(f"email:{ALICE}", who="reader", analyze=True),
    ):
        error = await refusal(call)
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        assert "'privacy.match', which searching for a personal value (email) needs" in (error.details() or "")
    assert await own.numbers("login", who="reader") == [0, 1]
    acts = (await own.acts())[len(before) :]
    assert [act.outcome for act in acts] == ["denied"] * 4


async def test_each_search_is_written_down_before_its_answer_and_an_explanation_once(own: PersonalServer) -> None:
    assert await own.numbers("login") == [0, 1]
    assert await own.acts() == []
    await own.search(f"email:{ALICE}")
    await own.explain(f"email:{ALICE}")
    await own.explain(f"email:{ALICE}", analyze=True)
    acts = await own.acts()
    assert [(act.action, act.outcome) for act in acts] == [("privacy.match", "allowed")] * 3
    assert [act.details["method"].rpartition("/")[2] for act in acts] == ["Search", "Explain", "Explain"]
    assert all(act.subject == f"[email:{own.token('email', ALICE)}]" for act in acts)
    assert all(act.actor.endswith("/client/analyst") and act.request_id for act in acts)
    assert ALICE not in str(acts)


async def test_a_question_for_what_no_record_has_says_so(pki: Pki, tmp_path: Path, chdb_engine: ChdbEngine) -> None:
    rules = [PrivacyRule("mask", "secret"), PrivacyRule("tokenise")]
    async with personal_server(pki, tmp_path, chdb_engine, rules=rules) as server:
        await server.put(["login with password=hunter22xyz"], record_number=[0])
        for text in ('body:"password=hunter22xyz"', "password:hunter22xyz"):
            explained = await server.explain(text)
            assert "of class secret, of which records have none" in explained.plans[0].notice
            assert await server.numbers(text) == []
        analyzed = await server.explain('"password=hunter22xyz"', analyze=True)
        assert analyzed.plans[0].notice.count("of class secret") == 1
        for text in ("login", "password:*", "_exists_:password", f"email:{ALICE}"):
            assert "of class" not in (await server.explain(text)).plans[0].notice


async def test_a_rate_that_is_used_up_says_when_to_come_back_and_a_repeat_is_free(own: PersonalServer) -> None:
    for _ in range(3):
        assert await own.numbers(f"email:{ALICE}") == [0]
        assert await own.numbers(f"email:{BOB}") == [1]
    error = await refusal(own.search("email:carol@example.com"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
    assert 20 <= retry_s(error) <= 31
    assert "carol" not in str(error)
    assert await own.numbers("login") == [0, 1]
    assert await own.numbers(f"email:{ALICE}") == [0]
    assert await own.numbers("email:carol@example.com", who="admin") == []
    error = await refusal(own.search("email:(a@example.com OR b@example.com OR c@example.com)", who="admin"))
    assert reason_of(error) == "QUERY_TOO_EXPENSIVE"


async def test_an_explanation_shows_tokens_and_nothing_else_does_more(own: PersonalServer) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        word = own.token("email", ALICE)
        explained = await own.explain(f"email:{ALICE} OR user:{ALICE}", analyze=True)
        assert word in explained.canonical_text
        assert f"[email:{word}]" in explained.canonical_text
        answer = await own.search(f'email:{ALICE} "login of {ALICE}"')
        for text in (f"email:>{ALICE}", f"email:{ALICE} AND (", f"|stats {ALICE}", f"email:{ALICE} | sort -"):
            await refusal(own.search(text))
        await refusal(own.search(f"email:{ALICE}", who="reader"))
        await refusal(own.search(f"email:{ALICE}", resume_token=b"nonsense"))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    told = [str(explained), str(answer.messages), log.getvalue()]
    told += [path.read_text() for path in own.audit_folder.iterdir()]
    assert log.getvalue()
    for text in told:
        assert ALICE not in text
        assert "lovelace" not in text


async def test_a_search_by_value_is_resumed_over_a_rotation_of_the_index_key(own: PersonalServer) -> None:
    await own.put([f"again {ALICE} {number}" for number in range(6)], record_number=list(range(10, 16)))
    asked: dict[str, Any] = {"order": pb.ORDER_JOURNAL, "row_limit": 3}
    first = await own.search(f"email:{ALICE}", **asked)
    await own.keyring.new_epoch()
    await own.put([f"after {ALICE}"], record_number=[20])
    second = await own.search(f"email:{ALICE}", resume_token=first.finished.resume_token, **asked)
    third = await own.search(f"email:{ALICE}", resume_token=second.finished.resume_token, **asked)
    assert first.column("record_number") + second.column("record_number") + third.column("record_number") == [
        0, 10, 11, 12, 13, 14, 15,
    ]  # fmt: skip
    assert not third.finished.resume_token
    assert await own.numbers(f"email:{ALICE}") == [0, 10, 11, 12, 13, 14, 15, 20]
    error = await refusal(own.search(f"email:{BOB}", resume_token=first.finished.resume_token, **asked))
    assert reason_of(error) == "TOKEN_INVALID"
    error = await refusal(own.search(f"email:{ALICE}", who="reader", resume_token=first.finished.resume_token, **asked))
    assert reason_of(error) == "PERMISSION_DENIED"


async def test_a_resume_token_of_a_question_without_values_needs_nothing(own: PersonalServer) -> None:
    first = await own.search("login", who="reader", row_limit=1, order=pb.ORDER_JOURNAL)
    await own.keyring.new_epoch()
    second = await own.search(
        "login", who="reader", row_limit=1, order=pb.ORDER_JOURNAL, resume_token=first.finished.resume_token
    )
    assert first.column("record_number") + second.column("record_number") == [0, 1]
    assert await own.acts() == []


async def test_a_search_that_waited_for_a_record_has_the_tokens_of_its_key(own: PersonalServer) -> None:
    """The key is made behind the reading of the question, and the search sees the records of it."""
    head = own.query.journal.head()[0]
    position = position_pb2.Position(journal_id=own.query.journal.journal_id, shards={0: head + 1})
    wait_through, rotated = own.query.warm.wait_through, False

    async def rotating(target: Mapping[int, int], timeout_s: float) -> bool:
        nonlocal rotated
        if not rotated:
            rotated = True
            await own.keyring.new_epoch()
            await own.put([f"later {ALICE}"], record_number=[9])
        return await wait_through(target, timeout_s)

    with mock.patch.object(own.query.warm, "wait_through", rotating):
        found = await own.numbers(f"email:{ALICE}", consistent=True)
    assert rotated
    assert found == [0, 9]
    assert await own.numbers(f"email:{ALICE}", at_least=position) == [0, 9]
