"""The privacy service's RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from heimdall.privacy.v1 import privacy_service_pb2 as pb
from heimdall.privacy.v1 import privacy_service_pb2_grpc as pb_grpc
from heimdall_server.domain.errors import DrainingError
from heimdall_server.rpc.admission import Drain
from heimdall_server.rpc.calls import current_call
from heimdall_server.services.privacy import translate
from heimdall_server.services.privacy.logic.audit import AuditUseCase
from heimdall_server.services.privacy.logic.delete import DeleteUseCase
from heimdall_server.services.privacy.logic.erase import CertificateUseCase, EraseUseCase
from heimdall_server.services.privacy.logic.export import ExportUseCase
from heimdall_server.services.privacy.logic.keys import KeysUseCase
from heimdall_server.services.privacy.logic.operations import OperationRunner
from heimdall_server.services.privacy.logic.policy import PolicyUseCase
from heimdall_server.services.privacy.logic.reveal import RevealUseCase
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller

PAGE_DEFAULT: Final = 50
AUDIT_PAGE_DEFAULT: Final = 100
PAGE_BYTES_MAX: Final = 512 * 1024
CANCEL_ACTION: Final = "privacy.operations.cancel"
AUDITS_ITSELF: Final = frozenset(
    {"SetPolicy", "Reveal", "ExportSubject", "Erase", "DeleteRecords", "RotateKey", "CancelOperation"}
)
"""Methods whose use cases write what was allowed, with what it was about; the interceptor writes what was denied or failed."""

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class PrivacyUseCases:
    """Everything that the service does."""

    policy: PolicyUseCase
    reveal: RevealUseCase
    export: ExportUseCase
    erase: EraseUseCase
    certificate: CertificateUseCase
    delete: DeleteUseCase
    keys: KeysUseCase
    audit: AuditUseCase
    runner: OperationRunner
    trail: AuditTrail


class PrivacyServicer(pb_grpc.PrivacyServiceServicer):
    """See the contract."""

    def __init__(self, use_cases: PrivacyUseCases, drain: Drain) -> None:
        self._do = use_cases
        self._drain = drain

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Context) -> pb.GetPolicyResponse:
        """See the contract."""
        return translate.policy_facts_out(self._do.policy.current())

    async def TestPolicy(self, request: pb.TestPolicyRequest, context: Context) -> pb.TestPolicyResponse:
        """See the contract."""
        return translate.trial_out(await self._do.policy.test(translate.sample_in(request)))

    async def SetPolicy(self, request: pb.SetPolicyRequest, context: Context) -> pb.SetPolicyResponse:
        """See the contract."""
        policy = await self._do.policy.replace(
            _caller(),
            translate.rules_in(request.rules),
            reason=request.reason,
            etag=request.etag,
            request_id=request.request_id,
        )
        return pb.SetPolicyResponse(policy=translate.policy_out(policy))

    async def ListPolicyVersions(
        self, request: pb.ListPolicyVersionsRequest, context: Context
    ) -> pb.ListPolicyVersionsResponse:
        """See the contract."""
        before = translate.place_in(request.page_token)
        policies, more = await self._do.policy.versions(before=before, count=request.page_size or PAGE_DEFAULT)
        return pb.ListPolicyVersionsResponse(
            policies=[translate.policy_out(one) for one in policies],
            next_page_token=translate.page_token(more) if more else "",
        )

    async def Reveal(self, request: pb.RevealRequest, context: Context) -> pb.RevealResponse:
        """See the contract."""
        written = translate.written_in(request.written)
        answer = await self._do.reveal.reveal(_caller(), request.tokens, request.reason, written)
        return pb.RevealResponse(
            revealed=[translate.revealed_out(one) for one in answer.revealed], audit_sequence=answer.audit_sequence
        )

    async def ExportSubject(
        self, request: pb.ExportSubjectRequest, context: Context
    ) -> AsyncIterator[pb.ExportSubjectResponse]:
        """See the contract."""
        pieces = self._do.export.export(
            _caller(),
            translate.subject_in(request.subject),
            translate.time_range_in(request.time_range),
            reason=request.reason,
            reveal=request.reveal,
        )
        async with aclosing(pieces):
            async for piece in pieces:
                yield pb.ExportSubjectResponse(json=piece)

    async def Erase(self, request: pb.EraseRequest, context: Context) -> pb.EraseResponse:
        """See the contract."""
        answer = await self._do.erase.erase(
            _caller(),
            translate.subject_in(request.subject),
            reason=request.reason,
            dry_run=request.dry_run,
            block=request.block,
            request_id=request.request_id,
        )
        return pb.EraseResponse(
            operation=None if answer.operation is None else translate.operation_out(answer.operation),
            scope=translate.scope_out(answer.scope),
        )

    async def DeleteRecords(self, request: pb.DeleteRecordsRequest, context: Context) -> pb.DeleteRecordsResponse:
        """See the contract."""
        answer = await self._do.delete.delete(
            _caller(),
            request.query,
            translate.time_range_in(request.time_range),
            tuple(request.datasets),
            reason=request.reason,
            dry_run=request.dry_run,
            request_id=request.request_id,
        )
        return pb.DeleteRecordsResponse(
            operation=None if answer.operation is None else translate.operation_out(answer.operation),
            record_count=answer.record_count,
        )

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """See the contract."""
        keys = await self._do.keys.list()
        return pb.ListKeysResponse(
            keys=[translate.key_out(one) for one in keys], signing_public_key=self._do.keys.signing_public_key
        )

    async def RotateKey(self, request: pb.RotateKeyRequest, context: Context) -> pb.RotateKeyResponse:
        """See the contract."""
        operation = await self._do.keys.rotate(
            _caller(),
            translate.rotation_in(request.kind),
            tuple(request.data_classes),
            reason=request.reason,
            request_id=request.request_id,
        )
        return pb.RotateKeyResponse(operation=translate.operation_out(operation))

    async def GetOperation(self, request: pb.GetOperationRequest, context: Context) -> pb.GetOperationResponse:
        """See the contract."""
        operation = await self._do.runner.find(request.operation_id)
        return pb.GetOperationResponse(operation=translate.operation_out(operation))

    async def ListOperations(self, request: pb.ListOperationsRequest, context: Context) -> pb.ListOperationsResponse:
        """See the contract."""
        bound_to = str(request.running_only)
        start = translate.place_in(request.page_token, bound_to)
        found = self._do.runner.list(running_only=request.running_only)
        answer = pb.ListOperationsResponse()
        size = 0
        for one in found[start : start + (request.page_size or PAGE_DEFAULT)]:
            operation = translate.operation_out(one)
            size += operation.ByteSize()
            # The scope of an erasure may hold thousands of tokens: the page is cut before the message gets too large.
            if answer.operations and size > PAGE_BYTES_MAX:
                break
            answer.operations.append(operation)
        end = start + len(answer.operations)
        answer.next_page_token = translate.page_token(end, bound_to) if end < len(found) else ""
        return answer

    async def CancelOperation(self, request: pb.CancelOperationRequest, context: Context) -> pb.CancelOperationResponse:
        """See the contract."""
        found = await self._do.runner.find(request.operation_id)
        await self._do.trail.allowed(_caller(), CANCEL_ACTION, subject=found.operation_id)
        operation = await self._do.runner.cancel(request.operation_id)
        return pb.CancelOperationResponse(operation=translate.operation_out(operation))

    async def WatchOperation(
        self, request: pb.WatchOperationRequest, context: Context
    ) -> AsyncIterator[pb.WatchOperationResponse]:
        """See the contract."""
        draining = asyncio.ensure_future(self._drain.event.wait())
        try:
            async with aclosing(self._do.runner.watch(request.operation_id)) as changes:
                while True:
                    following = asyncio.ensure_future(anext(changes, None))
                    try:
                        await asyncio.wait({following, draining}, return_when=asyncio.FIRST_COMPLETED)
                        if not following.done():
                            raise DrainingError
                    finally:
                        if not following.done():
                            following.cancel()
                            await asyncio.wait({following})
                    operation = following.result()
                    if operation is None:
                        return
                    yield pb.WatchOperationResponse(operation=translate.operation_out(operation))
        finally:
            draining.cancel()

    async def GetErasureCertificate(
        self, request: pb.GetErasureCertificateRequest, context: Context
    ) -> pb.GetErasureCertificateResponse:
        """See the contract."""
        return translate.certificate_out(await self._do.certificate.certificate(request.operation_id))

    async def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: Context
    ) -> pb.ListAuditEntriesResponse:
        """See the contract."""
        bound_to = f"{request.action_prefix}\n{request.actor}"
        page = await self._do.audit.page(
            after=translate.place_in(request.page_token, bound_to),
            count=request.page_size or AUDIT_PAGE_DEFAULT,
            action=request.action_prefix,
            actor=request.actor,
        )
        return translate.audit_page_out(page, bound_to)

    async def VerifyAuditLog(self, request: pb.VerifyAuditLogRequest, context: Context) -> pb.VerifyAuditLogResponse:
        """See the contract."""
        return translate.chain_out(await self._do.audit.verify())


def _caller() -> Caller:
    call = current_call()
    return Caller(call.principal.uri, call.request_id)
