"""The privacy policy at run time: shown, tried on a sample, replaced; its versions are kept in the ledger.

Of the configuration's policy and the ledger's newest one the higher version is in force: who edits the configuration raises
`privacy.version` above the running one, or it isn't taken.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final, Protocol

from heimdall_server.domain.errors import ConfigurationError, EtagMismatchError, InvalidArgumentError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.operations import PolicyLog, PolicyRule, PolicyVersion
from heimdall_server.services.privacy.logic.trail import AuditTrail
from heimdall_server.services.privacy.model import (
    Caller,
    DataClass,
    PolicyFacts,
    PolicyInForce,
    PolicySample,
    PolicyTrial,
)

CONFIGURATION: Final = "configuration"
"""Who changed what the configuration file says."""
ACTION: Final = "privacy.policy.set"

_PLACE: Final = re.compile(r"privacy\.(rules\[\d+\](?:\.\w+)?): (.*)", re.DOTALL)


class PolicyControl(Protocol):
    """The protector's policy, as this service sees it; wiring makes it over `protect`."""

    @property
    def version(self) -> int:
        """Of the policy in force."""
        ...

    @property
    def rules(self) -> Sequence[PolicyRule]:
        """Of the policy in force, in order."""
        ...

    @property
    def fallback_action(self) -> str:
        """What is done where no rule fits."""
        ...

    @property
    def classes(self) -> Sequence[DataClass]:
        """Every class that rules may name."""
        ...

    @property
    def actions(self) -> Sequence[str]:
        """Every action that there is."""
        ...

    async def prepare(self, rules: Sequence[PolicyRule], version: int) -> None:
        """Make the keys that rules need; nothing is in force yet, and putting them in force can't fail for want of a key then.

        Raises:
            ConfigurationError: They can't be used: every problem, each `privacy.rules[<index>]…: <what is wrong>`.
            StoreError: A key couldn't be made.
        """
        ...

    async def replace(self, rules: Sequence[PolicyRule], version: int) -> None:
        """Put rules in force: every batch that is protected after this returns follows them.

        Raises:
            ConfigurationError, StoreError: As `prepare`; the running policy stays.
        """
        ...

    async def test(self, sample: PolicySample) -> PolicyTrial:
        """Decode and protect a sample, without storing anything.

        Raises:
            ConfigurationError: As `prepare`.
            FormatError: The sample can't be decoded.
        """
        ...


class PolicyUseCase:
    """See the module. For one event loop."""

    def __init__(
        self,
        *,
        control: PolicyControl,
        log: PolicyLog,
        trail: AuditTrail,
        clock: Clock,
        mask_text: Callable[[str], str],
    ) -> None:
        """Make one; `restore` before the first call.

        Args:
            control: The protector's policy.
            log: Where versions are kept.
            trail: Where changes are written down.
            clock: Their times.
            mask_text: Puts classes in place of personal data in reasons. Runs in a thread.
        """
        self._control = control
        self._log = log
        self._trail = trail
        self._clock = clock
        self._mask_text = mask_text
        self._changing = asyncio.Lock()
        self._newest: PolicyVersion | None = None

    async def restore(self) -> None:
        """Put the newest policy in force: the ledger's, or the configuration's if its version is higher.

        Raises:
            ConfigurationError: The ledger's policy names a class or an action that this server lacks.
            StoreError, CorruptionError: The ledger can't be read or written.
        """
        newest: PolicyVersion | None = None
        async for one in self._log.read():
            newest = one
        if newest is None or self._control.version > newest.version:
            newest = PolicyVersion(
                self._control.version, tuple(self._control.rules), CONFIGURATION, self._clock.now_ns()
            )
            await self._log.append(newest)
        else:
            await self._control.replace(newest.rules, newest.version)
        self._newest = newest

    def current(self) -> PolicyFacts:
        """The policy in force."""
        return PolicyFacts(self._in_force(self._current()), self._control.classes, self._control.actions)

    async def test(self, sample: PolicySample) -> PolicyTrial:
        """What a policy would do to a sample.

        Raises:
            InvalidArgumentError: The rules can't be used; with every problem.
            FormatError: The sample can't be decoded.
        """
        try:
            return await self._control.test(sample)
        except ConfigurationError as error:
            raise _invalid(error) from error

    async def replace(
        self, caller: Caller, rules: Sequence[PolicyRule], *, reason: str, etag: str, request_id: str
    ) -> PolicyInForce:
        """Put a policy in force.

        Args:
            caller: Who.
            rules: All of them, in order.
            reason: Why; personal data in it is masked.
            etag: Of the policy that it replaces; empty: whatever is in force.
            request_id: A repeat gives the first answer; empty: none.

        Raises:
            InvalidArgumentError: The rules can't be used, or the request id was used for others; the running policy stays.
            EtagMismatchError: Another policy is in force.
            StoreError: It couldn't be made durable, or a key that it needs couldn't be made; the running policy stays.
        """
        async with self._changing:
            if request_id and (first := await self._asked(caller, request_id)) is not None:
                if tuple(first.rules) != tuple(rules):
                    raise InvalidArgumentError("request_id", "was used for other rules; take a new one")
                return self._in_force(first)
            current = self._current()
            if etag not in ("", etag_of(current)):
                raise EtagMismatchError("privacy policy", etag_of(current))
            version = current.version + 1
            try:
                await self._control.prepare(rules, version)
            except ConfigurationError as error:
                raise _invalid(error) from error
            masked = await asyncio.to_thread(self._mask_text, reason)
            made = PolicyVersion(version, tuple(rules), caller.actor, self._clock.now_ns(), masked, request_id)
            await self._trail.allowed(
                caller, ACTION, reason=reason, subject=f"version {version}", details={"rule_count": len(rules)}
            )
            await self._log.append(made)
            self._newest = made
            await self._control.replace(rules, version)
            return self._in_force(made)

    async def versions(self, *, before: int, count: int) -> tuple[Sequence[PolicyInForce], int]:
        """Policies that were in force, the newest first.

        Args:
            before: Only versions below; 0: all.
            count: At most so many.

        Returns:
            Them, and the version below which there are more; 0: there are none.
        """
        kept: list[PolicyVersion] = []
        async for one in self._log.read():
            if not before or one.version < before:
                kept = [*kept[-count:], one]
        page = kept[-count:]
        return [self._in_force(one) for one in reversed(page)], page[0].version if len(kept) > count else 0

    def _current(self) -> PolicyVersion:
        if self._newest is None:
            return PolicyVersion(self._control.version, tuple(self._control.rules), CONFIGURATION, 0)
        return self._newest

    async def _asked(self, caller: Caller, request_id: str) -> PolicyVersion | None:
        async for one in self._log.read():
            if (one.changed_by, one.request_id) == (caller.actor, request_id):
                return one
        return None

    def _in_force(self, version: PolicyVersion) -> PolicyInForce:
        return PolicyInForce(version, self._control.fallback_action, etag_of(version))


def etag_of(version: PolicyVersion) -> str:
    """What changes whenever the policy does."""
    text = json.dumps([asdict(rule) for rule in version.rules], sort_keys=True)
    return f"{version.version}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _invalid(error: ConfigurationError) -> InvalidArgumentError:
    """Problems of a configuration as problems of a request's fields."""
    told = []
    for problem in error.problems:
        found = _PLACE.fullmatch(problem)
        told.append((found[1], found[2]) if found else ("rules", problem.removeprefix("privacy.")))
    return InvalidArgumentError(*told[0], tuple(told[1:]))
