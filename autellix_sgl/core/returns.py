"""When an idle program will be back, looked up instead of computed.

Eviction asks it of every context that could go, so it must cost next to nothing: the answers are
tabled by how long a program has been idle, and the tables are made again now and then.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from autellix_sgl.core.gaps import BINS, FIRST_S, GROWTH, ToolGaps

EDGES_MS = (0.0, *(1e3 * FIRST_S * GROWTH**number for number in range(BINS - 1)))
# Gaps between two makings of the tables.
REFRESH = 64


class Returns:
    """What has been learned of the gaps between programs' calls. *soon_ms*: what soon is.

    The tables change with what happened, never because they were asked, so that whoever hears of
    the same events gets the same answers.
    """

    def __init__(self, soon_ms: float) -> None:
        self._soon_ms = soon_ms
        self._gaps = ToolGaps()
        self._news = 0
        self._tabulate()

    def returned(self, idle_ms: float) -> None:
        """A program's next call came *idle_ms* after its last had left."""
        self._gaps.returned(idle_ms / 1e3)
        self._learned()

    def ended(self) -> None:
        """A program ended, and no further call had come."""
        self._gaps.ended()
        self._learned()

    def use_horizon(self, soon_ms: float) -> None:
        """Let soon be within *soon_ms* from now on."""
        self._soon_ms = soon_ms
        self._tabulate()

    def soon(self, idle_ms: float) -> float:
        """The chance that a program that has been idle *idle_ms* is back soon, 0 to 1."""
        return self._soon[bisect_right(EDGES_MS, idle_ms) - 1]

    def until_ms(self, idle_ms: float) -> float:
        """Time until it is back, per chance that it is: for the span ahead where that is least.

        The reverse of the most returns a millisecond that keeping its KV for a while can give. The
        mean would not do: half of the tools answer at once, and a few people after an hour.
        """
        return self._until[bisect_right(EDGES_MS, idle_ms) - 1]

    def _learned(self) -> None:
        self._news += 1
        if self._news == REFRESH:
            self._tabulate()

    def _tabulate(self) -> None:
        self._news = 0
        back = [self._gaps.return_within(edge / 1e3) for edge in EDGES_MS]
        self._until = [_least_until(back, start) for start in range(BINS)]
        self._soon = [
            self._gaps.return_within(self._soon_ms / 1e3, idle_s=edge / 1e3) for edge in EDGES_MS
        ]


def _least_until(back: Sequence[float], start: int) -> float:
    """The least time per chance after idling until edge *start*. *back*: the chances by each."""
    spans = (
        (EDGES_MS[end] - EDGES_MS[start]) * (1.0 - back[start]) / (back[end] - back[start])
        for end in range(start + 1, BINS)
        if back[end] > back[start]
    )
    return min(spans, default=math.inf)
