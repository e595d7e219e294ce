"""When does an idle program come back? Learned from the gaps between the calls of its kind.

A gap begins when a program's last active call ends and is over when its next one arrives (a tool
ran, a person thought) or when the program is: it said so, or its lease ran out. Times are seconds
that the caller measured.

    gaps = ToolGaps()
    gaps.returned(0.8)                      # the next call came after 0.8 s
    gaps.ended()                            # there was no other
    gaps.return_within(30.0, idle_s=5.0)    # chance: quiet for 5 s, back in the next 30?
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from autellix_sgl.core.programs.histogram import GeometricHistogram

# 10 ms to a day and more, each bin 1.6 times as far as the one before.
FIRST_S, GROWTH, BINS = 0.01, 1.6, 36
# Gaps that count: some hours of a busy kind.
MEMORY = 1000.0
# What is assumed before anything is seen, worth this many gaps: most programs go on, soon or late.
PRIOR_GAPS = 2.0
PRIOR_RETURN = 0.75


class ToolGaps:
    """The gaps of one kind: a decaying histogram whose last bin is for calls that never came."""

    __slots__ = ("_gaps",)

    def __init__(self) -> None:
        self._gaps = GeometricHistogram(first=FIRST_S, growth=GROWTH, bins=BINS, memory=MEMORY)

    def returned(self, gap_s: float) -> None:
        """A program's next call arrived *gap_s* after it had gone idle."""
        self._gaps.add(min(gap_s, self._gaps.edges[-1]))

    def ended(self) -> None:
        """A program made no further call: it said so, lapsed or was dropped."""
        self._gaps.add(math.inf)

    @property
    def seen(self) -> float:
        """How many gaps are remembered, the old ones counting less."""
        return self._gaps.total

    @property
    def return_chance(self) -> float:
        """The chance that a program that has just gone idle makes another call, 0 to 1."""
        *gaps, never = self._gaps.counts()
        returns = sum(gaps) + PRIOR_GAPS * PRIOR_RETURN
        return returns / (returns + never + PRIOR_GAPS * (1.0 - PRIOR_RETURN))

    def return_within(self, within_s: float, *, idle_s: float = 0.0) -> float:
        """The chance of a call in the next *within_s*, of a program that has been idle *idle_s*.

        Falls with the time that has passed in vain, unless long gaps are what is usual.
        """
        chance = self.return_chance
        before = self._share(idle_s)
        comes = chance * (self._share(idle_s + within_s) - before)
        return comes / (1.0 - chance * before)

    def _share(self, gap_s: float) -> float:
        """The share of returns that took at most *gap_s*; even within a bin."""
        # Of the assumed gaps, half are over by a second, two thirds by two, and so on.
        returns = PRIOR_GAPS * PRIOR_RETURN
        below = returns * gap_s / (gap_s + 1.0)
        for start, end, count in self._returns():
            returns += count
            if gap_s > start:
                below += count * min(1.0, (gap_s - start) / (end - start))
        return below / returns

    def _returns(self) -> Iterator[tuple[float, float, float]]:
        """The bins of gaps that ended in a call: from, to, how many."""
        edges = (0.0, *self._gaps.edges)
        return zip(edges, edges[1:], self._gaps.counts(), strict=False)
