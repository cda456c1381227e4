"""What the privacy service's use cases take and give, as values that wire translation and logic share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heimdall_server.domain.errors import HeimdallError
from heimdall_server.domain.operations import ErasureScope, Operation
from heimdall_server.domain.personal import ENCRYPTED
from heimdall_server.ports.audit import AuditEntry
from heimdall_server.ports.keys import KeyFacts
from heimdall_server.ports.operations import PolicyRule, PolicyVersion


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, for the audit log."""

    actor: str
    """URI of the certificate."""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class WrittenText:
    """What a policy wrote in place of a value."""

    text: str = field(repr=False)
    """`[enc:email:…]`, or a value of the form of its class."""
    field: str = ""
    """Of an encrypted one: the field that it stood in, as a policy names it; empty: one that has no key."""
    data_class: str = ""
    """Of one that kept its form."""

    @property
    def named_class(self) -> str:
        """The class that it says it is of; empty: none."""
        found = ENCRYPTED.fullmatch(self.text)
        return found[1] if found else self.data_class


@dataclass(frozen=True, slots=True)
class Revealed:
    """The answer to one token: a value or an error."""

    token: str
    """As it was asked for."""
    value: str | None = field(default=None, repr=False)
    error: HeimdallError | None = None


@dataclass(frozen=True, slots=True)
class RevealAnswer:
    """Answers in the order of the tokens."""

    revealed: Sequence[Revealed]
    audit_sequence: int


@dataclass(frozen=True, slots=True)
class DataClass:
    """A class that rules may name."""

    name: str
    description: str
    credential: bool


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """A policy and what it changes with."""

    version: PolicyVersion
    fallback_action: str
    etag: str


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """The policy in force, and what rules may name."""

    policy: PolicyInForce
    classes: Sequence[DataClass]
    actions: Sequence[str]


@dataclass(frozen=True, slots=True)
class PolicySample:
    """What a policy is tried on."""

    rules: Sequence[PolicyRule]
    """Empty: those in force."""
    sample: bytes = field(repr=False)
    format: str
    """Empty: told from the content."""
    source_id: str
    row_count_max: int
    as_dump: bool = False
    """Its columns are classified by their cells."""
    find_names: bool = False
    """A dump whose running text the model of names reads, too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a class in a field."""

    data_class: str
    field: str
    action: str
    value_count: int
    rule_index: int
    """-1: no rule decides."""


@dataclass(frozen=True, slots=True)
class PolicyTrial:
    """What a policy would do to a sample."""

    record_count: int
    rejected_count: int
    findings: Sequence[Finding]
    rows: Sequence[str]
    """JSON objects, protected."""


@dataclass(frozen=True, slots=True)
class ErasureAnswer:
    """What was begun, or would be."""

    operation: Operation | None
    """None: a dry run."""
    scope: ErasureScope


@dataclass(frozen=True, slots=True)
class DeletionPlan:
    """What a deletion would delete."""

    query: str
    """The filter, personal values in it replaced by tokens. It may hold the secret that is to be deleted: not for logs and lists."""
    shown: str
    """The same without what it asks for."""
    digest: str
    """Keyed: the same for the same filter, whatever index keys live."""
    record_count: int
    parameters: Mapping[str, Any]
    """For the steps of the deletion, as JSON values."""
    value_count: int = 0
    """Personal values that the filter names."""


@dataclass(frozen=True, slots=True)
class DeletionAnswer:
    """What was begun, or would be."""

    operation: Operation | None
    record_count: int


@dataclass(frozen=True, slots=True)
class KeyState:
    """A key and how much it seals."""

    facts: KeyFacts
    value_count: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """A signed certificate of erasure."""

    document: bytes
    """JSON in the form of RFC 8785."""
    signature: bytes
    public_key: bytes


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, and where the next ones begin."""

    entries: Sequence[AuditEntry]
    next_after: int
    """0: there are no more."""


@dataclass(frozen=True, slots=True)
class ChainState:
    """An audit log that was walked."""

    entry_count: int
    last_digest: bytes
    took_s: float
