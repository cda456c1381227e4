"""What use cases write into the audit log: each act with what it was about, before its result leaves."""

from __future__ import annotations

from collections.abc import Mapping

from heimdall_server.ports.audit import Act, AuditEntry, AuditLog
from heimdall_server.services.privacy.logic import metrics
from heimdall_server.services.privacy.model import Caller


class AuditTrail:
    """Writes acts of callers. The interceptor writes what it refuses and what fails."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def allowed(
        self,
        caller: Caller,
        action: str,
        *,
        reason: str = "",
        subject: str = "",
        details: Mapping[str, object] | None = None,
    ) -> AuditEntry:
        """Write that somebody does something. If that fails, it must not be done, or not be told.

        Args:
            caller: Who.
            action: The permission that it needed.
            reason: As given; personal data in it is masked by the log.
            subject: What it is about: a token, an operation, a version.
            details: Counts, classes, tokens; never a value.

        Raises:
            StoreError: It isn't durable.
        """
        told = {key: str(value) for key, value in (details or {}).items() if value not in ("", None)}
        entry = await self._log.append(Act(caller.actor, action, "allowed", reason, subject, told, caller.request_id))
        metrics.ACTS.labels(action).inc()
        return entry
