"""Fixtures that every folder of tests may use."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = (
    "tests.support.chdb_engine",
    "tests.support.interrupts",
    "tests.support.leftover_threads",
    "tests.support.pki",
    "tests.support.postgres",
    "tests.support.testbed",
    "tests.support.toxiproxy",
)

# A machine that does other things, too, or a first import, isn't a failure.
settings.register_profile("heimdall", settings.default, deadline=None)
settings.load_profile("heimdall")
