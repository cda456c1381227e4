"""What the interceptor writes into the audit log: calls of methods whose contract says `audited`.

    allowed   before the method begins, with the request's reason; a method that audits itself writes a richer one instead
    denied    the caller lacks the permission
    failed    the method raised; with the reason of the catalogue

A caller that is denied again and again is written down at a bounded rate; the next entry says how many were left out.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, Final

from heimdall.types.v1.method_policy_pb2 import MethodPolicy
from heimdall_server.domain.errors import HeimdallError, PermissionDeniedError
from heimdall_server.ports.audit import Act, AuditLog
from heimdall_server.rpc import status
from heimdall_server.rpc.calls import find_call

REFUSED_PER_MINUTE: Final = 60
"""Denied or failed calls of one caller that are written down."""
CALLERS_MAX: Final = 4096
_MINUTE_S: Final = 60.0


class CallAudit:
    """Writes calls. Without a log it does nothing."""

    def __init__(self, log: AuditLog | None, audits_itself: Collection[str]) -> None:
        """Make one.

        Args:
            log: None: nothing is written.
            audits_itself: Full names of methods that write what they allow themselves.
        """
        self._log = log
        self._audits_itself = audits_itself
        self._refused: OrderedDict[str, tuple[float, int]] = OrderedDict()

    async def allowed(self, method: str, policy: MethodPolicy, request: Any = None) -> None:  # noqa: ANN401 - any message
        """Write that a call begins.

        Args:
            method: Full name.
            policy: Of the method.
            request: Its `reason`, if it has one, is told.

        Raises:
            StoreError: It isn't durable: the call must not go on.
        """
        if self._log is None or not policy.audited or method in self._audits_itself:
            return
        await self._write(self._log, method, policy, "allowed", str(getattr(request, "reason", "")), {})

    async def failed(self, method: str, policy: MethodPolicy, error: BaseException) -> BaseException:
        """Write that a call was refused or failed.

        Returns:
            What to tell the caller: the error, or why it couldn't be written.
        """
        call = find_call()
        # Who has no identity didn't come as far as a method.
        if self._log is None or not policy.audited or call is None:
            return error
        left_out = self._left_out(call.principal.uri)
        if left_out is None:
            return error
        outcome = "denied" if isinstance(status.leading_error(error), PermissionDeniedError) else "failed"
        details = {"error": status.reason_of(error)} | ({"left_out_count": str(left_out)} if left_out else {})
        try:
            await self._write(self._log, method, policy, outcome, "", details)
        except HeimdallError as problem:
            return problem
        return error

    async def _write(
        self, log: AuditLog, method: str, policy: MethodPolicy, outcome: str, reason: str, details: dict[str, str]
    ) -> None:
        call = find_call()
        actor, request_id = ("", "") if call is None else (call.principal.uri, call.request_id)
        act = Act(
            actor, policy.permission, outcome, reason, details={"method": method, **details}, request_id=request_id
        )
        await log.append(act)

    def _left_out(self, caller: str) -> int | None:
        """How many refusals weren't written before this one; None: neither is this one."""
        now_s = time.monotonic()
        begin_s, count = self._refused.get(caller, (now_s, 0))
        left_out = 0
        if now_s - begin_s >= _MINUTE_S:
            left_out, begin_s, count = max(0, count - REFUSED_PER_MINUTE), now_s, 0
        self._refused[caller] = (begin_s, count + 1)
        self._refused.move_to_end(caller)
        if len(self._refused) > CALLERS_MAX:
            self._refused.popitem(last=False)
        return left_out if count < REFUSED_PER_MINUTE else None
