"""The client's methods on personal data: policy, revealing, erasure, deletion, keys, operations, the audit log."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, Literal

import grpc.aio

from heimdall.privacy.v1 import operation_pb2, policy_pb2
from heimdall.privacy.v1 import privacy_service_pb2 as pb
from heimdall_client import status, translate
from heimdall_client.connection import Connection
from heimdall_client.errors import UnavailableError
from heimdall_client.translate import TimeLike

PAGE_SIZE: Final = 100
REVEAL_COUNT_MAX: Final = 1000
"""Tokens of one request."""
WRITTEN_COUNT_MAX: Final = 100
"""Written texts of one request."""
GIVE_UP_S: Final = 300.0
"""How long `watch_operation` waits for a server that went away."""
RECONNECT_S: Final = 0.5
SLOW_TIMEOUT_S: Final = 120.0
"""For calls that count records or walk the audit log."""

KeyKind = Literal["kek", "dek", "index"]
Rules = Sequence[Mapping[str, str] | policy_pb2.PrivacyRule]
"""Tables with `action` and, each optional, `class`, `source` and `field`, as in the server's configuration."""
Written = Sequence[Mapping[str, str] | pb.RevealRequest.Written]
"""Tables with `text` and, for an encrypted one, `field` that it stands in, for one that kept its form `data_class`."""
SubjectLike = Sequence[tuple[str, str]]
"""(class, value) pairs; a value may be a token."""


class PrivacyCalls(Connection):
    """See the module; a part of `AsyncClient`."""

    async def privacy_policy(self) -> pb.GetPolicyResponse:
        """The privacy policy in force, the classes and actions that rules may name."""
        return await self._unary(self._privacy.GetPolicy, pb.GetPolicyRequest())

    async def test_privacy_policy(
        self,
        sample: bytes,
        rules: Rules = (),
        *,
        read_as: str = "",
        source_id: str = "",
        row_count: int = 0,
        as_dump: bool = False,
        find_names: bool = False,
    ) -> pb.TestPolicyResponse:
        """What a policy would do to a sample, without storing anything.

        Args:
            sample: As a source would send it; at most 1 MiB.
            rules: None: those in force.
            read_as: Format; empty: told from the content.
            source_id: That it pretends to come from.
            row_count: Protected records to get back; 0: 20.
            as_dump: Treat it as a data dump: what a column holds is told from all its cells.
            find_names: As a dump in whose running text the server's model looks for names, addresses and organisations.
        """
        request = pb.TestPolicyRequest(
            rules=to_rules(rules),
            sample=sample,
            format=read_as,
            source_id=source_id,
            row_count_max=row_count,
            as_dump=as_dump,
            find_names=find_names,
        )
        return await self._unary(self._privacy.TestPolicy, request)

    async def set_privacy_policy(
        self, rules: Rules, *, reason: str, etag: str = "", request_id: str = ""
    ) -> policy_pb2.PrivacyPolicy:
        """Put a policy in force for what comes in from now on.

        Args:
            rules: All of them, in order.
            reason: For the audit log.
            etag: Of the policy that it replaces; empty: whatever is in force.
            request_id: Makes a repeat harmless; empty: a new one.
        """
        request = pb.SetPolicyRequest(
            rules=to_rules(rules), reason=reason, etag=etag, request_id=request_id or uuid.uuid4().hex
        )
        return (await self._unary(self._privacy.SetPolicy, request)).policy

    async def privacy_policy_versions(self, *, limit: int = 100) -> list[policy_pb2.PrivacyPolicy]:
        """Policies that were in force, the newest first."""
        found: list[policy_pb2.PrivacyPolicy] = []
        token = ""
        while len(found) < limit:
            request = pb.ListPolicyVersionsRequest(page_size=min(PAGE_SIZE, limit - len(found)), page_token=token)
            page = await self._unary(self._privacy.ListPolicyVersions, request)
            found += page.policies
            token = page.next_page_token
            if not token:
                break
        return found

    async def reveal(
        self, tokens: Sequence[str], *, reason: str, written: Written = ()
    ) -> list[pb.RevealResponse.Revealed]:
        """The values behind tokens and written texts, each answered by itself, in this order. Many are asked for in several requests.

        Args:
            tokens: With or without brackets.
            reason: For the audit log.
            written: What stands in place of values that were encrypted in their field, or that kept their form.
        """
        revealed: list[pb.RevealResponse.Revealed] = []
        for start in range(0, len(tokens), REVEAL_COUNT_MAX):
            request = pb.RevealRequest(tokens=tokens[start : start + REVEAL_COUNT_MAX], reason=reason)
            revealed += (await self._unary(self._privacy.Reveal, request)).revealed
        texts = [one if isinstance(one, pb.RevealRequest.Written) else _written(one) for one in written]
        for start in range(0, len(texts), WRITTEN_COUNT_MAX):
            request = pb.RevealRequest(written=texts[start : start + WRITTEN_COUNT_MAX], reason=reason)
            revealed += (await self._unary(self._privacy.Reveal, request)).revealed
        return revealed

    async def export_subject(
        self,
        subject: SubjectLike,
        *,
        reason: str,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        reveal: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Everything that is held on a subject, as NDJSON in pieces, cut anywhere.

        Args:
            subject: (class, value) pairs.
            reason: For the audit log.
            since: First record time.
            until: Last record time, exclusive.
            reveal: Whether the subject's own tokens are replaced by their values.
        """
        request = pb.ExportSubjectRequest(
            subject=to_subject(subject), reason=reason, time_range=translate.to_time_range(since, until), reveal=reveal
        )
        call = self._privacy.ExportSubject(request)
        try:
            async for piece in call:
                yield piece.json
        except grpc.aio.AioRpcError as error:
            raise status.from_call(error, address=self._address) from error
        finally:
            call.cancel()

    async def erase(
        self, subject: SubjectLike, *, reason: str, dry_run: bool = False, block: bool = False, request_id: str = ""
    ) -> pb.EraseResponse:
        """Begin the erasure of a subject, or only count what it would concern.

        Args:
            subject: (class, value) pairs.
            reason: For the audit log and the certificate.
            dry_run: Only count.
            block: Whether values that come in later are kept out, too.
            request_id: Makes a repeat harmless; empty: a new one.
        """
        request = pb.EraseRequest(
            subject=to_subject(subject),
            reason=reason,
            dry_run=dry_run,
            block=block,
            request_id=request_id or uuid.uuid4().hex,
        )
        return await self._unary(self._privacy.Erase, request, timeout_s=SLOW_TIMEOUT_S)

    async def erasure_certificate(self, operation_id: str) -> pb.GetErasureCertificateResponse:
        """The signed certificate of an erasure."""
        request = pb.GetErasureCertificateRequest(operation_id=operation_id)
        return await self._unary(self._privacy.GetErasureCertificate, request)

    async def delete_records(
        self,
        query: str,
        *,
        reason: str,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        datasets: Sequence[str] = (),
        dry_run: bool = False,
        request_id: str = "",
    ) -> pb.DeleteRecordsResponse:
        """Begin the deletion of what a query finds now, or only count it.

        Args:
            query: A filter, without pipes.
            reason: For the audit log.
            since: First record time.
            until: Last record time, exclusive.
            datasets: Only these.
            dry_run: Only count.
            request_id: Makes a repeat harmless; empty: a new one.
        """
        request = pb.DeleteRecordsRequest(
            query=query,
            time_range=translate.to_time_range(since, until),
            datasets=datasets,
            reason=reason,
            dry_run=dry_run,
            request_id=request_id or uuid.uuid4().hex,
        )
        return await self._unary(self._privacy.DeleteRecords, request, timeout_s=SLOW_TIMEOUT_S)

    async def keys(self) -> pb.ListKeysResponse:
        """The keys, without anything secret, and the public key of certificates."""
        return await self._unary(self._privacy.ListKeys, pb.ListKeysRequest())

    async def rotate_key(
        self, kind: KeyKind, *, data_classes: Sequence[str] = (), reason: str, request_id: str = ""
    ) -> operation_pb2.Operation:
        """Begin a rotation.

        Args:
            kind: Which keys.
            data_classes: Of data keys; none: all.
            reason: For the audit log.
            request_id: Makes a repeat harmless; empty: a new one.
        """
        request = pb.RotateKeyRequest(
            kind=pb.RotateKeyRequest.Kind.Value(f"KIND_{kind.upper()}"),
            data_classes=data_classes,
            reason=reason,
            request_id=request_id or uuid.uuid4().hex,
        )
        return (await self._unary(self._privacy.RotateKey, request)).operation

    async def operation(self, operation_id: str) -> operation_pb2.Operation:
        """A rotation, an erasure or a deletion, as it is."""
        request = pb.GetOperationRequest(operation_id=operation_id)
        return (await self._unary(self._privacy.GetOperation, request)).operation

    async def operations(self, *, running_only: bool = False, limit: int = 100) -> list[operation_pb2.Operation]:
        """Operations, the newest first."""
        found: list[operation_pb2.Operation] = []
        token = ""
        while len(found) < limit:
            request = pb.ListOperationsRequest(
                page_size=min(PAGE_SIZE, limit - len(found)), page_token=token, running_only=running_only
            )
            page = await self._unary(self._privacy.ListOperations, request)
            found += page.operations
            token = page.next_page_token
            if not token:
                break
        return found

    async def cancel_operation(self, operation_id: str) -> operation_pb2.Operation:
        """Ask an operation to stop between two steps."""
        request = pb.CancelOperationRequest(operation_id=operation_id)
        return (await self._unary(self._privacy.CancelOperation, request)).operation

    async def watch_operation(
        self, operation_id: str, *, give_up_after_s: float = GIVE_UP_S
    ) -> AsyncGenerator[operation_pb2.Operation, None]:
        """An operation as it is and whenever it changes, until it ends. A server that goes away is asked again when it is back.

        Args:
            operation_id: Its id.
            give_up_after_s: Without a server for so long, the last error is raised.

        Raises:
            NotFoundError: There is none.
            UnavailableError: There was no server for too long.
        """
        lost_s: float | None = None
        while True:
            call = self._privacy.WatchOperation(pb.WatchOperationRequest(operation_id=operation_id))
            try:
                async for answer in call:
                    lost_s = None
                    yield answer.operation
                return
            except grpc.aio.AioRpcError as error:
                problem = status.from_call(error, address=self._address)
                lost_s = time.monotonic() if lost_s is None else lost_s
                if not isinstance(problem, UnavailableError) or time.monotonic() - lost_s >= give_up_after_s:
                    raise problem from error
            finally:
                call.cancel()
            await asyncio.sleep(RECONNECT_S)

    async def audit_entries(
        self, *, action: str = "", actor: str = "", limit: int = 1000
    ) -> AsyncGenerator[pb.ListAuditEntriesResponse.Entry, None]:
        """Entries of the audit log, the oldest first.

        Args:
            action: Only actions that begin so.
            actor: Only of this caller.
            limit: At most so many; 0: all.
        """
        token, left = "", limit
        while True:
            size = min(PAGE_SIZE, left) if limit else PAGE_SIZE
            request = pb.ListAuditEntriesRequest(page_size=size, page_token=token, action_prefix=action, actor=actor)
            page = await self._unary(self._privacy.ListAuditEntries, request, timeout_s=SLOW_TIMEOUT_S)
            for entry in page.entries:
                yield entry
            left -= len(page.entries)
            token = page.next_page_token
            if not token or (limit and left <= 0):
                return

    async def verify_audit_log(self) -> pb.VerifyAuditLogResponse:
        """Let the server walk the whole chain of its audit log.

        Raises:
            CorruptionError: It is broken; names the first entry that doesn't fit.
        """
        return await self._unary(self._privacy.VerifyAuditLog, pb.VerifyAuditLogRequest(), timeout_s=SLOW_TIMEOUT_S)


def to_rules(rules: Rules) -> list[policy_pb2.PrivacyRule]:
    """The contract's form of rules.

    Raises:
        ValueError: A rule has another key than `class`, `source`, `field` and `action`.
    """
    made = []
    for index, rule in enumerate(rules):
        if isinstance(rule, policy_pb2.PrivacyRule):
            made.append(rule)
            continue
        unknown = sorted(set(rule) - {"class", "source", "field", "action"})
        if unknown or "action" not in rule:
            what = f"unknown key {unknown[0]!r}" if unknown else "has no action"
            msg = f"rules[{index}]: {what}; use class, source, field and action"
            raise ValueError(msg)
        made.append(
            policy_pb2.PrivacyRule(
                data_class=rule.get("class", ""),
                source=rule.get("source", ""),
                field=rule.get("field", ""),
                action=rule["action"],
            )
        )
    return made


def _written(one: Mapping[str, str]) -> pb.RevealRequest.Written:
    return pb.RevealRequest.Written(text=one["text"], field=one.get("field", ""), data_class=one.get("data_class", ""))


def to_subject(subject: SubjectLike) -> list[operation_pb2.SubjectValue]:
    """The contract's form of a subject."""
    return [operation_pb2.SubjectValue(data_class=name, value=value) for name, value in subject]
