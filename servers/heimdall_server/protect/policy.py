"""The privacy policy: an ordered list of class by source by field → action, of which the first that fits counts."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.actions import ACTIONS, KEYED, Action
from heimdall_server.protect.catalogue import CLASSES, CREDENTIAL_CLASSES

FALLBACK_ACTION: Final = "mask"
"""For a class that no rule of the policy speaks of: nothing of the value is left, and every server has it."""
ALL_ACTIONS: Final = (*ACTIONS, *KEYED)
"""Names that a policy may use where the server has the keys."""
VERSION_MAX: Final = 2**32 - 1

_KEYS: Final = {"class": "data_class", "source": "source", "field": "field", "action": "action"}


@dataclass(frozen=True)
class PrivacyRule:
    """One line of the policy. Globs: `*`, `?`, `[abc]`; case matters."""

    action: str
    """Name of an action: `keep`, `mask`, `partial`, `drop`, and, with keys, `hash`, `tokenise`, `encrypt`, `format_preserving`."""
    data_class: str = "*"
    """Glob over classes of personal data, as in `email` or `ip*`."""
    source: str = "*"
    """Glob over the record's source."""
    field: str = "*"
    """Glob over fields: `body`, `overflow`, `service`, `host`, `severity_text`, `event_name`, `scope_name`,
    `scope_version`, `dump`, `attributes.<key>`, `resource.<key>` (both for what stands in the key itself, too). One without a scope, like `user.*`, is for attributes and resource
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
"""Without keys: mask everything but IP addresses."""
DEFAULT_KEYED_RULES: Final = (
    PrivacyRule("keep", "ip*"),
    *(PrivacyRule("mask", data_class) for data_class in CLASSES if data_class in CREDENTIAL_CLASSES),
    PrivacyRule("tokenise"),
)
"""With keys: mask what opens doors, which nobody should search or reveal, and tokenise all else but IP addresses."""


def default_rules(actions: Collection[str]) -> tuple[PrivacyRule, ...]:
    """The rules of a server that has these actions and wasn't told otherwise."""
    return DEFAULT_KEYED_RULES if "tokenise" in actions else DEFAULT_RULES


@dataclass(frozen=True)
class PrivacyPolicy:
    """What becomes of personal data. On by default."""

    version: int = 1
    """Stamped on every record (`policy_version`); raise it with each change. 1 to 2³² - 1."""
    rules: tuple[PrivacyRule, ...] = DEFAULT_RULES
    """In order: the first rule that fits class, source and field decides; if none does, the value is masked."""
    thorough: bool = True
    """Look also for what is seldom found: national ids, documents, birth dates, places, accounts, wallets, cookies, keys of
    many vendors. Costs a fifth more of protection's time in large batches, and twice as much in small ones."""

    @property
    def is_default(self) -> bool:
        """Whether nobody chose rules: then a server that has keys takes those for keys instead (`default_rules`)."""
        return self.rules is DEFAULT_RULES

    @classmethod
    def parse(
        cls,
        rules: Sequence[Mapping[str, object]],
        *,
        version: int = 1,
        actions: Collection[str] = tuple(ACTIONS),
        thorough: bool = True,
    ) -> PrivacyPolicy:
        """Read the policy's rules from configuration.

        Args:
            rules: Tables with `action` and, each optional, `class`, `source` and `field`. Empty: the default rules without keys.
            version: The policy's version.
            actions: Names of the actions that this server has.
            thorough: See the field.

        Raises:
            ConfigurationError: With every problem, each naming its rule.
        """
        problems = [
            f"privacy.rules[{index}]: {problem}" for index, rule in enumerate(rules) for problem in _flaws(rule)
        ]
        parsed = tuple(
            PrivacyRule(**{_KEYS[key]: str(value) for key, value in rule.items()}) for rule in rules if not _flaws(rule)
        )
        policy = cls(version, parsed or DEFAULT_RULES, thorough)
        problems += policy.problems(actions) if not problems else _version_problems(version)
        if problems:
            raise ConfigurationError(tuple(problems))
        return policy

    def problems(self, actions: Collection[str] | Mapping[str, Action] = tuple(ACTIONS)) -> list[str]:
        """Everything that is wrong with the policy, each sentence naming its rule; empty if it can be used.

        Args:
            actions: What this server has: names, or the actions themselves, which then are asked for the classes they fit.
        """
        found = _version_problems(self.version)
        for index, rule in enumerate(self.rules):
            place = f"privacy.rules[{index}]"
            classes = set(filter(rule.fits_class, CLASSES))
            if rule.action not in actions:
                found.append(f"{place}.action: {_unusable(rule.action, actions)}")
            elif isinstance(actions, Mapping) and (fitting := actions[rule.action].classes) is not None:
                strange = sorted(classes - fitting)
                if strange:
                    found.append(
                        f"{place}.class: {rule.action} can't be done for {', '.join(strange)}; "
                        f"use it for {', '.join(sorted(fitting))} only"
                    )
            if not classes:
                found.append(f"{place}.class: {rule.data_class!r} fits no class; use one of {', '.join(CLASSES)}, or *")
            found += [
                f"{place}.{name}: may not be empty; leave it out or use *"
                for name, glob in (("source", rule.source), ("field", rule.field))
                if not glob
            ]
            if shadows := self._shadows(index, classes, actions):
                found.append(f"{place}: is never reached, since {shadows} before it; move it up or remove it")
        return found

    def _shadows(self, index: int, classes: set[str], actions: Collection[str]) -> str:
        """Which earlier rules leave nothing for a rule; empty: it can be reached."""
        rule, left, by = self.rules[index], set(classes), []
        for earlier, other in enumerate(self.rules[:index]):
            wider = other.source in ("*", rule.source) and other.field in ("*", rule.field)
            if not wider or other.action not in actions:
                continue
            if taken := set(filter(other.fits_class, left)):
                left -= taken
                by.append(f"privacy.rules[{earlier}]")
        if left or not classes:
            return ""
        return f"{' and '.join(by)} {'fits' if len(by) == 1 else 'fit'} all of it"

    def tables(self) -> list[dict[str, str]]:
        """The rules as configuration has them; what is `*` is left out."""
        named = {value: key for key, value in _KEYS.items()}
        return [
            {
                key: str(getattr(rule, value))
                for value, key in named.items()
                if value == "action" or getattr(rule, value) != "*"
            }
            for rule in self.rules
        ]

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
        flaws.append(f"has no action; say one of {', '.join(ALL_ACTIONS)}")
    return flaws


def _unusable(action: str, actions: Collection[str]) -> str:
    if action in KEYED:
        return f"{action} needs a key that this server hasn't; use one of {', '.join(actions)}"
    return f"unknown action {action!r}; use one of {', '.join(actions)}"


def _version_problems(version: int) -> list[str]:
    return [] if 1 <= version <= VERSION_MAX else [f"privacy.version: must be 1 to {VERSION_MAX}, not {version}"]
