"""The privacy policy: an ordered list of class by source by field → action, of which the first that fits counts."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.actions import ACTIONS
from heimdall_server.protect.catalogue import CLASSES

FALLBACK_ACTION: Final = "mask"
"""For a class that no rule of the policy speaks of."""
VERSION_MAX: Final = 2**32 - 1

_KEYS: Final = {"class": "data_class", "source": "source", "field": "field", "action": "action"}


@dataclass(frozen=True)
class PrivacyRule:
    """One line of the policy. Globs: `*`, `?`, `[abc]`; case matters."""

    action: str
    """Name of an action: `keep`, `mask` or `drop`."""
    data_class: str = "*"
    """Glob over classes of personal data, as in `email` or `ip*`."""
    source: str = "*"
    """Glob over the record's source."""
    field: str = "*"
    """Glob over fields: `body`, `overflow`, `service`, `host`, `severity_text`, `event_name`, `scope_name`,
    `attributes.<key>`, `resource.<key>`. One without a scope, like `user.*`, is for attributes and resource
    attributes, too."""

    @cached_property
    def _globs(self) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
        data_class, source, field = (
            re.compile(fnmatch.translate(glob)) for glob in (self.data_class, self.source, self.field)
        )
        return data_class, source, field

    def fits_class(self, data_class: str) -> bool:
        """Whether the rule speaks of a class."""
        return self._globs[0].match(data_class) is not None

    def fits_source(self, source: str) -> bool:
        """Whether the rule speaks of a source."""
        return self._globs[1].match(source) is not None

    def fits_field(self, field: str) -> bool:
        """Whether the rule speaks of a field, named with its scope."""
        glob = self._globs[2]
        if glob.match(field) is not None:
            return True
        scope, dot, key = field.partition(".")
        return bool(dot) and scope in ("attributes", "resource") and glob.match(key) is not None


DEFAULT_RULES: Final = (PrivacyRule("keep", "ip*"), PrivacyRule("mask"))
"""Mask everything but IP addresses."""


@dataclass(frozen=True)
class PrivacyPolicy:
    """What becomes of personal data. On by default."""

    version: int = 1
    """Stamped on every record (`policy_version`); raise it with each change. 1 to 2³² - 1."""
    rules: tuple[PrivacyRule, ...] = DEFAULT_RULES
    """In order: the first rule that fits class, source and field decides; if none does, the value is masked."""

    @classmethod
    def parse(
        cls, rules: Sequence[Mapping[str, object]], *, version: int = 1, actions: Collection[str] = tuple(ACTIONS)
    ) -> PrivacyPolicy:
        """Read the policy's rules from configuration.

        Args:
            rules: Tables with `action` and, each optional, `class`, `source` and `field`. Empty: the default rules.
            version: The policy's version.
            actions: Names of the actions that this server has.

        Raises:
            ConfigurationError: With every problem, each naming its rule.
        """
        problems = [
            f"privacy.rules[{index}]: {problem}" for index, rule in enumerate(rules) for problem in _flaws(rule)
        ]
        parsed = tuple(
            PrivacyRule(**{_KEYS[key]: str(value) for key, value in rule.items()}) for rule in rules if not _flaws(rule)
        )
        policy = cls(version, parsed or DEFAULT_RULES)
        problems += policy.problems(actions) if not problems else _version_problems(version)
        if problems:
            raise ConfigurationError(tuple(problems))
        return policy

    def problems(self, actions: Collection[str] = tuple(ACTIONS)) -> list[str]:
        """Everything that is wrong with the policy, each sentence naming its rule; empty if it can be used."""
        found = _version_problems(self.version)
        for index, rule in enumerate(self.rules):
            place = f"privacy.rules[{index}]"
            if rule.action not in actions:
                found.append(f"{place}.action: unknown action {rule.action!r}; use one of {', '.join(actions)}")
            if not any(map(rule.fits_class, CLASSES)):
                found.append(f"{place}.class: {rule.data_class!r} fits no class; use one of {', '.join(CLASSES)}, or *")
            found += [
                f"{place}.{name}: may not be empty; leave it out or use *"
                for name, glob in (("source", rule.source), ("field", rule.field))
                if not glob
            ]
        return found

    def action(self, data_class: str, source: str, field: str) -> str:
        """Name of the action for a class in a field of a record of a source."""
        for rule in self.rules:
            if rule.fits_class(data_class) and rule.fits_source(source) and rule.fits_field(field):
                return rule.action
        return FALLBACK_ACTION


def _flaws(rule: Mapping[str, object]) -> list[str]:
    flaws = [f"unknown key {key!r}; use class, source, field and action" for key in rule if key not in _KEYS]
    flaws += [f"{key} must be text" for key in _KEYS if not isinstance(rule.get(key, ""), str)]
    if "action" not in rule:
        flaws.append("has no action; say keep, mask or drop")
    return flaws


def _version_problems(version: int) -> list[str]:
    return [] if 1 <= version <= VERSION_MAX else [f"privacy.version: must be 1 to {VERSION_MAX}, not {version}"]
