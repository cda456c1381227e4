"""The privacy service's values between the wire and the domain."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from heimdall.privacy.v1 import operation_pb2, policy_pb2
from heimdall.privacy.v1 import privacy_service_pb2 as pb
from heimdall.types.v1 import time_range_pb2
from heimdall_server.domain.errors import TokenError
from heimdall_server.domain.expression.tree import TimeRange
from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind, OperationState
from heimdall_server.domain.personal import PersonalValue
from heimdall_server.ports.audit import AuditEntry
from heimdall_server.ports.operations import PolicyRule
from heimdall_server.rpc.status import to_status
from heimdall_server.services.privacy.model import (
    AuditPage,
    Certificate,
    ChainState,
    KeyState,
    PolicyFacts,
    PolicyInForce,
    PolicySample,
    PolicyTrial,
    Revealed,
    WrittenText,
)

_KINDS = {kind: operation_pb2.Operation.Kind.Value(f"KIND_{kind.name}") for kind in OperationKind}
_STATES = {state: operation_pb2.Operation.State.Value(f"STATE_{state.name}") for state in OperationState}
_ROTATIONS = {
    pb.RotateKeyRequest.KIND_KEK: OperationKind.ROTATE_KEK,
    pb.RotateKeyRequest.KIND_DEK: OperationKind.ROTATE_DEK,
    pb.RotateKeyRequest.KIND_INDEX: OperationKind.ROTATE_INDEX,
}
_KEY_STATES = {
    "active": pb.ListKeysResponse.Key.STATE_ACTIVE,
    "retired": pb.ListKeysResponse.Key.STATE_RETIRED,
    "destroyed": pb.ListKeysResponse.Key.STATE_DESTROYED,
}
_SAMPLE_SOURCE = "sample"
_SAMPLE_ROWS = 20


def rules_in(rules: Sequence[policy_pb2.PrivacyRule]) -> tuple[PolicyRule, ...]:
    """Rules; what is empty fits everything."""
    return tuple(
        PolicyRule(rule.action, rule.data_class or "*", rule.source or "*", rule.field or "*") for rule in rules
    )


def sample_in(request: pb.TestPolicyRequest) -> PolicySample:
    """What a policy is tried on."""
    return PolicySample(
        rules_in(request.rules),
        request.sample,
        request.format,
        request.source_id or _SAMPLE_SOURCE,
        request.row_count_max or _SAMPLE_ROWS,
        as_dump=request.as_dump or request.find_names,
        find_names=request.find_names,
    )


def policy_out(policy: PolicyInForce) -> policy_pb2.PrivacyPolicy:
    """A policy."""
    version = policy.version
    return policy_pb2.PrivacyPolicy(
        version=version.version,
        rules=[
            policy_pb2.PrivacyRule(data_class=rule.data_class, source=rule.source, field=rule.field, action=rule.action)
            for rule in version.rules
        ],
        fallback_action=policy.fallback_action,
        etag=policy.etag,
        changed_by=version.changed_by,
        change_time=_timestamp(version.change_time_ns),
        reason=version.reason,
    )


def policy_facts_out(facts: PolicyFacts) -> pb.GetPolicyResponse:
    """The policy in force, and what rules may name."""
    return pb.GetPolicyResponse(
        policy=policy_out(facts.policy),
        classes=[
            policy_pb2.DataClass(name=one.name, description=one.description, credential=one.credential)
            for one in facts.classes
        ],
        actions=facts.actions,
    )


def trial_out(trial: PolicyTrial) -> pb.TestPolicyResponse:
    """What a policy would do."""
    return pb.TestPolicyResponse(
        record_count=trial.record_count,
        rejected_count=trial.rejected_count,
        findings=[
            pb.TestPolicyResponse.Finding(
                data_class=one.data_class,
                field=one.field,
                action=one.action,
                value_count=one.value_count,
                rule_index=one.rule_index,
            )
            for one in trial.findings
        ],
        rows=trial.rows,
    )


def written_in(written: Sequence[pb.RevealRequest.Written]) -> list[WrittenText]:
    """Texts that stand in place of values."""
    return [WrittenText(one.text, one.field, one.data_class) for one in written]


def revealed_out(revealed: Revealed) -> pb.RevealResponse.Revealed:
    """The answer to a token."""
    if revealed.error is not None:
        return pb.RevealResponse.Revealed(token=revealed.token, error=to_status(revealed.error))
    return pb.RevealResponse.Revealed(token=revealed.token, value=revealed.value or "")


def subject_in(subject: Sequence[operation_pb2.SubjectValue]) -> list[PersonalValue]:
    """What a subject is known by."""
    return [PersonalValue(one.data_class, one.value) for one in subject]


def time_range_in(message: time_range_pb2.TimeRange) -> TimeRange:
    """Bounds in nanoseconds."""
    start = message.start_time_inclusive.ToNanoseconds() if message.HasField("start_time_inclusive") else None
    end = message.end_time_exclusive.ToNanoseconds() if message.HasField("end_time_exclusive") else None
    return TimeRange(start, end)


def rotation_in(kind: pb.RotateKeyRequest.Kind.ValueType) -> OperationKind:
    """Which keys; the contract's constraints leave no other."""
    return _ROTATIONS[kind]


def operation_out(operation: Operation) -> operation_pb2.Operation:
    """An operation."""
    told = operation_pb2.Operation(
        operation_id=operation.operation_id,
        kind=_KINDS[operation.kind],
        state=_STATES[operation.state],
        stage=operation.stage,
        done_count=operation.done_count,
        total_count=operation.total_count,
        actor=operation.actor,
        reason=operation.reason,
        create_time=_timestamp(operation.create_time_ns),
        update_time=_timestamp(operation.update_time_ns),
        problem=operation.problem,
        # One that an older version kept has no such text.
        query=operation.shown_query or ("…" if operation.query else ""),
        affected_count=operation.affected_count,
    )
    for name in ("end", "inaccessible", "shredded"):
        if ns := getattr(operation, f"{name}_time_ns"):
            getattr(told, f"{name}_time").CopyFrom(_timestamp(ns))
    if operation.scope is not None:
        told.scope.CopyFrom(scope_out(operation.scope))
    return told


def scope_out(scope: ErasureScope) -> operation_pb2.ErasureScope:
    """What an erasure concerns."""
    return operation_pb2.ErasureScope(
        tokens=scope.tokens,
        vault_value_count=scope.vault_value_count,
        record_count=scope.record_count,
        survivor_count=scope.survivor_count,
    )


def key_out(key: KeyState) -> pb.ListKeysResponse.Key:
    """A key."""
    facts = key.facts
    told = pb.ListKeysResponse.Key(
        key_id=facts.key_id,
        kind=facts.kind,
        data_class=facts.data_class,
        number=facts.number,
        state=_KEY_STATES[facts.state],
        wrapped_by=facts.wrapped_by,
        value_count=key.value_count,
    )
    if facts.created_time_ns:
        told.create_time.CopyFrom(_timestamp(facts.created_time_ns))
    if facts.destroyed_time_ns:
        told.destroy_time.CopyFrom(_timestamp(facts.destroyed_time_ns))
    return told


def certificate_out(certificate: Certificate) -> pb.GetErasureCertificateResponse:
    """A certificate."""
    return pb.GetErasureCertificateResponse(
        certificate=certificate.document, signature=certificate.signature, public_key=certificate.public_key
    )


def audit_page_out(page: AuditPage, bound_to: str) -> pb.ListAuditEntriesResponse:
    """A page of the audit log."""
    return pb.ListAuditEntriesResponse(
        entries=[_entry(one) for one in page.entries],
        next_page_token=page_token(page.next_after, bound_to) if page.next_after else "",
    )


def chain_out(state: ChainState) -> pb.VerifyAuditLogResponse:
    """An audit log that was walked."""
    took = Duration()
    took.FromNanoseconds(int(state.took_s * 1e9))
    return pb.VerifyAuditLogResponse(entry_count=state.entry_count, last_digest=state.last_digest, took_duration=took)


def page_token(place: int, bound_to: str = "") -> str:
    """A place in a list; it says nothing secret, so it isn't MACed."""
    return base64.urlsafe_b64encode(f"{place}:{_short(bound_to)}".encode()).decode()


def place_in(token: str, bound_to: str = "") -> int:
    """The place behind a page token; 0: the beginning.

    Raises:
        TokenError: It is damaged, or belongs to another request.
    """
    if not token:
        return 0
    try:
        text, _, digest = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        place = int(text)
    except ValueError as error:
        raise TokenError("it is damaged") from error
    if digest != _short(bound_to):
        raise TokenError("it belongs to another request")
    if place < 0:
        raise TokenError("it is damaged")
    return place


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry(entry: AuditEntry) -> pb.ListAuditEntriesResponse.Entry:
    act = entry.act
    return pb.ListAuditEntriesResponse.Entry(
        sequence=entry.sequence,
        time=_timestamp(entry.time_ns),
        actor=act.actor,
        action=act.action,
        outcome=act.outcome,
        reason=act.reason,
        subject=act.subject,
        details=dict(act.details),
        request_id=act.request_id,
        digest=entry.digest,
    )


def _timestamp(ns: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(ns)
    return stamp
