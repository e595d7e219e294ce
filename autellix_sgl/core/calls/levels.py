"""The multi-level queue's shape: which level a service value falls in, and each level's quantum."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from autellix_sgl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Levels:
    """K levels over attained service (paper section 4.2, Algorithm 1).

    ``boundaries_ms`` has K-1 increasing entries: level i covers [boundaries[i-1], boundaries[i]).
    ``quanta_ms`` has K positive entries; the last level's is infinite, since there is no level
    below it to move to. Levels count from 0, the best.
    """

    boundaries_ms: tuple[float, ...]
    quanta_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.quanta_ms) != len(self.boundaries_ms) + 1:
            raise ConfigError(
                f"levels: {len(self.boundaries_ms)} boundaries need "
                f"{len(self.boundaries_ms) + 1} quanta, got {len(self.quanta_ms)}"
            )
        edges = (0.0, *self.boundaries_ms)
        if any(b <= a for a, b in pairwise(edges)):
            raise ConfigError(f"levels: boundaries must be positive and increase: {edges[1:]}")
        if any(q <= 0 for q in self.quanta_ms):
            raise ConfigError(f"levels: quanta must be positive: {self.quanta_ms}")

    @classmethod
    def geometric(cls, count: int, first_quantum_ms: float, growth: float) -> Levels:
        """Quanta ``first, first*growth, ...``; each boundary is the sum of the quanta above it.

        So a call that runs alone crosses a boundary exactly when its quantum ends.
        """
        if count < 1:
            raise ConfigError(f"levels: need at least 1, got {count}")
        if not first_quantum_ms > 0:
            raise ConfigError(f"levels: the first quantum must be positive, got {first_quantum_ms}")
        if growth < 1:
            raise ConfigError(f"levels: quantum growth must be at least 1, got {growth}")
        quanta: list[float] = [first_quantum_ms * growth**i for i in range(count - 1)]
        boundaries: list[float] = []
        total = 0.0
        for quantum in quanta:
            total += quantum
            boundaries.append(total)
        return cls(tuple(boundaries), (*quanta, math.inf))

    @classmethod
    def single(cls) -> Levels:
        """One level without a quantum: arrival order."""
        return cls((), (math.inf,))

    @property
    def count(self) -> int:
        return len(self.quanta_ms)

    def level_of(self, service_ms: float) -> int:
        """The level whose range covers *service_ms*."""
        return bisect_right(self.boundaries_ms, service_ms)

    def describe(self) -> Sequence[dict[str, float | None]]:
        """One JSON-ready row a level: from, to (None: no end) and quantum (None: no end), in ms."""
        edges = (0.0, *self.boundaries_ms, None)
        return [
            {"from_ms": lo, "to_ms": hi, "quantum_ms": None if math.isinf(q) else q}
            for (lo, hi), q in zip(pairwise(edges), self.quanta_ms, strict=True)
        ]
