"""What an operator is told about the database: statements that took long, and indexes that are missing, useless or broken.

Nothing of it holds a value: statements are shapes, plans have no constants.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlowStatement:
    """A statement that took longer than the threshold."""

    time_ns: int
    """When it ended."""
    user: str
    """Which part of the server ran it: `vault`, `graph_writer`, `graph_reader`, `cypher`."""
    fingerprint: str
    """The same for statements that differ in values only; 16 hexadecimal digits."""
    statement: str
    """Its shape: values, and in Cypher names that people chose, are left out."""
    duration_s: float
    """From sending it to its last row, as the server's process saw it."""
    row_count: int
    """Rows it gave or changed; -1: it failed, or is of a kind that has none."""
    outcome: str
    """`ok`, or why it failed: `statement_timeout`, `lock_timeout`, …"""
    plan: str = ""
    """PostgreSQL's plan without values, as JSON; empty: see `plan_problem`."""
    plan_problem: str = ""


class IndexProblem(enum.StrEnum):
    """What is wrong with an index, or with its absence."""

    UNUSED = "unused"
    """Nobody has read it since statistics run."""
    MISSING = "missing"
    """A large table is read as a whole, again and again."""
    DUPLICATE = "duplicate"
    """Another one is the same."""
    REDUNDANT = "redundant"
    """Another one begins with its columns."""
    INVALID = "invalid"
    """It was being made when that failed: it is kept up to date, and never read."""
    BLOATED = "bloated"
    """It takes far more room than its entries need, as far as can be estimated."""


@dataclass(frozen=True, slots=True)
class IndexFinding:
    """One thing that is wrong."""

    problem: IndexProblem
    table: str
    """With its schema."""
    index: str
    """Empty where it is missing."""
    detail: str
    """What was seen, in words and numbers."""
    statement: str
    """What mends it; for a person to run, nobody here does. Empty: it isn't known which index would help, or whether one is useless."""
    size_bytes: int
    """Of the index, or of the table that lacks one."""
    scan_count: int
    """Scans of the index; of the whole table where it is missing."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The indexes of the schemas that are ours."""

    since_ns: int
    """Since when PostgreSQL counts; 0: not known."""
    index_count: int
    """How many were looked at."""
    findings: Sequence[IndexFinding]
