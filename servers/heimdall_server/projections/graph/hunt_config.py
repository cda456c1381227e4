"""How much hunts may do."""

from __future__ import annotations

from dataclasses import dataclass

from heimdall_server.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class HuntConfig:
    """Hunts for what dumps hold, in what was logged before, and the events that watches of the graph are told."""

    enabled: bool = True
    """False: what comes in isn't hunted for. Hunts that were queued wait, and none is started by hand."""
    share: float = 0.2
    """Of the time a hunt works, at most; it rests in between. Queries that wait, and a graph that is behind, stop it."""
    step_rows: int = 500
    """Sightings of a dump that are looked at in one step; the projection into the graph waits meanwhile, a tenth of a second."""
    confidence_min: int = 20
    """Entities that are less sure, 0 to 100, aren't hunted for: warninglists lower what is everywhere."""
    entity_count_max: int = 1_000_000
    """Entities of a dump that are hunted for."""
    match_count_max: int = 100_000
    """Matches of a dump that are kept."""
    history_days: int = 30
    """How far back records are searched for what the graph doesn't know; 0: they aren't, unless somebody asks by hand."""
    history_entities: int = 20_000
    """Entities that one search of records looks for together: the more, the fewer searches."""
    history_records_per_s: int = 1_000_000
    """Records that are searched in a second, at most."""
    lag_s_max: float = 10.0
    """A graph that is further behind the journal has the database for itself."""
    event_count_max: int = 500_000
    """Events that are kept, so that a watch can be resumed."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            ConfigurationError: With all problems.
        """
        checks = {
            "graph.hunt.share: more than 0, at most 1": 0 < self.share <= 1,
            "graph.hunt.step_rows: from 1 to 100,000": 1 <= self.step_rows <= 100_000,
            "graph.hunt.confidence_min: from 0 to 100": 0 <= self.confidence_min <= 100,
            "graph.hunt.entity_count_max: at least 1": self.entity_count_max >= 1,
            "graph.hunt.match_count_max: at least 1": self.match_count_max >= 1,
            "graph.hunt.history_days: not negative": self.history_days >= 0,
            "graph.hunt.history_entities: from 1 to 100,000": 1 <= self.history_entities <= 100_000,
            "graph.hunt.history_records_per_s: at least 1,000": self.history_records_per_s >= 1_000,
            "graph.hunt.lag_s_max: more than 0": self.lag_s_max > 0,
            "graph.hunt.event_count_max: at least 1,000": self.event_count_max >= 1_000,
        }
        problems = tuple(rule for rule, holds in checks.items() if not holds)
        if problems:
            raise ConfigurationError(problems)
