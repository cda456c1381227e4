"""Whether a model looks for names in the running text of dumps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from heimdall_server.domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class NamesConfig:
    """The model of names. `[privacy_names]` in the configuration."""

    look_in: Literal["off", "dumps"] = "off"
    """`dumps`: names, addresses and organisations in running text of dumps are treated by the policy, too. Needs the extra `names`."""
    texts_per_s: float = 200.0
    """Distinct texts that the model reads a second, at most; a dump comes in no faster. 0: as fast as it goes. The model reads some
    hundred a second on one core."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: A rate below 0.
        """
        if self.texts_per_s < 0:
            raise ConfigurationError(("privacy_names.texts_per_s: must be 0 (no limit) or more",))
