"""The privacy policy: an ordered list of class by source by field → action, of which the first that fits counts."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.actions import ACTIONS, KEYED, Action
from heimdall_server.protect.catalogue import CLASSES, CREDENTIAL_CLASSES
from heimdall_server.protect.globs import SCOPES, covers, covers_field, glob_flaw, readings
from heimdall_server.protect.texts import masked_text

FALLBACK_ACTION: Final = "mask"
"""For a class that no rule of the policy speaks of: nothing of the value is left, and every server has it."""
ALL_ACTIONS: Final = (*ACTIONS, *KEYED)
"""Names that a policy may use where the server has the keys."""
VERSION_MAX: Final = 2**32 - 1
DEFAULT_PREFIXES: Final = (24, 48)
"""See `PrivacyPolicy.ip_prefixes`."""
_PREFIX_BITS: Final = (32, 128)

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
    `scope_version`, `dump`, `attributes.<key>`, `resource.<key>` (both for what stands in the key itself, too), `dead_letter` (what
    couldn't be decoded). One without a scope, like `user.*`, is for attributes and resource attributes, too."""

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
        return bool(dot) and scope in SCOPES and glob.match(key) is not None


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
    many vendors. Costs about a quarter more of protection's time."""
    ip_prefixes: tuple[int, int] = DEFAULT_PREFIXES
    """Bits of the networks by which tokenised addresses are found, IPv4 and IPv6: `ip:10.1.2.0/24` finds them, and whoever sees two
    tokens' records learns whether they share such a network. 0: by none. What is stored keeps the prefixes of its time."""

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
        ip_prefixes: object = DEFAULT_PREFIXES,
    ) -> PrivacyPolicy:
        """Read the policy's rules from configuration.

        Args:
            rules: Tables with `action` and, each optional, `class`, `source` and `field`. Empty: the default rules without keys.
            version: The policy's version.
            actions: Names of the actions that this server has.
            thorough: See the field.
            ip_prefixes: See the field; a list of two numbers, as TOML has it.

        Raises:
            ConfigurationError: With every problem, each naming its rule.
        """
        flaws = {index: found for index, rule in enumerate(rules) if (found := _flaws(rule))}
        read = {
            index: PrivacyRule(**{_KEYS[key]: str(value) for key, value in rule.items()})
            for index, rule in enumerate(rules)
            if index not in flaws
        }
        problems = _version_problems(version) + _prefix_problems(ip_prefixes)
        for index in range(len(rules)):
            problems += [f"privacy.rules[{index}]: {flaw}" for flaw in flaws.get(index, ())]
            problems += _rule_problems(index, read, actions, is_new=True)
        if problems:
            raise ConfigurationError(tuple(problems))
        four, six = cast("tuple[int, int]", ip_prefixes)
        return cls(version, tuple(read.values()) or DEFAULT_RULES, thorough, (four, six))

    def problems(
        self, actions: Collection[str] | Mapping[str, Action] = tuple(ACTIONS), *, is_new: bool = False
    ) -> list[str]:
        """Everything that is wrong with the policy, each sentence naming its rule; empty if it can be used.

        Args:
            actions: What this server has: names, or the actions themselves, which then are asked for the classes they fit.
            is_new: Whether it was in force in no version yet: then no glob may hold personal data, since versions are kept as they are.
        """
        rules = dict(enumerate(self.rules))
        return [
            *_version_problems(self.version),
            *_prefix_problems(self.ip_prefixes),
            *(problem for index in rules for problem in _rule_problems(index, rules, actions, is_new=is_new)),
        ]

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

    def classes_of(self, action: str) -> set[str]:
        """Classes that some rule may treat so."""
        return {name for rule in self.rules if rule.action == action for name in CLASSES if rule.fits_class(name)}

    def deciding(self, data_class: str, source: str, field: str) -> int:
        """Index of the rule that decides for a class in a field of a record of a source; -1: none does."""
        return next(
            (
                index
                for index, rule in enumerate(self.rules)
                if rule.fits_class(data_class) and rule.fits_source(source) and rule.fits_field(field)
            ),
            -1,
        )

    def action(self, data_class: str, source: str, field: str) -> str:
        """Name of the action for a class in a field of a record of a source."""
        index = self.deciding(data_class, source, field)
        return self.rules[index].action if index >= 0 else FALLBACK_ACTION


def _flaws(rule: object) -> list[str]:
    if not isinstance(rule, Mapping):
        return ["isn't a table with class, source, field and action"]
    flaws = [f"unknown key {key!r}; use class, source, field and action" for key in rule if key not in _KEYS]
    flaws += [f"{key} must be text" for key in _KEYS if not isinstance(rule.get(key, ""), str)]
    if "action" not in rule:
        flaws.append(f"has no action; say one of {', '.join(ALL_ACTIONS)}")
    return flaws


def _rule_problems(
    index: int,
    rules: Mapping[int, PrivacyRule],
    actions: Collection[str] | Mapping[str, Action],
    *,
    is_new: bool,
) -> list[str]:
    """What is wrong with one rule, seen with those before it. Rules that couldn't be read aren't among them."""
    rule = rules.get(index)
    if rule is None:
        return []
    place = f"privacy.rules[{index}]"
    globs = (("class", rule.data_class), ("source", rule.source), ("field", rule.field))
    flaws = {name: flaw for name, glob in globs if (flaw := (is_new and _personal_flaw(glob)) or glob_flaw(glob))}
    found = [f"{place}.{name}: {flaw}" for name, flaw in flaws.items()]
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
    if not classes and "class" not in flaws:
        found.append(f"{place}.class: {rule.data_class!r} fits no class; use one of {', '.join(CLASSES)}, or *")
    if not found and (shadows := _shadows(rule, classes, {i: r for i, r in rules.items() if i < index}, actions)):
        found.append(f"{place}: is never reached, since {shadows} before it; move it up or remove it")
    return found


def _personal_flaw(glob: str) -> str:
    """Whether a glob names somebody, told without the value; empty: it doesn't."""
    if all(masked_text(text) == text for text in readings(glob)):
        return ""
    return "holds personal data, and a policy is kept as it is written; leave it out, or write * in its place"


def _shadows(
    rule: PrivacyRule, classes: Collection[str], earlier: Mapping[int, PrivacyRule], actions: Collection[str]
) -> str:
    """Which earlier rules leave nothing for a rule; empty: it can be reached."""
    left, by = set(classes), []
    for index, other in earlier.items():
        wider = covers(other.source, rule.source) and covers_field(other.field, rule.field)
        if not wider or other.action not in actions:
            continue
        if taken := set(filter(other.fits_class, left)):
            left -= taken
            by.append(f"privacy.rules[{index}]")
    if left:
        return ""
    return f"{' and '.join(by)} {'fits' if len(by) == 1 else 'fit'} all of it"


def _unusable(action: str, actions: Collection[str]) -> str:
    if action in KEYED:
        return f"{action} needs a key that this server hasn't; use one of {', '.join(actions)}"
    return f"unknown action {action!r}; use one of {', '.join(actions)}"


def _version_problems(version: int) -> list[str]:
    return [] if 1 <= version <= VERSION_MAX else [f"privacy.version: must be 1 to {VERSION_MAX}, not {version}"]


def _prefix_problems(prefixes: object) -> list[str]:
    two = isinstance(prefixes, list | tuple) and len(prefixes) == len(_PREFIX_BITS)
    if two and all(
        isinstance(bits, int) and not isinstance(bits, bool) and 0 <= bits <= most
        for bits, most in zip(cast("Sequence[object]", prefixes), _PREFIX_BITS, strict=True)
    ):
        return []
    return ["privacy.ip_prefixes: must be two numbers, 0 to 32 for IPv4 and 0 to 128 for IPv6 (0: none), as [24, 48]"]
