"""Fixtures that every folder of tests may use."""

from __future__ import annotations

pytest_plugins = ("tests.support.chdb_engine", "tests.support.pki", "tests.support.testbed")
