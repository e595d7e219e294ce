"""A histogram over geometric bins that forgets: what was seen lately weighs more than what was.

Each observation makes all earlier ones weigh a little less, so it follows a workload that changes
and takes the same memory for ever. Nothing is drawn and no clock is read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from autellix_sgl.errors import ConfigError

# Beyond this the weights are scaled back; a power of two, so that scaling rounds nothing.
LARGEST_WEIGHT = 2.0**40


class GeometricHistogram:
    """Weights over bins of values > 0: bin 0 up to ``first``, each next ``growth`` times as far.

    The last bin is open. ``memory`` is how many observations count: an observation's weight
    falls to 1/e after that many more. ``weights`` are relative to each other; see :meth:`counts`.
    """

    __slots__ = ("_factor", "_one", "edges", "memory", "weights")

    def __init__(self, *, first: float, growth: float, bins: int, memory: float) -> None:
        if not first > 0 or not growth > 1 or bins < 2 or not memory >= 1:
            raise ConfigError(
                "histogram: needs first > 0, growth > 1, bins >= 2 and memory >= 1, got "
                f"{first:g}, {growth:g}, {bins}, {memory:g}"
            )
        self.edges = tuple(first * growth**number for number in range(bins - 1))
        self.memory = memory
        self.weights = [0.0] * bins
        self._one = 1.0
        self._factor = 1.0 + 1.0 / memory

    def bin_of(self, value: float) -> int:
        """The bin that holds *value*: an edge belongs to the bin that it ends."""
        return bisect_left(self.edges, value)

    def bounds(self, number: int) -> tuple[float, float | None]:
        """From where to where a bin reaches; None: it has no end."""
        start = self.edges[number - 1] if number else 0.0
        return start, self.edges[number] if number < len(self.edges) else None

    def add(self, value: float, count: float = 1.0) -> None:
        """One more observation, that counts *count* times."""
        self._one *= self._factor
        self.weights[self.bin_of(value)] += count * self._one
        if self._one > LARGEST_WEIGHT:
            self.weights = [weight / LARGEST_WEIGHT for weight in self.weights]
            self._one /= LARGEST_WEIGHT

    def counts(self) -> Sequence[float]:
        """Each bin's weight in observations: one made just now counts 1."""
        return [weight / self._one for weight in self.weights]

    @property
    def total(self) -> float:
        """The weight of all bins, in observations; at most ``memory`` + 1 if each counts 1."""
        return sum(self.weights) / self._one
