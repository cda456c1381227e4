"""Precision and recall of the detection rules, by class, as a table: `python -m tests.bench.detection`."""

from __future__ import annotations

import sys

from tests.unit.protect.labelled_corpus import scores, table

if __name__ == "__main__":
    sys.stdout.write(table(scores()) + "\n")
