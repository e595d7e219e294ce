"""When an idle program will be back, looked up instead of computed.

Eviction asks it of every context that could go, so it must cost next to nothing: the answers are
tabled by how long a program has been idle, and the tables are made again now and then.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence

from autellix_sgl.core.memory.gaps import BINS, FIRST_S, GROWTH, ToolGaps

EDGES_MS = (0.0, *(1e3 * FIRST_S * GROWTH**number for number in range(BINS - 1)))
# Gaps between two makings of the tables.
REFRESH = 64
# Gaps of its own before a kind stands for itself instead of for what all kinds do.
ENOUGH_GAPS = 20.0
MAX_KINDS = 1024


class Returns:
    """What has been learned of the gaps between programs' calls, by kind. *soon_ms*: what soon is.

    The tables change with what happened, never because they were asked, so that whoever hears of
    the same events gets the same answers. Kept are the kinds that were heard of last.
    """

    def __init__(self, soon_ms: float) -> None:
        self._soon_ms = soon_ms
        self._all = _Tables(soon_ms)
        self._kinds: OrderedDict[str, _Tables] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kinds)

    def returned(self, kind: str, idle_ms: float) -> None:
        """A program's next call came *idle_ms* after its last had left."""
        for tables in (self._all, self._touch(kind)):
            tables.gaps.returned(idle_ms / 1e3)
            tables.learned()

    def ended(self, kind: str) -> None:
        """A program ended, and no further call had come."""
        for tables in (self._all, self._touch(kind)):
            tables.gaps.ended()
            tables.learned()

    def use_horizon(self, soon_ms: float) -> None:
        """Let soon be within *soon_ms* from now on."""
        self._soon_ms = soon_ms
        for tables in (self._all, *self._kinds.values()):
            tables.make(soon_ms)

    def soon(self, kind: str, idle_ms: float) -> float:
        """The chance that a program that has been idle *idle_ms* is back soon, 0 to 1."""
        return self._of(kind).soon[bisect_right(EDGES_MS, idle_ms) - 1]

    def until_ms(self, kind: str, idle_ms: float) -> float:
        """Time until it is back, per chance that it is: for the span ahead where that is least.

        The reverse of the most returns a millisecond that keeping its KV for a while can give. The
        mean would not do: half of the tools answer at once, and a few people after an hour.
        """
        return self._of(kind).until[bisect_right(EDGES_MS, idle_ms) - 1]

    def _of(self, kind: str) -> _Tables:
        own = self._kinds.get(kind)
        return own if own is not None and own.enough else self._all

    def _touch(self, kind: str) -> _Tables:
        if kind not in self._kinds:
            self._kinds[kind] = _Tables(self._soon_ms)
            if len(self._kinds) > MAX_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        return self._kinds[kind]


class _Tables:
    """The answers for one kind, by how long a program has been idle. ``enough``: it is known."""

    def __init__(self, soon_ms: float) -> None:
        self.gaps = ToolGaps()
        self.enough = False
        self._news = 0
        self.make(soon_ms)

    def learned(self) -> None:
        """Something was; made again now and then."""
        self._news += 1
        if self._news == REFRESH or self._becomes_known():
            self.make(self._soon_ms)

    def _becomes_known(self) -> bool:
        before, self.enough = self.enough, self.enough or self.gaps.seen >= ENOUGH_GAPS
        return self.enough and not before

    def make(self, soon_ms: float) -> None:
        """Make them anew, from what is known now."""
        self._news = 0
        self._soon_ms = soon_ms
        back = [self.gaps.return_within(edge / 1e3) for edge in EDGES_MS]
        self.until = [_least_until(back, start) for start in range(BINS)]
        self.soon = [self.gaps.return_within(soon_ms / 1e3, idle_s=edge / 1e3) for edge in EDGES_MS]


def _least_until(back: Sequence[float], start: int) -> float:
    """The least time per chance after idling until edge *start*. *back*: the chances by each."""
    spans = (
        (EDGES_MS[end] - EDGES_MS[start]) * (1.0 - back[start]) / (back[end] - back[start])
        for end in range(start + 1, BINS)
        if back[end] > back[start]
    )
    return min(spans, default=math.inf)
