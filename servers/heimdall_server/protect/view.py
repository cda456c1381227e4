"""The policy as it is for one source: which rules run with which action in which field."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from heimdall_server.protect.actions import Action
from heimdall_server.protect.catalogue import ADDRESS_CLASSES, CLASSES, RULES
from heimdall_server.protect.policy import FALLBACK_ACTION, PrivacyPolicy
from heimdall_server.protect.rules import Rule

Steps = tuple[tuple[Rule, Action], ...]

_FIELDS_MAX: Final = 10_000
_ADDRESS_FIELD: Final = "host"


class PolicyView:
    """A policy for one set of rules that fit a source. Thread-safe."""

    def __init__(self, policy: PrivacyPolicy, source: str, actions: Mapping[str, Action]) -> None:
        """Resolve what doesn't depend on the field.

        Args:
            policy: The policy.
            source: Any source that the same rules fit.
            actions: The actions that the policy names.
        """
        self._rules = tuple(rule for rule in policy.rules if rule.fits_source(source))
        self._actions = actions
        self._lock = threading.Lock()
        self._steps: dict[str, Steps] = {}
        self._interned: dict[tuple[str, ...], Steps] = {}
        self._ignores_fields = all(rule.field == "*" for rule in self._rules)
        self.acts: Final = frozenset(filter(self._may_act, CLASSES))
        """Classes that are treated in some field."""
        gates = dict.fromkeys(rule.gate for rule in RULES if rule.data_class in self.acts)
        self.gate: Final = "|".join(gates)
        """Matches, unanchored, in every text in which a rule may match; empty if none runs."""

    def steps(self, field: str) -> Steps:
        """Rules and actions for a field, in the order of the catalogue; equal ones are the same object."""
        if self._ignores_fields and field != _ADDRESS_FIELD:
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
                tuple(
                    (rule, action) for rule in RULES if (action := self._actions[by_class[rule.data_class]]).rewrites
                ),
            )
            if len(self._steps) >= _FIELDS_MAX:
                self._steps.clear()
            self._steps[field] = steps
        return steps

    def action(self, data_class: str, field: str) -> Action:
        """The action for a class in a field."""
        return self._actions[self._name(data_class, field)]

    def _name(self, data_class: str, field: str) -> str:
        if field == _ADDRESS_FIELD and data_class in ADDRESS_CLASSES:
            return "keep"
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
