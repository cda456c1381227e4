"""What the graph makes of records, and how much it may take of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.projections.graph.hunt_config import HuntConfig

FINDABLE_TYPES: Final[tuple[str, ...]] = (
    *("ipv4", "ipv6", "domain", "url", "sha256", "sha512", "cve", "token"),
    *("md5", "sha1", "sha224", "sha384", "mac", "asn"),
)
"""What texts can be searched for: those of the first line are, but `url`, where nothing else is said."""
NAMEABLE_TYPES: Final[tuple[str, ...]] = (
    *("asn", "cve", "domain", "imphash", "ip", "ipv4", "ipv6", "md5", "registry_key", "sha1", "sha224", "sha256"),
    *("sha384", "sha512", "ssdeep", "tlsh", "url", "user_agent"),
)
"""What the name of a field can say that it holds. `ip` is `ipv4` and `ipv6`, and may be said for both."""


@dataclass(frozen=True, slots=True)
class WarninglistsConfig:
    """Which warninglists are in force, and what they do."""

    enabled: bool = True
    """False: none is."""
    off: tuple[str, ...] = ()
    """Names of lists that aren't."""
    confidence: Mapping[str, int] = field(default_factory=dict)
    """How much is believed of what is on a list, 0 to 100, in place of what its file says. Below 20 walks end there."""

    def __post_init__(self) -> None:
        wrong = [name for name, value in self.confidence.items() if not 0 <= value <= 100]
        if wrong:
            raise ConfigurationError(tuple(f"graph.warninglists.confidence.{name}: from 0 to 100" for name in wrong))


@dataclass(frozen=True, slots=True)
class GraphConfig:
    """The projection into the graph."""

    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What is looked for in records of a source, by the source's name (a glob); the first that fits decides, and `[]` means nothing at all.
    Sources that none fits are searched for what the documentation says. What dumps' fields say is kept in any case."""
    observables_per_record_max: int = 256
    """A record that holds more values is cut: whole fields come first, then what stands first. What is left out is counted."""
    observables_per_batch_max: int = 131_072
    """More values than these are taken in several steps, so that memory has a bound."""
    share: float = 1.0
    """Of the time that the projection may be at work, 0.01 to 1; the rest it rests. 1: it doesn't."""
    active_share: float = 0.25
    """The same while records come in, 0.01 to 1. Where there are cores to spare, 1 is right."""
    busy_share: float = 0.02
    """The same while records come in faster than they become durable, or the process takes more than half of the machine meanwhile, 0.005 to 1:
    then it lags, so that no acknowledgement is later for it."""
    nice: int = 0
    """Niceness of its thread (Linux), 0 to 19. More leaves the processor to others sooner, and lets them wait longer for the interpreter's
    lock while this thread has it and isn't run: at 10, beside a busy machine, the longest waits of the event loop were half as long again."""
    warninglists: WarninglistsConfig = field(default_factory=WarninglistsConfig)
    hunt: HuntConfig = field(default_factory=HuntConfig)

    def __post_init__(self) -> None:
        known = sorted({*FINDABLE_TYPES, *NAMEABLE_TYPES})
        checks = {
            "graph.observables_per_record_max: from 1 to 16,384": 1 <= self.observables_per_record_max <= 16_384,
            "graph.observables_per_batch_max: from 1,024 to 1,048,576": 1_024
            <= self.observables_per_batch_max
            <= 1_048_576,
            "graph.share: from 0.01 to 1": 0.01 <= self.share <= 1,
            "graph.active_share: from 0.01 to 1": 0.01 <= self.active_share <= 1,
            "graph.busy_share: from 0.005 to 1": 0.005 <= self.busy_share <= 1,
            "graph.nice: from 0 to 19": 0 <= self.nice <= 19,
        } | {
            f"graph.sources.{glob}: {name!r} can't be looked for; there are {', '.join(known)}": name in known
            for glob, types in self.sources.items()
            for name in types
        }
        problems = tuple(rule for rule, holds in checks.items() if not holds)
        if problems:
            raise ConfigurationError(problems)
