"""The database's health to wire messages."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.admin.v1 import database_pb2 as pb
from heimdall_server.domain.database_health import IndexFinding, IndexProblem, IndexReport, SlowStatement
from heimdall_server.ports.database_health import DatabaseHealth

FINDINGS_MAX: Final = 500
SLOW_COUNT: Final = 50
_ANSWER_BYTES_MAX: Final = 900_000
"""Of statements and plans, below what a message may have; the oldest are left out."""
_PROBLEMS: Final = {
    IndexProblem.INVALID: pb.INDEX_PROBLEM_INVALID,
    IndexProblem.MISSING: pb.INDEX_PROBLEM_MISSING,
    IndexProblem.DUPLICATE: pb.INDEX_PROBLEM_DUPLICATE,
    IndexProblem.REDUNDANT: pb.INDEX_PROBLEM_REDUNDANT,
    IndexProblem.UNUSED: pb.INDEX_PROBLEM_UNUSED,
    IndexProblem.BLOATED: pb.INDEX_PROBLEM_BLOATED,
}


def report_out(report: IndexReport) -> pb.ReportIndexesResponse:
    """What is wrong with indexes."""
    response = pb.ReportIndexesResponse(
        index_count=report.index_count, findings=[_finding(one) for one in report.findings[:FINDINGS_MAX]]
    )
    if report.since_ns:
        response.since_time.CopyFrom(_time(report.since_ns))
    return response


def slow_out(health: DatabaseHealth, request: pb.ListSlowStatementsRequest) -> pb.ListSlowStatementsResponse:
    """The slow log, as asked."""
    since_ns = request.since_time_inclusive.ToNanoseconds() if request.HasField("since_time_inclusive") else 0
    response = pb.ListSlowStatementsResponse()
    size_bytes = 0
    for one in health.slow_statements(since_ns=since_ns, count_max=request.count_max or SLOW_COUNT):
        message = _slow(one)
        size_bytes += message.ByteSize()
        if size_bytes > _ANSWER_BYTES_MAX:
            break
        response.statements.append(message)
    if health.slow_threshold_s:
        response.threshold_duration.CopyFrom(_duration(health.slow_threshold_s))
    return response


def _finding(one: IndexFinding) -> pb.IndexFinding:
    return pb.IndexFinding(
        problem=_PROBLEMS[one.problem],
        table=one.table,
        index=one.index,
        detail=one.detail,
        statement=one.statement,
        size_bytes=one.size_bytes,
        scan_count=one.scan_count,
    )


def _slow(one: SlowStatement) -> pb.SlowStatement:
    return pb.SlowStatement(
        time=_time(one.time_ns),
        user=one.user,
        fingerprint=one.fingerprint,
        statement=one.statement,
        duration=_duration(one.duration_s),
        row_count=one.row_count,
        outcome=one.outcome,
        plan=one.plan,
        plan_problem=one.plan_problem,
    )


def _time(ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(ns)
    return stamp


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
