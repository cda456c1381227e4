"""Single texts of our own making, such as the reason that somebody gives for what he does: personal data in them is masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pyarrow as pa

from heimdall_server.protect.actions import mask
from heimdall_server.protect.catalogue import ADDRESS_CLASSES, RULES
from heimdall_server.protect.disguises import disguised
from heimdall_server.protect.readable import Readable
from heimdall_server.protect.rules import Rule

if TYPE_CHECKING:
    from heimdall_server.protect.policy import PrivacyPolicy  # which masks by this module


def masking(policy: Callable[[], PrivacyPolicy]) -> Callable[[str], str]:
    """Make a `masked_text` that leaves addresses of machines only where the policy in force keeps them in a body.

    Args:
        policy: The one in force; asked for each text.
    """

    def mask_text(text: str) -> str:
        return masked_text(text, addresses=not keeps_addresses(policy()))

    return mask_text


def keeps_addresses(policy: PrivacyPolicy) -> bool:
    """Whether addresses of machines stay in texts that aren't records: where a policy keeps them in a body."""
    return all(policy.action(data_class, "", "body") == "keep" for data_class in ADDRESS_CLASSES)


def masked_text(text: str, *, addresses: bool = False) -> str:
    """A text with classes in place of personal data, whatever the policy says.

    Cost: some tens of microseconds a text and the square of its length in the worst case, so for short ones.

    Args:
        text: As somebody wrote it.
        addresses: Whether addresses of machines go, too.
    """
    rules = [rule for rule in RULES if addresses or rule.data_class not in ADDRESS_CLASSES]
    # First: what nobody sees in the middle of a value would end it for the rules, which would leave its front.
    text = _masked_as_read(text, rules, escapes=False)
    for rule in rules:
        text = rule.substitute_text(text, mask(rule.data_class))
    return _masked_as_read(text, rules, escapes=True)


def _masked_as_read(text: str, rules: Sequence[Rule], *, escapes: bool) -> str:
    if not len(disguised(pa.array([text], pa.string()))):
        return text
    raw = text.encode()
    for rule in rules:
        read = Readable(pl.Series([raw.decode()], dtype=pl.String), escapes=escapes)
        spans, _ = read.found(rule, np.zeros(1, np.int64))
        for start, end in reversed(list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))):
            raw = raw[:start] + mask(rule.data_class).encode() + raw[end:]
    return raw.decode()
