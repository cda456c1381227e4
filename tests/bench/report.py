"""What was measured beside what it should be: a table for people, a chart, and `bench.json` for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.chart import draw


@dataclass(frozen=True)
class Measured:
    """One figure."""

    section: str
    name: str
    value: float
    unit: str
    must: float = 0.0
    """What it is held to; 0: nothing."""
    goal: float = 0.0
    more_is_better: bool = False

    @property
    def verdict(self) -> str:
        """Whether it is as good as it must be, or as it should be."""
        if not self.must:
            return ""
        if self.goal and self._reaches(self.goal):
            return "goal"
        return "ok" if self._reaches(self.must) else "weaker"

    def _reaches(self, bound: float) -> bool:
        return self.value >= bound if self.more_is_better else self.value <= bound


class Report:
    """Collects figures, and shows each section when it is complete."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._figures: list[Measured] = []
        self._details: dict[str, Any] = {}

    def add(self, section: str, figures: Sequence[Measured], details: Mapping[str, Any] | Sequence[Any]) -> None:
        """Take the figures of a section, and what else was measured for `bench.json`."""
        self._figures += figures
        self._details[section] = details
        table = Table("", "measured", "must", "goal", "", title=section, title_justify="left", min_width=78)
        for figure in figures:
            table.add_row(
                figure.name,
                f"{_number(figure.value)} {figure.unit}",
                _number(figure.must) if figure.must else "",
                _number(figure.goal) if figure.goal else "",
                figure.verdict,
            )
        self._console.print(table)

    def write(self, folder: Path) -> None:
        """Write `bench.json` and `bench.svg`."""
        folder.mkdir(parents=True, exist_ok=True)
        report = {
            "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
            "figures": [asdict(figure) | {"verdict": figure.verdict} for figure in self._figures],
            "details": self._details,
        }
        (folder / "bench.json").write_text(json.dumps(report, indent=2) + "\n")
        (folder / "bench.svg").write_text(draw(self._figures))
        self._console.print(f"written to {folder}/bench.json and {folder}/bench.svg")


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
