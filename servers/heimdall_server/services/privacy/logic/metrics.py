"""Metrics of the privacy service: counts of acts, never of what they were about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from heimdall_server.domain.operations import Operation, OperationKind, OperationState

ACTS: Final = Counter(
    "heimdall_privacy_acts_total", "Acts that were allowed and written down, by permission", ["action"]
)
REVEALED: Final = Counter(
    "heimdall_privacy_revealed_values_total", "Values that callers asked to see, by what they got", ["outcome"]
)
LIMITED: Final = Counter("heimdall_privacy_limited_total", "Requests refused because their caller's rate was used up")
OPERATIONS: Final = Gauge("heimdall_privacy_operations", "Operations that haven't ended, by kind", ["kind"])
ENDED: Final = Counter(
    "heimdall_privacy_operations_ended_total", "Operations that ended, by kind and state", ["kind", "state"]
)
ERASED: Final = Counter("heimdall_privacy_erased_values_total", "Values that erasures took away")
VAULT_VALUES: Final = Counter("heimdall_vault_values_total", "Sealed values that the vault took in and didn't have")
VAULT_SECONDS: Final = Histogram(
    "heimdall_vault_apply_seconds",
    "Time of one batch of sealed values in the vault",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)

_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def count_revealed(outcomes: Mapping[str, int]) -> None:
    """Count values that were asked for.

    Args:
        outcomes: How many were revealed, and how many weren't, by the name of the error's class: `not_found`, `key_destroyed`.
    """
    for outcome, count in outcomes.items():
        REVEALED.labels(_WORD.sub("_", outcome.removesuffix("Error")).lower()).inc(count)


def count_ended(operation: Operation) -> None:
    """Count an operation that has just ended."""
    ENDED.labels(operation.kind.value, operation.state.value).inc()
    if operation.kind is OperationKind.ERASE and operation.state is OperationState.DONE:
        # Not `affected_count`, in which those of others are that were sealed anew.
        ERASED.inc(operation.facts.get("values_deleted", 0))


def count_applied(value_count: int, seconds: float) -> None:
    """Count a batch that the vault took in."""
    VAULT_VALUES.inc(value_count)
    VAULT_SECONDS.observe(seconds)
