"""The blocking client's methods on personal data; each is that of `AsyncClient`, where its arguments are told."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from heimdall.privacy.v1 import operation_pb2, policy_pb2
from heimdall.privacy.v1 import privacy_service_pb2 as pb
from heimdall_client.client import AsyncClient
from heimdall_client.loop_thread import LoopThread
from heimdall_client.privacy_calls import KeyKind, Rules, SubjectLike, Written
from heimdall_client.sync_streams import iterate
from heimdall_client.translate import TimeLike

_Result = TypeVar("_Result")


class SyncPrivacyCalls:
    """See the module; a part of `Client`."""

    _twin: AsyncClient
    _portal: LoopThread

    def _run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        return self._portal.run(coroutine)

    def privacy_policy(self) -> pb.GetPolicyResponse:
        """The privacy policy in force; see `AsyncClient.privacy_policy`."""
        return self._run(self._twin.privacy_policy())

    def test_privacy_policy(
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
        """What a policy would do to a sample; see `AsyncClient.test_privacy_policy`."""
        return self._run(
            self._twin.test_privacy_policy(
                sample,
                rules,
                read_as=read_as,
                source_id=source_id,
                row_count=row_count,
                as_dump=as_dump,
                find_names=find_names,
            )
        )

    def set_privacy_policy(
        self, rules: Rules, *, reason: str, etag: str = "", request_id: str = ""
    ) -> policy_pb2.PrivacyPolicy:
        """Put a policy in force; see `AsyncClient.set_privacy_policy`."""
        return self._run(self._twin.set_privacy_policy(rules, reason=reason, etag=etag, request_id=request_id))

    def privacy_policy_versions(self, *, limit: int = 100) -> list[policy_pb2.PrivacyPolicy]:
        """Policies that were in force, the newest first."""
        return self._run(self._twin.privacy_policy_versions(limit=limit))

    def reveal(self, tokens: Sequence[str], *, reason: str, written: Written = ()) -> list[pb.RevealResponse.Revealed]:
        """The values behind tokens and written texts; see `AsyncClient.reveal`."""
        return self._run(self._twin.reveal(tokens, reason=reason, written=written))

    def export_subject(
        self,
        subject: SubjectLike,
        *,
        reason: str,
        since: TimeLike | None = None,
        until: TimeLike | None = None,
        reveal: bool = False,
    ) -> Iterator[bytes]:
        """Everything that is held on a subject; see `AsyncClient.export_subject`."""
        pieces = self._twin.export_subject(subject, reason=reason, since=since, until=until, reveal=reveal)
        return iterate(self._portal, pieces)

    def erase(
        self, subject: SubjectLike, *, reason: str, dry_run: bool = False, block: bool = False, request_id: str = ""
    ) -> pb.EraseResponse:
        """Erase a subject; see `AsyncClient.erase`."""
        return self._run(self._twin.erase(subject, reason=reason, dry_run=dry_run, block=block, request_id=request_id))

    def erasure_certificate(self, operation_id: str) -> pb.GetErasureCertificateResponse:
        """The signed certificate of an erasure."""
        return self._run(self._twin.erasure_certificate(operation_id))

    def delete_records(
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
        """Delete what a query finds; see `AsyncClient.delete_records`."""
        return self._run(
            self._twin.delete_records(
                query,
                reason=reason,
                since=since,
                until=until,
                datasets=datasets,
                dry_run=dry_run,
                request_id=request_id,
            )
        )

    def keys(self) -> pb.ListKeysResponse:
        """The keys, without anything secret."""
        return self._run(self._twin.keys())

    def rotate_key(
        self, kind: KeyKind, *, data_classes: Sequence[str] = (), reason: str, request_id: str = ""
    ) -> operation_pb2.Operation:
        """Begin a rotation; see `AsyncClient.rotate_key`."""
        return self._run(self._twin.rotate_key(kind, data_classes=data_classes, reason=reason, request_id=request_id))

    def operation(self, operation_id: str) -> operation_pb2.Operation:
        """A rotation, an erasure or a deletion, as it is."""
        return self._run(self._twin.operation(operation_id))

    def operations(self, *, running_only: bool = False, limit: int = 100) -> list[operation_pb2.Operation]:
        """Operations, the newest first."""
        return self._run(self._twin.operations(running_only=running_only, limit=limit))

    def cancel_operation(self, operation_id: str) -> operation_pb2.Operation:
        """Ask an operation to stop between two steps."""
        return self._run(self._twin.cancel_operation(operation_id))

    def watch_operation(self, operation_id: str) -> Iterator[operation_pb2.Operation]:
        """An operation as it is and whenever it changes, until it ends."""
        return iterate(self._portal, self._twin.watch_operation(operation_id))

    def audit_entries(
        self, *, action: str = "", actor: str = "", limit: int = 1000
    ) -> Iterator[pb.ListAuditEntriesResponse.Entry]:
        """Entries of the audit log, the oldest first; see `AsyncClient.audit_entries`."""
        return iterate(self._portal, self._twin.audit_entries(action=action, actor=actor, limit=limit))

    def verify_audit_log(self) -> pb.VerifyAuditLogResponse:
        """Let the server walk the whole chain of its audit log."""
        return self._run(self._twin.verify_audit_log())
