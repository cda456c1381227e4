"""Flat or not: the rule, and the curves as CSV and SVG.

The first 40 % of the samples are warm-up. Through the rest of a curve a straight line is laid (Theil-Sen, so that a single
merge's peak doesn't turn it), and what the line gains from there to the end must be no more than a share of the median,
than an absolute amount, or than half of what the curve swings by itself (its 10th to its 90th percentile), whichever is
most: merges make memory go up and down by hundreds of MiB.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np

WARM_UP_SHARE: Final = 0.4
MEMORY_SHARE_MAX: Final = 0.10
MEMORY_MIB_MIN: Final = 96.0
DESCRIPTORS_SHARE_MAX: Final = 0.05
DESCRIPTORS_MIN: Final = 20.0
SWING_SHARE: Final = 0.5
_WIDTH: Final = 900
_HEIGHT: Final = 220
_MARGIN: Final = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server."""

    time_s: float
    resident_mib: float
    descriptors: int
    threads: int
    cpu_s: float
    records: int


@dataclass(frozen=True, slots=True)
class Curve:
    """What became of one measure after the warm-up."""

    name: str
    median: float
    highest: float
    gain: float
    """By the line, from the warm-up's end to the end."""
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it gained no more than it may."""
        return self.gain <= self.allowed


def judge(name: str, times: Sequence[float], values: Sequence[float], *, share: float, least: float) -> Curve:
    """Lay the line and compare."""
    start = int(len(values) * WARM_UP_SHARE)
    x, y = np.asarray(times[start:], float), np.asarray(values[start:], float)
    first, second = np.triu_indices(len(x), 1)
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))
    median = float(np.median(y))
    low, high = (float(value) for value in np.percentile(y, (10, 90)))
    allowed = max(least, share * median, SWING_SHARE * (high - low))
    return Curve(name, median, float(y.max()), slope * float(x[-1] - x[0]), allowed)


def judge_all(samples: Sequence[Sample]) -> list[Curve]:
    """Memory and descriptors."""
    times = [sample.time_s for sample in samples]
    memory = [sample.resident_mib for sample in samples]
    descriptors = [float(sample.descriptors) for sample in samples]
    return [
        judge("resident memory, MiB", times, memory, share=MEMORY_SHARE_MAX, least=MEMORY_MIB_MIN),
        judge("descriptors", times, descriptors, share=DESCRIPTORS_SHARE_MAX, least=DESCRIPTORS_MIN),
    ]


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    """The samples, one a line."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Sample))
        writer.writerows(astuple(sample) for sample in samples)


def write_svg(path: Path, samples: Sequence[Sample]) -> None:
    """Memory and descriptors over time."""
    times = [sample.time_s for sample in samples]
    charts = (
        ("resident memory, MiB", [sample.resident_mib for sample in samples]),
        ("descriptors", [float(sample.descriptors) for sample in samples]),
    )
    parts = [
        _chart(title, times, values, top=number * (_HEIGHT + _MARGIN)) for number, (title, values) in enumerate(charts)
    ]
    height = len(charts) * (_HEIGHT + _MARGIN)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 2 * _MARGIN}" height="{height}" font-family="sans-serif">'
    path.write_text("\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"]))


def _chart(title: str, times: Sequence[float], values: Sequence[float], *, top: int) -> str:
    highest, last = max(values) * 1.1 or 1.0, times[-1] or 1.0
    points = " ".join(
        f"{_MARGIN + time_s / last * _WIDTH:.1f},{top + _MARGIN + (1 - value / highest) * (_HEIGHT - _MARGIN):.1f}"
        for time_s, value in zip(times, values, strict=True)
    )
    warm = _MARGIN + WARM_UP_SHARE * _WIDTH
    return "\n".join(
        (
            f'<text x="{_MARGIN}" y="{top + _MARGIN - 15}" font-size="14">{title}: 0 to {max(values):.0f}, {last:.0f} s</text>',
            f'<line x1="{warm}" x2="{warm}" y1="{top + _MARGIN}" y2="{top + _HEIGHT}" stroke="#bbb" stroke-dasharray="4"/>',
            f'<line x1="{_MARGIN}" x2="{_MARGIN + _WIDTH}" y1="{top + _HEIGHT}" y2="{top + _HEIGHT}" stroke="#888"/>',
            f'<polyline points="{points}" fill="none" stroke="#2563eb" stroke-width="1.5"/>',
        )
    )
