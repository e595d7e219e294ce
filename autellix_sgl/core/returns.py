"""The chance that an idle program is back soon, looked up instead of computed.

Eviction asks it of every context that could go, so it must cost next to nothing: the chances are
tabled by how long a program has been idle, and the table is made again now and then.
"""

from __future__ import annotations

from bisect import bisect_right

from autellix_sgl.core.gaps import BINS, FIRST_S, GROWTH, ToolGaps

EDGES_MS = tuple(1e3 * FIRST_S * GROWTH**number for number in range(BINS - 1))
# Gaps between two makings of the table.
REFRESH = 64


class Returns:
    """What has been learned of the gaps between a program's calls. ``within_ms``: what soon is."""

    def __init__(self, within_ms: float) -> None:
        self.within_ms = within_ms
        self._gaps = ToolGaps()
        self._chances: list[float] = []
        self._news = 0

    def returned(self, idle_ms: float) -> None:
        """A program's next call came *idle_ms* after its last had left."""
        self._gaps.returned(idle_ms / 1e3)
        self._learn()

    def ended(self) -> None:
        """A program ended, and no further call had come."""
        self._gaps.ended()
        self._learn()

    def use_horizon(self, within_ms: float) -> None:
        self.within_ms = within_ms
        self._chances = []

    def chance(self, idle_ms: float) -> float:
        """That a program that has been idle *idle_ms* is back in the next ``within_ms``, 0 to 1."""
        if not self._chances:
            self._chances = [
                self._gaps.return_within(self.within_ms / 1e3, idle_s=edge / 1e3)
                for edge in (0.0, *EDGES_MS)
            ]
        return self._chances[bisect_right(EDGES_MS, idle_ms)]

    def _learn(self) -> None:
        self._news += 1
        if self._news >= REFRESH:
            self._news = 0
            self._chances = []
