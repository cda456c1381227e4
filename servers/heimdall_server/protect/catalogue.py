"""Every class of personal data and every rule, in the order in which they apply."""

from __future__ import annotations

from typing import Final

from heimdall_server.protect.credentials import SECRET_RULES
from heimdall_server.protect.identities import IDENTITY_RULES, IPV6_RULE
from heimdall_server.protect.rules import Rule

RULES: Final[tuple[Rule, ...]] = (IPV6_RULE, *SECRET_RULES, *IDENTITY_RULES)

CLASSES: Final[tuple[str, ...]] = tuple(dict.fromkeys(rule.data_class for rule in RULES))
"""What a policy may name."""

ADDRESS_CLASSES: Final = frozenset({"ipv4", "ipv6"})
"""Names of machines rather than people; never taken out of the column that says which machine it was."""
