"""Which values of a column pass the gates of which rules, at the least cost.

Gates of frequent rules are asked of all values in one call of polars. Those of a group are asked as one, and
singly only where that one is passed. In the group of sparse rules, which is large, they are then asked value by
value, if there are as few as expected: polars keeps only so many compiled expressions, and each more would cost
all of them their place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from heimdall_server.protect.columns import Flags
from heimdall_server.protect.rules import FEW_SPARSE, SPARSE, Rule, passing, union


def passed_gates(rules: Iterable[Rule], values: pl.Series) -> dict[str, pl.Series]:
    """By gate which values pass it.

    Args:
        rules: Whose gates are asked.
        values: String; a null passes none.

    Returns:
        By gate, for each value, whether it may hold what the gate's rules look for. Rewriting with the rules brings no
        value through a gate that it failed.
    """
    by_group: dict[str, dict[str, Rule]] = defaultdict(dict)
    for rule in rules:
        by_group[rule.group].setdefault(rule.gate, rule)
    groups = {union(gates.values()): (name, gates) for name, gates in by_group.items() if name}
    passed = passing(values, [*by_group.get("", ()), *groups])
    for joined, (name, gates) in groups.items():
        within = passed[joined]
        inside = np.flatnonzero(within.to_numpy())
        few = name == SPARSE and len(inside) <= FEW_SPARSE
        asked = _asked_singly if few else _asked_together
        for gate, flags in asked(values.filter(within), gates).items():
            spread = np.zeros(len(values), np.bool_)
            spread[inside[flags]] = True
            passed[gate] = pl.Series(spread)
    return passed


def _asked_together(values: pl.Series, gates: Mapping[str, Rule]) -> dict[str, Flags]:
    return {gate: flags.to_numpy() for gate, flags in passing(values, list(gates)).items()}


def _asked_singly(values: pl.Series, gates: Mapping[str, Rule]) -> dict[str, Flags]:
    texts: Sequence[str] = values.to_list()
    lowered = [text.lower() for text in texts]
    flags: dict[str, Flags] = {}
    for gate, rule in gates.items():
        words = rule.words
        if words:
            found = (any(word in text for word in words) for text in lowered)
        else:
            found = (rule.compiled_gate.search(text) is not None for text in texts)
        flags[gate] = np.fromiter(found, np.bool_, len(texts))
    return flags
