"""What a policy would do to a batch, counted by class and field; nothing is sealed, tokenised or written.

Each action is replaced by one that only notes where its values stand. Values of classes that are kept are found in a second run,
in which they are treated, too: so what is told of the others is what will happen, whatever is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from heimdall_server.protect.actions import ACTIONS, Effects, Forms, Origin, mask
from heimdall_server.protect.names_pass import NamesPass
from heimdall_server.protect.policy import PrivacyPolicy
from heimdall_server.protect.protector import PolicyProtector
from heimdall_server.protect.texts import masked_text


@dataclass(frozen=True, slots=True)
class TrialFinding:
    """Values of a class in a field."""

    data_class: str
    field: str
    """Personal data in the name of an attribute is masked."""
    action: str
    count: int
    """Values, not texts."""
    rule_index: int
    """-1: no rule decides, and the fallback acts; or it stands in a name, which is masked where the rule would drop the field."""


@dataclass(eq=False, slots=True)
class _Noting:
    """An action that writes masks and counts its values by field."""

    rewrites: bool = True
    drops: bool = False
    masks: bool = False
    alike: bool = False
    classes: frozenset[str] | None = None
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def forms(self, data_class: str, values: Sequence[str], origins: Sequence[Origin], effects: Effects) -> Forms:
        """The masks."""
        del effects
        for origin in origins:
            self.counts[data_class, origin.field] += origin.records
        return Forms([mask(data_class)] * len(values))


def trial(
    policy: PrivacyPolicy,
    actions: Collection[str],
    batch: pa.RecordBatch,
    source: str,
    *,
    names: NamesPass | None = None,
) -> list[TrialFinding]:
    """What a policy would do.

    Args:
        policy: Without problems.
        actions: Names of the actions that there are.
        batch: Decoded records of one source.
        source: Theirs.
        names: The second pass over dumps; None: none.

    Returns:
        By class and field, the most frequent first.
    """
    acting = {name: ACTIONS[name] if name == "keep" else _Noting() for name in actions}
    PolicyProtector(policy, acting, names=names).protect(batch)
    counts = {name: one.counts for name, one in acting.items() if isinstance(one, _Noting)}
    if "keep" in actions:
        keeping = {name: _Noting() for name in actions}
        PolicyProtector(policy, keeping, names=names).protect(batch)
        counts["keep"] = keeping["keep"].counts
    found: Counter[tuple[str, str, str, int]] = Counter()
    for action, by_place in counts.items():
        for (data_class, name), count in by_place.items():
            found[data_class, _shown(name), action, _rule(policy, data_class, source, name, action)] += count
    return [
        TrialFinding(data_class, name, action, count, rule)
        for (data_class, name, action, rule), count in sorted(found.items(), key=lambda one: (-one[1], one[0]))
    ]


def _shown(name: str) -> str:
    scope, dot, key = name.partition(".")
    return f"{scope}{dot}{masked_text(key, addresses=True)}"


def _rule(policy: PrivacyPolicy, data_class: str, source: str, name: str, action: str) -> int:
    index = policy.deciding(data_class, source, name)
    decided = policy.action(data_class, source, name)
    return index if decided == action else -1
