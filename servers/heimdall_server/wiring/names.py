"""The model of names: whether dumps are read by it, what the operator hears where it is missing, and its metrics."""

from __future__ import annotations

import functools
from typing import Final

from prometheus_client import Counter

from heimdall_server.protect.names_config import NamesConfig
from heimdall_server.protect.names_model import MISSING, NamesModel
from heimdall_server.protect.names_pass import NamesPass

DUMP_GROUP_ROWS: Final = 256
"""Records of a dump that are read by the model before they become durable, together with the piece that goes beyond."""
DUMP_PIECE_BYTES: Final = 16 * 1024

_VALUES: Final = Counter("heimdall_protect_names_found_total", "Names that the model found in running text")
_SECONDS: Final = Counter("heimdall_protect_names_seconds_total", "Time that the model has read")


def names_pass(config: NamesConfig) -> NamesPass | None:
    """The second pass over dumps; None: it is off, or the model isn't installed (`names_problem` says so)."""
    if config.look_in == "off" or not NamesModel.available():
        return None
    return NamesPass(names_model(), texts_per_s=config.texts_per_s)


@functools.cache
def names_model() -> NamesModel:
    """The model of this process, which counts for the metrics what it finds; loaded when it is first asked."""
    return NamesModel(observe=_observe)


def names_problem(config: NamesConfig) -> str:
    """What is wrong with the second pass, for start and status; empty: nothing."""
    return "" if config.look_in == "off" or NamesModel.available() else MISSING


def _observe(found: int, seconds: float) -> None:
    _VALUES.inc(found)
    _SECONDS.inc(seconds)
