"""The Gittins index of a job whose length is known as a histogram only.

Of jobs that may be stopped at any moment, the one with the highest index

    G(a) = sup over D of  P(a < S <= a + D | S > a) / E[min(S - a, D) | S > a]

goes first if the mean response time is to be least; S is a job's length, a the service it has had
(Gittins 1989; Aalto, Ayesta, Righter 2009). Here a *rank* is 1 / G: milliseconds, smaller first.
If the hazard falls with a, as in a heavy tail, young jobs rank first, which is least attained
service; if it grows, a job that has begun is finished before another begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Lengths that are assumed beside those that were seen. With few seen, long lengths are not among
# them yet; taking what is unseen for endless would put long jobs last, where they are never seen.
ASSUMED = 3.0


def ranks_ms(edges_ms: Sequence[float], counts: Sequence[float]) -> tuple[float, ...]:
    """The rank of a job in each bin, by how many jobs ended in each; at least one must have.

    ``edges_ms`` are the bins' ends, ascending; ``counts`` has one more for the bin without an end.
    Beside the counts, each bin is given a few jobs that end at the constant rate of the mean
    length, which alone would rank all jobs alike: first come, first served.
    """
    widths, middles = _shape(edges_ms)
    mean_ms = sum(c * m for c, m in zip(counts, middles, strict=True)) / sum(counts)
    ends, outlives = _lifetimes(counts, [1 - math.exp(-width / mean_ms) for width in widths])
    last = max(number for number, count in enumerate(counts) if count)
    ranks = [_best_ms(first, widths, ends, outlives) for first in range(last + 1)]
    return (*ranks, *[mean_ms] * (len(counts) - len(ranks)))


def _shape(edges_ms: Sequence[float]) -> tuple[list[float], list[float]]:
    """The bins' widths and middles; the last is taken for as wide as the one before."""
    starts = (0.0, *edges_ms)
    widths = [end - start for start, end in zip(starts, edges_ms, strict=False)]
    widths.append(widths[-1])
    return widths, [start + width / 2 for start, width in zip(starts, widths, strict=True)]


def _lifetimes(
    counts: Sequence[float], assumed_hazards: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Each bin's share of all jobs that end in it, and that outlive it."""
    at_risk = sum(counts)
    alive = 1.0
    ends, outlives = [], []
    for count, hazard in zip(counts, assumed_hazards, strict=True):
        share = alive * min(1.0, (count + ASSUMED * hazard) / (max(at_risk, 0.0) + ASSUMED))
        alive -= share
        at_risk -= count
        ends.append(share)
        outlives.append(alive)
    return ends, outlives


def _best_ms(
    first: int, widths: Sequence[float], ends: Sequence[float], outlives: Sequence[float]
) -> float:
    """The least cost of an end, over how many bins the job is run for from bin *first* on."""
    best_ms = math.inf
    ended = cost_ms = 0.0
    for number in range(first, len(ends)):
        ended += ends[number]
        # Those that end in a bin do so in its middle, on average.
        cost_ms += widths[number] * (ends[number] / 2 + outlives[number])
        if ended * best_ms > cost_ms:
            best_ms = cost_ms / ended
    return best_ms
