"""Questions, ranges, plans and answers between the wire and the domain."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.query.v1 import query_service_pb2 as pb
from heimdall.types.v1 import position_pb2, time_range_pb2
from heimdall_server.domain.errors import InvalidArgumentError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.ports.journal import Positions
from heimdall_server.ports.log_store import FieldInfo, FieldValue, Order, Path, Plan, Statistics
from heimdall_server.services.query.model import (
    ANYTHING,
    Answer,
    Done,
    Explained,
    Form,
    Header,
    Missing,
    Progress,
    Question,
    Rows,
    SearchIn,
)
from heimdall_server.services.query.translate.entity_sets import entity_sets_out
from heimdall_server.services.query.translate.rows import RowEncoder
from heimdall_server.services.query.translate.tree import query_in, query_out

_ORDERS = {
    pb.ORDER_UNSPECIFIED: Order.NEWEST_FIRST,
    pb.ORDER_NEWEST_FIRST: Order.NEWEST_FIRST,
    pb.ORDER_OLDEST_FIRST: Order.OLDEST_FIRST,
    pb.ORDER_JOURNAL: Order.JOURNAL,
    pb.ORDER_JOURNAL_REVERSED: Order.JOURNAL_REVERSED,
}
_PATHS = {
    Path.ROLLUP: pb.Plan.PATH_ROLLUP,
    Path.MINUTE_COLUMN: pb.Plan.PATH_MINUTE_COLUMN,
    Path.TEXT_INDEX: pb.Plan.PATH_TEXT_INDEX,
    Path.TRACE_INDEX: pb.Plan.PATH_TRACE_INDEX,
    Path.NEWEST_FIRST: pb.Plan.PATH_NEWEST_FIRST,
    Path.SCAN: pb.Plan.PATH_SCAN,
}


def question_in(message: pb.Question) -> Question:
    """A question, in the form it came.

    Raises:
        QuerySyntaxError, InvalidArgumentError: A tree breaks a rule of the language.
    """
    which = message.WhichOneof("form")
    if which == "tree":
        return Question(Form.TREE, tree=query_in(message.tree))
    if which == "sql":
        return Question(Form.SQL, message.sql)
    return Question(Form.TEXT, message.text)


def time_range_in(message: time_range_pb2.TimeRange) -> TimeRange:
    """Bounds in nanoseconds."""
    start = message.start_time_inclusive.ToNanoseconds() if message.HasField("start_time_inclusive") else None
    end = message.end_time_exclusive.ToNanoseconds() if message.HasField("end_time_exclusive") else None
    return TimeRange(start, end)


def position_in(message: position_pb2.Position, journal_id: str, field: str) -> int:
    """A position of the embedded journal's one shard; 0: none.

    Raises:
        InvalidArgumentError: It belongs to another journal.
    """
    if message.journal_id and message.journal_id != journal_id:
        raise InvalidArgumentError(field, "belongs to another journal; take one that this instance gave")
    return message.shards.get(0, 0)


def position_out(positions: Positions, journal_id: str) -> position_pb2.Position:
    """Positions for the wire."""
    return position_pb2.Position(journal_id=journal_id, shards=dict(positions))


def duration_out(seconds: float) -> Duration:
    """Seconds for the wire."""
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def timestamp_out(ns: int) -> Timestamp:
    """Nanoseconds for the wire."""
    stamp = Timestamp()
    stamp.FromNanoseconds(ns)
    return stamp


def search_in(message: pb.SearchRequest, journal_id: str) -> SearchIn:
    """A search.

    Raises:
        QuerySyntaxError, InvalidArgumentError: It breaks a rule that the contract's constraints can't say.
    """
    timeout = message.timeout_duration.ToNanoseconds() / 1e9 if message.HasField("timeout_duration") else None
    return SearchIn(
        question=question_in(message.question),
        time_range=time_range_in(message.time_range),
        datasets=tuple(message.datasets),
        order=_ORDERS[message.order],
        row_limit=message.row_limit,
        timeout_s=timeout,
        consistent=message.consistent,
        at_least=position_in(message.at_least, journal_id, "at_least"),
        resume_token=message.resume_token,
    )


def explain_in(message: pb.ExplainRequest) -> SearchIn:
    """What an explanation is about."""
    return SearchIn(
        question=question_in(message.question),
        time_range=time_range_in(message.time_range),
        datasets=tuple(message.datasets),
        order=_ORDERS[message.order],
        row_limit=message.row_limit,
    )


def optional_question_in(message: pb.ListFieldValuesRequest) -> Question:
    """The question of a request that needs none."""
    return question_in(message.question) if message.HasField("question") else ANYTHING


def statistics_out(statistics: Statistics) -> pb.Statistics:
    """What a query used."""
    return pb.Statistics(
        read_row_count=statistics.rows_read,
        read_bytes_count=statistics.bytes_read,
        result_row_count=statistics.result_rows,
        elapsed_duration=duration_out(statistics.elapsed_s),
    )


def plan_out(plan: Plan, tier: str) -> pb.Plan:
    """How a tier answers."""
    return pb.Plan(
        tier=tier,
        path=_PATHS[plan.path],
        reason=plan.reason,
        estimated_row_count=plan.estimated_rows,
        estimated_bytes_count=plan.estimated_bytes,
        statement=plan.sql,
        details=plan.detail,
        notice=plan.notice,
    )


def answer_out(answer: Answer, encoder: RowEncoder, *, tier: str, journal_id: str) -> Iterator[pb.SearchResponse]:
    """Messages for a part of the answer; those for rows are made one at a time."""
    match answer:
        case Header(schema, text, through):
            header = encoder.schema(schema)
            header.canonical_text = text
            header.through.CopyFrom(position_out(through, journal_id))
            yield pb.SearchResponse(schema=header)
        case Rows(batch, token_after):
            for piece in encoder.batches(batch, token_after):
                yield pb.SearchResponse(batch=piece)
        case Progress(statistics):
            yield pb.SearchResponse(progress=pb.SearchResponse.Progress(statistics=statistics_out(statistics)))
        case Done(statistics, plan, missing, token):
            yield pb.SearchResponse(
                finished=pb.SearchResponse.Finished(
                    statistics=statistics_out(statistics),
                    missing=[pb.Missing(what=one.what, reason=one.reason) for one in (*missing, *_cut(encoder))],
                    resume_token=token,
                    plan=plan_out(plan, tier),
                )
            )


def _cut(encoder: RowEncoder) -> Iterator[Missing]:
    if encoder.cut_count:
        reason = f"{encoder.cut_count} rows are larger than a message; their texts were cut, and say so at their end"
        yield Missing("message_bytes", f"{reason}; ask for fewer fields")


def explained_out(explained: Explained, *, tier: str, journal_id: str) -> pb.ExplainResponse:
    """How a query would be answered."""
    return pb.ExplainResponse(
        canonical_text=explained.understood.canonical_text,
        tree=query_out(explained.understood.query),
        plans=[plan_out(explained.plan, tier)],
        actual=statistics_out(explained.actual) if explained.actual else None,
        visible_through=position_out(explained.visible_through, journal_id),
        freshness_duration=duration_out(explained.lag_s),
        entity_sets=entity_sets_out(explained.sets, journal_id=journal_id),
    )


def field_out(info: FieldInfo) -> pb.Field:
    """A field."""
    coverage = info.record_count / info.sampled_count if info.sampled_count else 0.0
    return pb.Field(name=info.name, type=info.type, coverage=coverage, record_count=info.record_count)


def field_value_out(value: FieldValue) -> pb.FieldValue:
    """A value."""
    return pb.FieldValue(value=value.value, record_count=value.record_count)
