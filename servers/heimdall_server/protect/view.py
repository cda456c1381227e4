"""The policy as it is for one source: which rules run with which action in which field."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

from heimdall_server.protect import ours
from heimdall_server.protect.actions import MASK, Action
from heimdall_server.protect.catalogue import CLASSES, RULES
from heimdall_server.protect.gates import Gate
from heimdall_server.protect.policy import FALLBACK_ACTION, PrivacyPolicy
from heimdall_server.protect.rules import SPARSE, Rule

Steps = tuple[tuple[Rule, Action], ...]

_FIELDS_MAX: Final = 10_000


class KnownTexts:
    """A bounded set of texts. Thread-safe."""

    def __init__(self) -> None:
        self._texts: set[str] = set()

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def add(self, texts: Iterable[str]) -> None:
        """Add texts; when it is full it starts anew."""
        if len(self._texts) >= _FIELDS_MAX:
            self._texts = set()
        self._texts.update(texts)


class PolicyView:
    """A policy for one set of rules that fit a source. Thread-safe."""

    def __init__(
        self, policy: PrivacyPolicy, source: str, actions: Mapping[str, Action], *, again: bool = False
    ) -> None:
        """Resolve what doesn't depend on the field.

        Args:
            policy: The policy.
            source: Any source that the same rules fit.
            actions: The actions that the policy names.
            again: Whether it is for texts that were protected before; see `ours`.
        """
        self.again: Final = again
        self._first: Final[Steps] = ((ours.RULE, ours.RESTORE),) if again else ()
        self._rules = tuple(rule for rule in policy.rules if rule.fits_source(source))
        self._all: Final = RULES if policy.thorough else tuple(rule for rule in RULES if rule.group != SPARSE)
        self._actions = actions
        self._lock = threading.Lock()
        self._steps: dict[str, Steps] = {}
        self._interned: dict[tuple[str, ...], Steps] = {}
        self._ignores_fields = all(rule.field == "*" for rule in self._rules)
        self.clean_keys: Final = KnownTexts()
        """Attribute keys in which no rule finds anything."""
        self.clean_layouts: Final = KnownTexts()
        """Joined keys of a record, likewise."""
        self.acts: Final = frozenset(filter(self._may_act, CLASSES))
        """Classes that are treated in some field."""
        self.gate: Final = Gate(rule for rule in self._all if rule.data_class in self.acts)
        """Passed by every text in which a rule may match, or which looks like a token."""

    def steps(self, field: str) -> Steps:
        """Rules and actions for a field, in the order of the catalogue; equal ones are the same object."""
        if self._ignores_fields:
            field = "*"
        with self._lock:
            known = self._steps.get(field)
        if known is not None:
            return known
        names = tuple(self._name(data_class, field) for data_class in CLASSES)
        by_class = dict(zip(CLASSES, names, strict=True))
        with self._lock:
            steps = self._interned.setdefault(
                names,
                (
                    *self._first,
                    *(
                        (rule, action)
                        for rule in self._all
                        if (action := self._actions[by_class[rule.data_class]]).rewrites
                    ),
                ),
            )
            if len(self._steps) >= _FIELDS_MAX:
                self._steps.clear()
            self._steps[field] = steps
        return steps

    def key_steps(self, field: str) -> Steps:
        """The same for the key of an attribute: what would drop the field only masks the key."""
        return tuple((rule, MASK if action.drops else action) for rule, action in self.steps(field))

    def actions(self, field: str) -> list[Action]:
        """The actions that there are in a field, whatever the class."""
        return [self.action(data_class, field) for data_class in CLASSES]

    def action(self, data_class: str, field: str) -> Action:
        """The action for a class in a field."""
        return self._actions[self._name(data_class, field)]

    def _name(self, data_class: str, field: str) -> str:
        fitting = (rule.action for rule in self._rules if rule.fits_class(data_class) and rule.fits_field(field))
        return next(fitting, FALLBACK_ACTION)

    def _may_act(self, data_class: str) -> bool:
        for rule in self._rules:
            if not rule.fits_class(data_class):
                continue
            if self._actions[rule.action].rewrites:
                return True
            if rule.field == "*":
                return False
        return True
