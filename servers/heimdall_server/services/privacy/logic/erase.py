"""Erasing a subject: counted first, then begun as an operation, and certified when its values are inaccessible."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from heimdall_server.domain.errors import NotFoundError, OperationStateError
from heimdall_server.domain.operations import ErasureScope, Operation, OperationKind
from heimdall_server.domain.personal import PersonalValue, TokenName
from heimdall_server.ports.keys import Sealer, Signer
from heimdall_server.ports.vault import Vault
from heimdall_server.services.privacy.logic.limits import CallerRates
from heimdall_server.services.privacy.logic.operations import OperationRunner, identity_of
from heimdall_server.services.privacy.logic.subjects import Subject, SubjectNames
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import Caller, Certificate, ErasureAnswer

ACTION: Final = "privacy.erase"
CERTIFICATE_KIND: Final = "heimdall.erasure_certificate"
CERTIFICATE_VERSION: Final = 1


class EraseUseCase:
    """See the module. What is done then is the operation's own matter (its `Steps`).

    Its parameters are `tokens`, the `epochs` that these are of, `classes`, `block` and, to keep them out, the values' keyed `digests`.
    """

    def __init__(
        self,
        *,
        subjects: SubjectNames,
        vault: Vault,
        sealer: Sealer,
        runner: OperationRunner,
        trail: AuditTrail,
        rates: CallerRates,
        count_records: Callable[[Sequence[TokenName]], Awaitable[int]],
    ) -> None:
        """Make one.

        Args:
            subjects: Finds the tokens.
            vault: Where values are counted.
            sealer: Knows the newest generation of a class.
            runner: Does it.
            trail: Where it is written down.
            rates: How many subjects a caller may ask about: the counts tell whether there is somebody.
            count_records: How many stored records name one of the tokens.
        """
        self._subjects = subjects
        self._vault = vault
        self._sealer = sealer
        self._runner = runner
        self._trail = trail
        self._rates = rates
        self._count_records = count_records

    async def erase(
        self,
        caller: Caller,
        values: Sequence[PersonalValue],
        *,
        reason: str,
        dry_run: bool,
        block: bool,
        request_id: str,
    ) -> ErasureAnswer:
        """Begin an erasure, or only count what it would concern.

        Args:
            caller: Who.
            values: What the subject is known by, in plain or by token.
            reason: Why.
            dry_run: Only count.
            block: Whether values of the subject that come in later are kept out, too.
            request_id: A repeat gives the first operation; empty: none.

        Raises:
            InvalidArgumentError: No such class, or a token of another one.
            BudgetExceededError: The caller's rate is used up.
            StoreError: The vault, the store, the ledger or the audit log can't be reached; nothing was begun.
        """
        self._rates.take(caller.actor, len(values))
        subject = await self._subjects.resolve(values)
        scope = await self._scope(subject)
        details = {
            "classes": " ".join(subject.classes),
            "tokens": " ".join(scope.tokens),
            "vault_value_count": scope.vault_value_count,
            "record_count": scope.record_count,
            "block": str(block).lower(),
            "dry_run": str(dry_run).lower(),
        }
        await self._trail.allowed(caller, ACTION, reason=reason, details=details)
        if dry_run:
            return ErasureAnswer(None, scope)
        operation = await self._runner.create(
            OperationKind.ERASE,
            actor=caller.actor,
            reason=reason,
            request_id=request_id,
            identity=identity_of({"subject": sorted(subject.digests), "block": block}),
            parameters={
                "tokens": list(scope.tokens),
                "epochs": list(subject.epochs),
                "classes": subject.classes,
                "block": block,
                # Those of values: what is known by its token alone can't be told again under another epoch's.
                "digests": [one for one in subject.digests if TokenName.parse(one) is None] if block else [],
            },
            scope=scope,
        )
        return ErasureAnswer(operation, operation.scope or scope)

    async def _scope(self, subject: Subject) -> ErasureScope:
        found = await self._vault.get(subject.names)
        survivors = 0
        for data_class in sorted({name.data_class for name in found}):
            newer = self._sealer.generation(data_class) + 1
            own = sum(name.data_class == data_class for name in found)
            survivors += max(0, await self._vault.count_older_than(data_class, newer) - own)
        return ErasureScope(
            tokens=tuple(map(str, subject.names)),
            vault_value_count=len(found),
            record_count=await self._count_records(subject.names),
            survivor_count=survivors,
        )


class CertificateUseCase:
    """Signs what an erasure did. The same operation gives the same bytes, until it goes on."""

    def __init__(self, *, runner: OperationRunner, signer: Signer, instance_id: str) -> None:
        self._runner = runner
        self._signer = signer
        self._instance_id = instance_id

    async def certificate(self, operation_id: str) -> Certificate:
        """The certificate of an erasure.

        Raises:
            NotFoundError: There is no such erasure.
            OperationStateError: Its values aren't inaccessible yet.
        """
        operation = await self._runner.find(operation_id)
        if operation.kind is not OperationKind.ERASE:
            raise NotFoundError("erasure", operation_id)
        if not operation.inaccessible_time_ns:
            raise OperationStateError(operation_id, operation.state.value, "its values aren't inaccessible yet")
        document = self._document(operation)
        return Certificate(document, self._signer.sign(document), self._signer.public_key)

    def _document(self, operation: Operation) -> bytes:
        scope = operation.scope or ErasureScope()
        value: dict[str, Any] = {
            "kind": CERTIFICATE_KIND,
            "version": CERTIFICATE_VERSION,
            "instance_id": self._instance_id,
            "operation_id": operation.operation_id,
            "state": operation.state.value,
            "actor": operation.actor,
            "reason": operation.reason,
            "request_time": _time(operation.create_time_ns),
            "inaccessible_time": _time(operation.inaccessible_time_ns),
            "shredded_time": _time(operation.shredded_time_ns),
            "tokens": list(scope.tokens),
            "classes": list(operation.parameters.get("classes", [])),
            "blocked": bool(operation.parameters.get("block", False)),
            "vault_value_count": scope.vault_value_count,
            "record_count": scope.record_count,
            # Not `affected_count`, in which those of others are that were sealed anew.
            "erased_value_count": operation.facts.get("values_deleted", 0),
            "keys_destroyed": [
                {
                    "data_class": key["data_class"],
                    "generation": key["generation"],
                    "destroyed_time": _time(key["destroyed_time_ns"]),
                }
                for key in operation.facts.get("keys_destroyed", [])
            ],
            "public_key": self._signer.public_key.hex(),
        }
        return canonical_json(value)


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - what JSON can say
    """JSON in the form of RFC 8785, for values of texts, lists, objects with ASCII keys, truths, nulls and integers below 2^53."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _time(ns: int) -> str | None:
    """RFC 3339 in UTC, to the second; None: not yet."""
    return f"{dt.datetime.fromtimestamp(ns // 1_000_000_000, dt.UTC):%Y-%m-%dT%H:%M:%SZ}" if ns else None
