"""The protector's policy, as the privacy service sees it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from heimdall_server.decode import detect, dispatch
from heimdall_server.domain.decoding import DecodeContext, FormatKind
from heimdall_server.domain.errors import ConfigurationError, FormatError, InvalidArgumentError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.operations import PolicyRule
from heimdall_server.protect.actions import ACTIONS, MASK, Action
from heimdall_server.protect.catalogue import CLASSES, CREDENTIAL_CLASSES, DESCRIPTIONS
from heimdall_server.protect.names_model import MISSING, NamesModel
from heimdall_server.protect.names_pass import NamesPass
from heimdall_server.protect.policy import FALLBACK_ACTION, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.trial import trial
from heimdall_server.services.privacy.model import DataClass, Finding, PolicySample, PolicyTrial
from heimdall_server.services.query.translate.json_rows import json_rows
from heimdall_server.wiring.names import names_model

_ROWS: Final = 20
_ROWS_BYTES_MAX: Final = 512 * 1024
_FINDINGS_MAX: Final = 1_000
"""Of a sample with thousands of attributes; both keep an answer below what clients take."""


class ProtectorPolicy:
    """`PolicyControl` over a `PolicyProtector`."""

    fallback_action = FALLBACK_ACTION

    def __init__(
        self, protector: PolicyProtector, clock: Clock, prepare: Callable[[PrivacyPolicy], Awaitable[None]]
    ) -> None:
        """Take a protector.

        Args:
            protector: Its policy is shown and replaced.
            clock: For records of samples.
            prepare: Makes the keys that a policy needs, before it is in force.
        """
        self._protector = protector
        self._clock = clock
        self._prepare = prepare

    @property
    def version(self) -> int:
        """See `PolicyControl`."""
        return self._protector.policy_version

    @property
    def rules(self) -> Sequence[PolicyRule]:
        """See `PolicyControl`."""
        return [PolicyRule(one.action, one.data_class, one.source, one.field) for one in self._protector.policy.rules]

    @property
    def classes(self) -> Sequence[DataClass]:
        """See `PolicyControl`."""
        return [DataClass(name, DESCRIPTIONS[name], credential=name in CREDENTIAL_CLASSES) for name in CLASSES]

    @property
    def actions(self) -> Sequence[str]:
        """See `PolicyControl`."""
        return tuple(self._protector.actions)

    async def prepare(self, rules: Sequence[PolicyRule], version: int) -> None:
        """See `PolicyControl`."""
        await self._prepare(await asyncio.to_thread(self._checked, rules, version, is_new=True))

    async def replace(self, rules: Sequence[PolicyRule], version: int) -> None:
        """See `PolicyControl`."""
        policy = self._checked(rules, version)
        await self._prepare(policy)
        self._protector.replace(policy)

    async def test(self, sample: PolicySample) -> PolicyTrial:
        """See `PolicyControl`. Nothing is sealed: what would be tokenised, hashed or encrypted is shown as its mask."""
        rules = sample.rules or self.rules
        policy = await asyncio.to_thread(self._checked, rules, self.version, is_new=bool(sample.rules))
        return await asyncio.to_thread(self._try, policy, sample)

    def _checked(self, rules: Sequence[PolicyRule], version: int, *, is_new: bool = False) -> PrivacyPolicy:
        made = tuple(PrivacyRule(one.action, one.data_class, one.source, one.field) for one in rules)
        policy = replace(self._protector.policy, version=version, rules=made)
        if problems := policy.problems(self._protector.actions, is_new=is_new):
            raise ConfigurationError(tuple(problems))
        return policy

    def _try(self, policy: PrivacyPolicy, sample: PolicySample) -> PolicyTrial:
        try:
            hint = FormatKind(sample.format) if sample.format else None
        except ValueError as error:
            raise FormatError(sample.format, f"no such format; use one of {', '.join(FormatKind)}") from error
        found = detect.resolve(hint, {}, sample.sample, final=True)
        if found is None:
            raise FormatError("anything known", "name the format of the sample")
        source = sample.source_id or "sample"
        names = _names() if sample.find_names else None
        context = DecodeContext(source, "logs", self._clock.now_ns(), dump=source if sample.as_dump else "")
        decoded = dispatch.decode(sample.sample, found, context, at_start=True)
        harmless: Mapping[str, Action] = {name: ACTIONS.get(name, MASK) for name in self._protector.actions}
        protected = PolicyProtector(policy, harmless, names=names).protect(decoded.batch)
        shown = protected.batch.slice(0, sample.row_count_max or _ROWS)
        findings = [
            Finding(one.data_class, one.field, one.action, one.count, one.rule_index)
            for one in trial(policy, self._protector.actions, decoded.batch, source, names=names)
        ]
        rows = json_rows(shown.drop_columns(["tokens"])).to_pylist()
        sizes = itertools.accumulate(len(row.encode()) for row in rows)
        kept = [row for row, size in zip(rows, sizes, strict=True) if size <= _ROWS_BYTES_MAX]
        return PolicyTrial(decoded.record_count, len(decoded.errors), findings[:_FINDINGS_MAX], kept)


def _names() -> NamesPass:
    if not NamesModel.available():
        raise InvalidArgumentError("find_names", f"must be left out: {MISSING}")
    return NamesPass(names_model(), remember=True)
