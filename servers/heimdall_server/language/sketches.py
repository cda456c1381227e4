"""Bounded summaries of many values: how many are distinct, and where their quantiles lie.

Both merge (a batch's summary into a group's) and say when they stop being exact.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

DISTINCT_EXACT_MAX: Final = 4096
"""Distinct values that are counted exactly; beyond, the standard error is 1/√4096 = 1.6 %."""
QUANTILE_EXACT_MAX: Final = 2048
"""Values whose quantiles are exact; beyond, the rank is off by at most about 1 %, less at the ends."""
_CENTROIDS: Final = 400
_HASHES: Final = 2.0**64


class DistinctSketch:
    """Counts distinct values: the smallest hashes seen (KMV; Bar-Yossef and others, 2002).

    While fewer than `DISTINCT_EXACT_MAX` are held, all are, and the count is exact (two values share a
    64-bit hash once in 10^12 such sets). Then the largest of the smallest says how dense the hashes lie.
    """

    __slots__ = ("_hashes",)

    def __init__(self) -> None:
        self._hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Take hashes in, repeats and all."""
        self._hashes = np.union1d(self._hashes, hashes)[:DISTINCT_EXACT_MAX]

    @property
    def is_exact(self) -> bool:
        """Every distinct value is held."""
        return len(self._hashes) < DISTINCT_EXACT_MAX

    def count(self) -> int:
        """Distinct values, an estimate once `is_exact` is False."""
        if self.is_exact:
            return len(self._hashes)
        return round((DISTINCT_EXACT_MAX - 1) * _HASHES / float(self._hashes[-1]))


class QuantileSketch:
    """Quantiles by linear interpolation between values; a t-digest once they are too many (Dunning, 2019)."""

    __slots__ = ("_means", "_weights", "count", "maximum", "minimum")

    def __init__(self) -> None:
        self._means: npt.NDArray[np.float64] = np.empty(0)
        self._weights: npt.NDArray[np.float64] = np.empty(0)
        self.count = 0
        self.minimum = np.inf
        self.maximum = -np.inf

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take values in; NaN isn't one."""
        if not len(values):
            return
        self.count += len(values)
        self.minimum = min(self.minimum, float(values.min()))
        self.maximum = max(self.maximum, float(values.max()))
        means = np.concatenate((self._means, values))
        weights = np.concatenate((self._weights, np.ones(len(values))))
        order = np.argsort(means, kind="stable")
        self._means, self._weights = means[order], weights[order]
        if len(self._means) > QUANTILE_EXACT_MAX:
            self._compress()

    def _compress(self) -> None:
        """Join neighbours so that each centroid spans one step of the arcsine scale: fine at both ends."""
        middles = (np.cumsum(self._weights) - self._weights / 2) / self._weights.sum()
        steps = np.floor(_CENTROIDS * (np.arcsin(2 * middles - 1) / np.pi + 0.5)).astype(np.int64)
        starts = np.flatnonzero(np.concatenate(([True], steps[1:] != steps[:-1])))
        weights = np.add.reduceat(self._weights, starts)
        self._means = np.add.reduceat(self._means * self._weights, starts) / weights
        self._weights = weights

    @property
    def is_exact(self) -> bool:
        """Every value is held."""
        return len(self._means) == self.count

    def quantile(self, level: float) -> float:
        """The value at a level between 0 and 1; NaN without any value."""
        if not self.count:
            return float("nan")
        if self.is_exact:
            return float(np.quantile(self._means, level))
        middles = np.cumsum(self._weights) - self._weights / 2
        places = np.concatenate(([0.0], middles, [float(self.count)]))
        means = np.concatenate(([self.minimum], self._means, [self.maximum]))
        return float(np.interp(level * self.count, places, means))


def hashes_of(values: pl.Series) -> npt.NDArray[np.uint64]:
    """64-bit hashes of values; the same for equal ones within this process."""
    hashes: npt.NDArray[np.uint64] = values.hash().to_numpy()
    return hashes
