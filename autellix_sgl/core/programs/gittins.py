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

# Jobs that are assumed beside those that were seen. Few of the long have ended while most are still
# on their way; taking what is unseen for endless would put them last, where they are never seen.
ASSUMED = 3.0


def ranks_ms(
    edges_ms: Sequence[float], ended: Sequence[float], alive: Sequence[float]
) -> tuple[float, ...]:
    """The rank of a job in each bin, by how many jobs ended in each, and how many are in it now.

    ``edges_ms`` are the bins' ends, ascending; the counts have one more, for the bin without an
    end, and there must be a job. Jobs that have not ended count for the bins they have outlived
    (Kaplan and Meier 1958). Beside them all, each bin is given a few jobs that end at a constant
    rate, the number of ends over all service seen; alone, these would rank all jobs alike, which is
    first come, first served.
    """
    widths, middles = _shape(edges_ms)
    seen_ms = sum((e + a) * m for e, a, m in zip(ended, alive, middles, strict=True))
    mean_ms = seen_ms / max(1.0, sum(ended))
    assumed = [1 - math.exp(-width / mean_ms) for width in widths]
    ends, outlives = _lifetimes(ended, alive, assumed)
    last = max(number for number, jobs in enumerate(zip(ended, alive, strict=True)) if any(jobs))
    ranks = [_best_ms(first, widths, ends, outlives) for first in range(last + 1)]
    return (*ranks, *[mean_ms] * (len(ended) - len(ranks)))


def _shape(edges_ms: Sequence[float]) -> tuple[list[float], list[float]]:
    """The bins' widths and middles; the last is taken for as wide as the one before."""
    starts = (0.0, *edges_ms)
    widths = [end - start for start, end in zip(starts, edges_ms, strict=False)]
    widths.append(widths[-1])
    return widths, [start + width / 2 for start, width in zip(starts, widths, strict=True)]


def _lifetimes(
    ended: Sequence[float], alive: Sequence[float], assumed: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Each bin's share of all jobs that end in it, and that outlive it."""
    at_risk = sum(ended) + sum(alive)
    left = 1.0
    ends, outlives = [], []
    for end, stay, hazard in zip(ended, alive, assumed, strict=True):
        # Those that are in it have outlived half of it, on average.
        exposed = max(end, at_risk - stay / 2)
        share = left * (end + ASSUMED * hazard) / (exposed + ASSUMED)
        left -= share
        at_risk -= end + stay
        ends.append(share)
        outlives.append(left)
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
