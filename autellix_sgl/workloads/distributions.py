"""The two distributions that published trace statistics can be turned into.

A mean and a range give a clipped log-normal, a table of quantiles gives itself.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from random import Random
from statistics import NormalDist

from autellix_sgl.errors import ConfigError

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class ClippedLognormal:
    """A log-normal clipped to [low, high]; ``mean`` is that of what is left, ``sigma`` the tail.

    Clipping moves the mean, so the underlying one is solved for once, by bisection.
    """

    mean: float
    sigma: float
    low: float
    high: float
    _mu: float = field(init=False, repr=False, default=0.0)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.mean < self.high or not self.sigma > 0:
            raise ConfigError(
                f"log-normal: need 0 < low < mean < high and sigma > 0, got {self.low}, "
                f"{self.mean}, {self.high}, {self.sigma}"
            )
        below, above = math.log(self.low) - 3 * self.sigma, math.log(self.high) + 3 * self.sigma
        for _ in range(80):
            middle = (below + above) / 2
            if self._clipped_mean(middle) < self.mean:
                below = middle
            else:
                above = middle
        object.__setattr__(self, "_mu", (below + above) / 2)

    def _clipped_mean(self, mu: float) -> float:
        sigma, cdf = self.sigma, _NORMAL.cdf
        low, high = (math.log(self.low) - mu) / sigma, (math.log(self.high) - mu) / sigma
        inside = math.exp(mu + sigma * sigma / 2) * (cdf(high - sigma) - cdf(low - sigma))
        return self.low * cdf(low) + inside + self.high * (1 - cdf(high))

    def sample(self, rng: Random) -> float:
        return min(max(rng.lognormvariate(self._mu, self.sigma), self.low), self.high)

    def count(self, rng: Random) -> int:
        """The sample as a whole number of at least 1."""
        return max(1, round(self.sample(rng)))


@dataclass(frozen=True, slots=True)
class QuantileTable:
    """(probability, value) points, log-linear in between: what heavy-tailed traces publish.

    The first point has probability 0 and the last 1, so both ends are stated, never extrapolated.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        probabilities = [p for p, _ in self.points]
        values = [v for _, v in self.points]
        if len(self.points) < 2 or probabilities[0] != 0 or probabilities[-1] != 1:
            raise ConfigError("quantiles: the first probability must be 0 and the last 1")
        if (
            probabilities != sorted(set(probabilities))
            or values != sorted(values)
            or values[0] <= 0
        ):
            raise ConfigError("quantiles: probabilities must increase, values be positive and rise")

    def at(self, probability: float) -> float:
        index = min(bisect_right(self.points, (probability, math.inf)), len(self.points) - 1)
        (p0, v0), (p1, v1) = self.points[index - 1], self.points[index]
        share = (probability - p0) / (p1 - p0)
        return math.exp(math.log(v0) + share * (math.log(v1) - math.log(v0)))

    @property
    def mean(self) -> float:
        """The exact mean of what :meth:`sample` draws."""
        total = 0.0
        for (p0, v0), (p1, v1) in zip(self.points, self.points[1:], strict=False):
            spread = math.log(v1 / v0)
            total += (p1 - p0) * (v0 if spread == 0 else (v1 - v0) / spread)
        return total

    def sample(self, rng: Random) -> float:
        return self.at(rng.random())

    def count(self, rng: Random) -> int:
        """The sample as a whole number of at least 1."""
        return max(1, round(self.sample(rng)))
