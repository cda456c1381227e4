"""The protector's policy, as the privacy service sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from heimdall_server.decode import detect, dispatch
from heimdall_server.domain.decoding import DecodeContext, FormatKind
from heimdall_server.domain.errors import ConfigurationError, FormatError
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.operations import PolicyRule
from heimdall_server.protect.actions import ACTIONS, MASK, Action
from heimdall_server.protect.catalogue import CLASSES, CREDENTIAL_CLASSES, DESCRIPTIONS
from heimdall_server.protect.policy import FALLBACK_ACTION, PrivacyPolicy, PrivacyRule
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.services.privacy.model import DataClass, Finding, PolicySample, PolicyTrial
from heimdall_server.services.query.translate.json_rows import json_rows

_ROWS: Final = 20
_ANYWHERE: Final = "*"


class ProtectorPolicy:
    """`PolicyControl` over a `PolicyProtector`."""

    fallback_action = FALLBACK_ACTION

    def __init__(self, protector: PolicyProtector, clock: Clock) -> None:
        self._protector = protector
        self._clock = clock

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

    def check(self, rules: Sequence[PolicyRule], version: int) -> None:
        """See `PolicyControl`."""
        if problems := self._policy(rules, version).problems(self._protector.actions):
            raise ConfigurationError(tuple(problems))

    async def replace(self, rules: Sequence[PolicyRule], version: int) -> None:
        """See `PolicyControl`."""
        self._protector.replace(self._policy(rules, version))

    async def test(self, sample: PolicySample) -> PolicyTrial:
        """See `PolicyControl`. Nothing is sealed: what would be tokenised, hashed or encrypted is shown as its mask."""
        rules = sample.rules or self.rules
        self.check(rules, self.version)
        return await asyncio.to_thread(self._try, self._policy(rules, self.version), sample)

    def _policy(self, rules: Sequence[PolicyRule], version: int) -> PrivacyPolicy:
        made = tuple(PrivacyRule(one.action, one.data_class, one.source, one.field) for one in rules)
        return PrivacyPolicy(version, made, self._protector.policy.thorough)

    def _try(self, policy: PrivacyPolicy, sample: PolicySample) -> PolicyTrial:
        try:
            hint = FormatKind(sample.format) if sample.format else None
        except ValueError as error:
            raise FormatError(sample.format, f"no such format; use one of {', '.join(FormatKind)}") from error
        found = detect.resolve(hint, {}, sample.sample, final=True)
        if found is None:
            raise FormatError("anything known", "name the format of the sample")
        source = sample.source_id or "sample"
        context = DecodeContext(source, "logs", self._clock.now_ns())
        decoded = dispatch.decode(sample.sample, found, context, at_start=True)
        harmless: Mapping[str, Action] = {name: ACTIONS.get(name, MASK) for name in self._protector.actions}
        protected = PolicyProtector(policy, harmless).protect(decoded.batch)
        findings = [
            Finding(name, _ANYWHERE, policy.action(name, source, "body"), count, _deciding(policy, name, source))
            for name, count in sorted(protected.hits.items(), key=lambda hit: -hit[1])
        ]
        shown = protected.batch.slice(0, sample.row_count_max or _ROWS).drop_columns(["tokens"])
        return PolicyTrial(decoded.record_count, len(decoded.errors), findings, json_rows(shown).to_pylist())


def _deciding(policy: PrivacyPolicy, data_class: str, source: str) -> int:
    fitting = (
        index for index, rule in enumerate(policy.rules) if rule.fits_class(data_class) and rule.fits_source(source)
    )
    return next(fitting, -1)
